import contextlib
import errno
import functools
import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from megjax import distributed
from megjax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALUES = {"batch_size": 8, "train": {"seed": 0, "num_steps": 20}, "sizes": (1, 2)}


# Reads that Orbax gives up at the first damaged file end on their own.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Ends those reads while their warnings are still ignored."""
    yield
    gc.collect()


@struct.dataclass
class Pair:
    params: object
    average: object = None


@functools.cache
def init(devices):
    """The compiled key -> a state with every kind of leaf, on some devices."""
    mesh = distributed.data_mesh(jax.devices()[:devices])

    def build(key):
        params = {
            "kernel": jax.random.normal(key, (64, 33)),
            "low": jax.random.normal(key, (8,), jnp.bfloat16),
        }
        return {
            "player": Pair(params),
            "optimizer": optax.adam(1e-3).init(params),
            "count": jnp.int32(7),
            "flags": (jnp.array([True, False]), jnp.zeros((2, 1), jnp.uint8)),
        }

    return jax.jit(build, out_shardings=distributed.replicated(mesh))


def state_of(seed, devices=1):
    """(state, its form), other bits for other seeds."""
    key = jax.random.key(seed)
    return init(devices)(key), init(devices).eval_shape(key)


def saved(workdir, steps, keep=3):
    with checkpoint.opened(workdir, keep=keep) as checkpoints:
        for step in steps:
            checkpoint.save(checkpoints, step, state_of(step)[0])


def restored(workdir, like=None, keep=3):
    """(step, state), or None."""
    like = state_of(0)[1] if like is None else like
    with checkpoint.opened(workdir, keep=keep) as checkpoints:
        found = checkpoint.restore(checkpoints, like)
        return found and found[:2]


def digest_of(step):
    return checkpoint.state_digest(state_of(step)[0])


