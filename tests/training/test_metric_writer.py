import json
import logging
import os
import pathlib
import pty
import shutil
import subprocess
import sys
import termios
import types

import numpy as np
import PIL.Image
import pytest
from tensorboardX.proto import event_pb2

from megjax.training import metric_writer

ROOT = pathlib.Path(__file__).resolve().parents[2]


def written(workdir, first, steps, num_steps=100):
    with metric_writer.opened(workdir, first, num_steps) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 2})


def events(workdir):
    """(step, tag, number) of every scalar in the event files, in order of time."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            at += 8 + 4 + size + 4
            found += [(event.step, v.tag, v) for v in event.summary.value]
    return found


def test_lines_are_steps_and_scalars(tmp_path):
    written(tmp_path, 0, [10, 20])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 10, "loss": 5.0}\n{"step": 20, "loss": 10.0}\n'
    assert metric_writer.read(tmp_path) == [
        json.loads(line) for line in text.splitlines()
    ]
    assert metric_writer.read(tmp_path / "nowhere") == []


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    written(tmp_path, 0, [10, 20, 30])
    written(tmp_path, 20, [30, 40])
    assert [line["step"] for line in metric_writer.read(tmp_path)] == [10, 20, 30, 40]
    written(tmp_path, 0, [10])
    assert [line["step"] for line in metric_writer.read(tmp_path)] == [10]


@pytest.mark.parametrize(
    "torn", ['{"step": 30, "lo', "7", "null", "\0\0", '{"a": 1}', "\xff"]
)
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    written(tmp_path, 0, [10, 20])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn.encode("latin-1"))
    assert [line["step"] for line in metric_writer.read(tmp_path)] == [10, 20]
    written(tmp_path, 20, [30])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with metric_writer.opened(tmp_path, 0, 1) as writer:
        writer.write(1, {"a": float("nan"), "b": float("-inf"), "c": np.float32(2)})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "a": null, "b": null, "c": 2.0}\n'


def test_tensorboard_has_scalars_and_pictures_and_purges(tmp_path):
    with metric_writer.opened(tmp_path, 0, 100) as writer:
        writer.write(10, {"loss": 0.5})
        writer.write_pictures(10, {"grid": np.zeros((4, 5, 3), np.uint8)})
    first, second = events(tmp_path)
    assert first[:2] == (10, "loss") and first[2].simple_value == 0.5
    assert second[:2] == (10, "grid")
    assert (second[2].image.height, second[2].image.width) == (4, 5)
    assert second[2].image.encoded_image_string.startswith(b"\x89PNG")


def test_tensorboard_forgets_what_comes_again(tmp_path):
    written(tmp_path, 20, [30])
    (path,) = (tmp_path / "tensorboard").iterdir()
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    event = event_pb2.Event(step=21, session_log=start)
    assert event.SerializeToString() in path.read_bytes()


def test_numbers_keep_every_digit(tmp_path):
    with metric_writer.opened(tmp_path, 0, 1) as writer:
        writer.write(1, {"third": 1 / 3, "single": np.float32(0.1)})
    (line,) = metric_writer.read(tmp_path)
    assert line == {"step": 1, "third": 1 / 3, "single": float(np.float32(0.1))}


def full_disk(*args, **kwargs):
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("part", ["lines", "events", "pictures"])
def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch, part):
    with (
        pytest.raises(OSError) as error,
        metric_writer.opened(tmp_path, 0, 9) as writer,
    ):
        if part == "lines":
            lines = writer.lines
            writer.lines = types.SimpleNamespace(
                write=full_disk, close=lines.close, fileno=lines.fileno
            )
        elif part == "events":
            monkeypatch.setattr(writer.events, "scalars", full_disk)
        else:
            monkeypatch.setattr(metric_writer.plotting, "write_png", full_disk)
        writer.write(1, {"loss": 1.0})
        writer.write_pictures(1, {"grid": np.zeros((4, 5, 3), np.uint8)})
    assert str(error.value) == (
        f"writing metrics to {tmp_path} failed (No space left on device): free or "
        "repair the disk, then run the command again; checkpoints there are kept"
    )


def test_a_disk_that_fills_up_ends_the_run_and_leaves_whole_lines(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        with pytest.raises(OSError, match="writing metrics to .* .No space left"):
            written(disk, 0, range(1, 9999))
        steps = [line["step"] for line in metric_writer.read(disk)]
        assert len(steps) > 100 and steps == list(range(1, len(steps) + 1))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("moved", [False, True])
def test_a_directory_that_vanishes_is_noticed(tmp_path, moved):
    run = tmp_path / "run"
    run.mkdir()
    with (
        pytest.raises(OSError, match="metrics.jsonl has been moved or deleted"),
        metric_writer.opened(run, 0, 100) as writer,
    ):
        writer.write(1, {"loss": 1.0})
        if moved:
            run.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(run)
        run.mkdir()
        (run / "metrics.jsonl").touch()
        writer.write(2, {"loss": 1.0})


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "pictures"])
def test_something_else_in_the_place_of_an_output_is_told(tmp_path, name):
    if name == "metrics.jsonl":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    with (
        pytest.raises(OSError, match="writing metrics to .* failed"),
        metric_writer.opened(tmp_path, 0, 9) as writer,
    ):
        writer.write_pictures(1, {"grid": np.zeros((4, 5, 3), np.uint8)})


def test_large_frameworks_are_not_imported():
    program = (
        "import sys; from megjax.training import checkpoint, metric_writer\n"
        "print({'torch', 'tensorflow', 'numpy'} & set(sys.modules))"
    )
    printed = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT)
    assert printed == b"{'numpy'}\n"


def test_pictures_are_files(tmp_path):
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    with metric_writer.opened(tmp_path, 0, 100) as writer:
        writer.write_pictures(10, {"grid": picture})
        writer.write_pictures(10, {"grid": picture})
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["grid_0000010.png"]
    with PIL.Image.open(tmp_path / "pictures/grid_0000010.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_batch_log_gets_lines(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "megjax")
    with metric_writer.opened(tmp_path, 5, 100) as writer:
        writer.progress(10, {"energy_gap": 0.123456, "other": 1.0})
        writer.progress(40, {"iterations_per_second": 0.5})
    assert caplog.messages == [
        "step 10/100 energy_gap=0.1235",
        "step 40/100 iterations_per_second=0.5 left=02:00",
    ]
    assert capsys.readouterr().err == ""


PROGRAM = """
import logging, sys
from megjax.training import metric_writer
logging.getLogger("megjax").addHandler(logging.StreamHandler())
logging.getLogger("megjax").setLevel("INFO")
with metric_writer.opened(sys.argv[1], 0, 100) as writer:
    writer.progress(50, {"information": 0.25})
    logging.getLogger("megjax.training.loop").info("a line")
    writer.progress(100, {"information": 0.5})
"""


def test_a_terminal_gets_a_bar_with_the_log_above(tmp_path):
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 100))
    subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path], cwd=ROOT, stderr=child, check=True
    )
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert "50/100" in shown and "100/100" in shown and "information=0.5" in shown
    assert "\ra line" in shown.replace("\x1b[A", "") and "step 50" not in shown