def record(name, values):
    return checkpoint.Record(name, "meg.images", (8, 8, 1), values)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A run with steps 10 and 20, never to be changed."""
    workdir = tmp_path_factory.mktemp("healthy")
    checkpoint.claim(workdir, record("a", VALUES))
    saved(workdir, [10, 20])
    return workdir


@pytest.fixture
def run(healthy, tmp_path):
    """A copy of that run."""
    return pathlib.Path(shutil.copytree(healthy, tmp_path / "run"))


def files(run, step):
    found = sorted(p for p in (run / f"checkpoints/{step}").rglob("*") if p.is_file())
    assert len(found) > 8
    return found


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


@pytest.mark.parametrize("devices", [1, 8])
def test_restores_the_same_bits_whatever_they_were_on(tmp_path, devices):
    state, like = state_of(20, devices)
    with checkpoint.opened(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, 20, state)
    step, found = restored(tmp_path, like)
    assert step == 20
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype and isinstance(a, np.ndarray)
        assert a.tobytes() == np.asarray(b).tobytes()


def test_the_count_of_returns_comes_back_and_damage_to_it_is_seen(tmp_path, caplog):
    state, like = state_of(20)
    with checkpoint.opened(tmp_path, keep=2) as checkpoints:
        checkpoint.save(checkpoints, 10, state)
        checkpoint.save(checkpoints, 20, state, returns=2)
        checkpoint.finished(checkpoints)
        assert checkpoint.restore(checkpoints, like).returns == 2
        record = tmp_path / "checkpoints/20/digests/metadata"
        changed = record.read_text().replace('"returns": 2', '"returns": 3')
        assert changed != record.read_text()
        record.write_text(changed)
        found = checkpoint.restore(checkpoints, like)
        assert (found.step, found.returns) == (10, 0)
    assert "digest of the digests" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_state_that_is_not_finite_is_not_written(run, value, dtype):
    state = {"w": jnp.array([1, value], dtype), "count": jnp.int32(3)}
    with (
        checkpoint.opened(run, keep=3) as checkpoints,
        pytest.raises(FloatingPointError, match="'w'. not finite after iteration 30"),
    ):
        checkpoint.save(checkpoints, 30, state)
    assert restored(run)[0] == 20


def test_digests_by_hand_tell_dtype_shape_and_bits():
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    zero = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    found = checkpoint.digests({"a": np.zeros((0, 2)), "b": [np.uint8(0)], "c": None})
    assert found == {"['a']": f"float64[0,2] {nothing}", "['b'][0]": f"uint8[] {zero}"}
    states = [np.zeros(2), np.zeros((2, 1)), np.zeros(2, int), np.array([0.0, -0.0])]
    assert len({checkpoint.state_digest(state) for state in states}) == 4


def test_a_run_without_checkpoints_restores_none(tmp_path):
    assert restored(tmp_path / "deep/run") is None
    with checkpoint.opened(tmp_path / "none", keep=1, writable=False) as checkpoints:
        assert checkpoint.restore(checkpoints, state_of(0)[1]) is None
    assert not (tmp_path / "none").exists()


def test_the_newest_are_kept(tmp_path):
    saved(tmp_path, [1, 2, 3, 4], keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda like: like | {"extra": like["count"]},
            r"\['extra'\] is absent there and int32\[\] here",
        ),
        (
            lambda like: {k: v for k, v in like.items() if k != "count"},
            r"\['count'\] is int32\[\] there and absent here",
        ),
        (
            lambda like: like | {"count": jax.ShapeDtypeStruct((2,), jnp.int32)},
            r"\['count'\] is int32\[\] there and int32\[2\] here",
        ),
        (
            lambda like: like | {"count": jax.ShapeDtypeStruct((), jnp.float32)},
            r"\['count'\] is int32\[\] there and float32\[\] here",
        ),
    ],
)
def test_a_state_of_another_model_is_refused(healthy, change, message):
    with pytest.raises(ValueError, match=message) as error:
        restored(healthy, change(state_of(0)[1]))
    assert "checkpoint 20" in str(error.value) and "\n" not in str(error.value)


def test_a_flipped_bit_in_any_file_is_seen_or_harmless(healthy, tmp_path, caplog):
    expected, like = {10: digest_of(10), 20: digest_of(20)}, state_of(0)[1]
    rng, fell_back = random.Random(0), 0
    targets = [path.relative_to(healthy) for path in files(healthy, 20)]
    data = [path for path in targets if path.parent.name == "d"]
    sizes = [(healthy / path).stat().st_size for path in data]
    more = rng.choices(data, sizes, k=30)
    for number, target in enumerate(targets + more):
        run = pathlib.Path(shutil.copytree(healthy, tmp_path / str(number)))
        flip(run / target, rng.randrange(8 * (run / target).stat().st_size))
        caplog.clear()
        step, state = restored(run, like)
        assert checkpoint.state_digest(state) == expected[step], target
        assert (step == 10) == ("checkpoint 20 in" in caplog.text), target
        fell_back += step == 10
    assert fell_back > 20


def test_damage_that_only_the_digests_see_is_seen(run, caplog):
    """The same bits as a file system would deliver them with valid checksums."""
    with checkpoint.opened(run, keep=3) as checkpoints:
        original = checkpoints.manager.restore

        def damaged(step, args):
            found = original(step, args=args)
            if step == 20 and "state" in args:
                found.state["count"] += 1
            return found

        checkpoints.manager.restore = damaged
        step = checkpoint.restore(checkpoints, state_of(0)[1]).step
    assert step == 10 and "digest of ['count'] does not match" in caplog.text


def test_a_changed_record_of_digests_is_damage_not_another_model(run, caplog):
    path = run / "checkpoints/20/digests/metadata"
    path.write_text(path.read_text().replace("float32[64,33]", "float32[64,34]"))
    assert restored(run)[0] == 10
    assert "digest of the digests" in caplog.text


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete"])
def test_truncated_and_deleted_files_fall_back(healthy, tmp_path, damage):
    expected, like = {10: digest_of(10), 20: digest_of(20)}, state_of(0)[1]
    for number, path in enumerate(files(healthy, 20)):
        run = pathlib.Path(shutil.copytree(healthy, tmp_path / str(number)))
        path = run / path.relative_to(healthy)
        if damage == "delete":
            path.unlink()
        else:
            size = 0 if damage == "empty" else path.stat().st_size // 2
            path.write_bytes(path.read_bytes()[:size])
        step, state = restored(run, like)
        assert checkpoint.state_digest(state) == expected[step], path


def test_half_written_directories_are_passed_over_and_removed(run):
    half = run / "checkpoints/30.orbax-checkpoint-tmp-5"
    shutil.copytree(run / "checkpoints/20", half)
    with checkpoint.opened(run, keep=3, writable=False) as checkpoints:
        assert checkpoint.restore(checkpoints, state_of(0)[1])[0] == 20
    assert half.exists()
    assert restored(run)[0] == 20
    # Orbax removes it in the background.
    deadline = time.monotonic() + 20
    while half.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not half.exists()


ENDLESS = """
import itertools, sys
import numpy as np
from megjax.training import checkpoint
with checkpoint.opened(sys.argv[1], keep=2) as checkpoints:
    like = {"x": np.zeros(100_000, np.int32)}
    found = checkpoint.restore(checkpoints, like)
    for step in itertools.count(found.step + 1 if found else 1):
        checkpoint.save(checkpoints, step, {"x": like["x"] + step})
        print(step - 1, flush=True)
"""


@pytest.mark.slow
def test_killed_while_saving_loses_nothing_that_was_committed(tmp_path):
    rng, like = random.Random(0), {"x": np.zeros(100_000, np.int32)}
    committed = 0
    for _ in range(4):
        command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            lines = [int(process.stdout.readline()) for _ in range(3)]
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            lines += [int(line) for line in process.stdout]
        assert process.returncode == -signal.SIGKILL
        assert lines[0] >= committed
        step, state = restored(tmp_path, like)
        assert step >= lines[-1] and (np.asarray(state["x"]) == step).all()
        committed = step


def test_nothing_intact_is_told(run):
    for step in (10, 20):
        for path in files(run, step):
            path.write_bytes(b"")
    with pytest.raises(
        ValueError, match="every checkpoint in .* is damaged .*: restore"
    ):
        restored(run)


def test_a_damaged_step_is_replaced_when_training_comes_there_again(run):
    for path in files(run, 20):
        path.write_bytes(b"")
    with checkpoint.opened(run, keep=3) as checkpoints:
        assert checkpoint.restore(checkpoints, state_of(0)[1])[0] == 10
        checkpoint.save(checkpoints, 20, state_of(20)[0])
    step, state = restored(run)
    assert step == 20 and checkpoint.state_digest(state) == digest_of(20)


def test_a_step_before_a_damaged_one_is_saved(run):
    for path in files(run, 20):
        path.write_bytes(b"")
    saved(run, [15], keep=2)
    assert restored(run)[0] == 15
    saved(run, [16], keep=2)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["15", "16"]


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    state, like = state_of(1)
    big = jax.device_put(np.arange(2**21, dtype=np.float32), state["count"].sharding)
    form = jax.ShapeDtypeStruct(big.shape, big.dtype, sharding=big.sharding)
    state, like = state | {"big": big}, like | {"big": form}
    expected = checkpoint.state_digest(state)
    clobber = jax.jit(
        lambda state: jax.tree.map(
            lambda x: x ^ x if x.dtype == bool else x * 0, state
        ),
        donate_argnums=0,
    )
    with checkpoint.opened(tmp_path, keep=2) as checkpoints:
        checkpoint.save(checkpoints, 1, state)
        after = jax.block_until_ready(clobber(state))
    assert not after["big"].any()
    _, found = restored(tmp_path, like)
    assert checkpoint.state_digest(found) == expected


def test_a_full_disk_is_told_in_one_line_and_keeps_what_is_there(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        checkpoint.claim(disk, record("a", VALUES))
        saved(disk, [10])
        start = time.monotonic()
        noise = np.random.RandomState(0).bytes(2**20)
        state = {"big": np.frombuffer(noise, np.uint8)}
        with (
            pytest.raises(
                OSError, match="writing to .* failed .no space left"
            ) as error,
            checkpoint.opened(disk, keep=3) as checkpoints,
        ):
            checkpoint.save(checkpoints, 20, state)
        assert "\n" not in str(error.value) and time.monotonic() - start < 20
        step, state = restored(disk)
        assert step == 10 and checkpoint.state_digest(state) == digest_of(10)
        saved(disk, [20])
        assert restored(disk)[0] == 20
        with contextlib.suppress(OSError):
            (disk / "rest").write_bytes(noise)
        with pytest.raises(OSError, match="writing to .* failed .no space left"):
            checkpoint.claim(disk, record("a", VALUES))
        assert checkpoint.claimed(disk).config == "a"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def full(monkeypatch):
    """A disk that is full as soon as Orbax moves a finished step into its place."""

    def refused(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill():
        monkeypatch.setattr("os.rename", refused)
        monkeypatch.setattr("os.replace", refused)
        monkeypatch.setattr(pathlib.Path, "rename", refused)

    return fill


def test_a_failed_write_is_told_by_the_next(run, full, tmp_path):
    with (
        pytest.raises(OSError, match="no space left"),
        checkpoint.opened(run, keep=3) as checkpoints,
    ):
        full()
        checkpoint.save(checkpoints, 30, state_of(30)[0])
        checkpoint.save(checkpoints, 40, state_of(40)[0])


def test_what_orbax_logs_on_top_is_left_out(run, full, caplog):
    (run / "checkpoints/30").mkdir()
    assert restored(run)[0] == 20
    with (
        pytest.raises(OSError, match="no space left"),
        checkpoint.opened(run, keep=3) as checkpoints,
    ):
        full()
        checkpoint.save(checkpoints, 40, state_of(40)[0])
    assert {record.name for record in caplog.records} == {"megjax.training.checkpoint"}


def test_what_reads_leave_behind_in_threads_is_left_out(run, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    late, other = (
        types.SimpleNamespace(exc_value=RuntimeError(text))
        for text in ("Event loop is closed", "other")
    )
    with checkpoint.opened(run, keep=3):
        sys.unraisablehook(late)
        sys.unraisablehook(other)
    sys.unraisablehook(late)
    assert shown == [other, late]


def test_a_file_in_the_place_of_the_directory_is_told(tmp_path):
    (tmp_path / "checkpoints").touch()
    with (
        pytest.raises(OSError, match="writing to .*/checkpoints failed .*File exists"),
        checkpoint.opened(tmp_path, keep=1),
    ):
        pass


def test_a_failed_write_does_not_hide_the_error_of_the_body(run, full, caplog):
    with (
        pytest.raises(FloatingPointError, match="first"),
        checkpoint.opened(run, keep=3) as checkpoints,
    ):
        full()
        checkpoint.save(checkpoints, 30, state_of(30)[0])
        raise FloatingPointError("first")
    assert "no space left" in caplog.text


def test_a_write_is_finished_when_the_body_raises(run):
    with (
        pytest.raises(KeyboardInterrupt),
        checkpoint.opened(run, keep=3) as checkpoints,
    ):
        checkpoint.save(checkpoints, 30, state_of(30)[0])
        raise KeyboardInterrupt
    assert restored(run)[0] == 30


def test_a_second_process_is_refused(run):
    program = (
        "import sys; from megjax.training import checkpoint\n"
        "with checkpoint.opened(sys.argv[1], keep=3): pass"
    )
    command = [sys.executable, "-c", program, str(run)]
    with checkpoint.opened(run, keep=3):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert f"ValueError: another process trains in {run}" in done.stderr
        with checkpoint.opened(run, keep=3, writable=False) as checkpoints:
            assert checkpoint.restore(checkpoints, state_of(0)[1])[0] == 20
    with checkpoint.opened(run, keep=3):
        pass


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file/below"):
        with (
            pytest.raises(ValueError, match="is no directory: name another"),
            checkpoint.opened(workdir, keep=1),
        ):
            pass


def test_a_config_is_claimed_and_read_back(run):
    checkpoint.claim(run, record("a", VALUES))
    assert checkpoint.claimed(run) == record("a", VALUES | {"sizes": [1, 2]})
    checkpoint.claim(run, record("a", VALUES))
    more = VALUES | {"train": {"seed": 0, "num_steps": 40}}
    checkpoint.claim(run, record("a", more))
    assert checkpoint.claimed(run).values["train"]["num_steps"] == 40


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("b", VALUES, "the run has a, given b"),
        (
            "a",
            VALUES | {"train": {"seed": 1, "num_steps": 20}, "batch_size": 4},
            "batch_size: the run has 8, given 4; train.seed: the run has 0, given 1",
        ),
        (
            "a",
            {name: VALUES[name] for name in ("train", "sizes")},
            "batch_size: the run has 8, given None",
        ),
    ],
)
def test_another_config_is_refused_once_something_is_saved(
    run, tmp_path, file, values, words
):
    checkpoint.claim(tmp_path, record("a", VALUES))
    with pytest.raises(ValueError) as error:
        checkpoint.claim(run, record(file, values))
    assert f"another config ({words})" in str(error.value).replace("config: ", "")
    assert checkpoint.claimed(run).config == "a"
    checkpoint.claim(tmp_path, record(file, values))
    assert checkpoint.claimed(tmp_path).config == file


def test_a_half_written_step_is_no_reason_to_refuse(tmp_path):
    checkpoint.claim(tmp_path, record("a", VALUES))
    (tmp_path / "checkpoints/5.orbax-checkpoint-tmp-1").mkdir(parents=True)
    checkpoint.claim(tmp_path, record("b", VALUES))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"values": {}}', "\0" * 9, "\xff"])
def test_a_damaged_config_is_told(run, tmp_path, content):
    for workdir in (run, tmp_path):
        (workdir / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match="config.json is damaged .*: restore it"):
            checkpoint.claimed(workdir)
    with pytest.raises(ValueError, match="config.json is damaged"):
        checkpoint.claim(run, record("a", VALUES))
    checkpoint.claim(tmp_path, record("a", VALUES))
    assert json.loads((tmp_path / "config.json").read_text())["values"]


def test_a_missing_config_is_told(run, tmp_path):
    (run / "config.json").unlink()
    for workdir in (run, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="config.json is missing"):
            checkpoint.claimed(workdir)
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        checkpoint.claim(run, record("a", VALUES))


def test_difference_by_hand():
    saved = {"a": 1, "train": {"keep": 3, "seed": 0}, "data_dir": "x"}
    given = {"a": 1.0, "train": {"keep": 9, "seed": 0}, "data_dir": ""}
    assert checkpoint.difference(saved, given) is None
    given["train"]["seed"], given["b"] = 2, "new"
    words = "b: the run has None, given 'new'; train.seed: the run has 0, given 2"
    assert checkpoint.difference(saved, given) == words
