"""The store of a made-up run: what is on disk when, what is refused, what is told."""

import json
import logging
import signal

import numpy as np
import pytest

from megjax.sampling import store

SETTINGS = {"seed": 0, "steps": 20_000, "thin": 10, "burn_in": 0}


def claimed(
    directory, labels=dict, *, draws=False, replaces=False, signals=None, **changes
):
    """A store that has taken settings, and its thinning, by default 1."""
    settings = SETTINGS | changes
    interrupted = (lambda: signals.pop(0) if signals else None) if signals else None
    options = {"interrupted": interrupted} if interrupted else {}
    kept = store.TraceStore(
        directory, labels, draws=draws, replaces=replaces, **options
    )
    return kept, kept.claim(settings, settings["steps"], 1)


def chunk(begin, end, group=0, **arrays):
    return store.Chunk(group, begin, end, {"x": np.arange(end)} | arrays)


def begun(directory, **options):
    """A walk on disk with two chunks, its process gone."""
    kept, _ = claimed(directory, draws=True, **options)
    kept.add(chunk(0, 100))
    kept.add(chunk(100, 200))
    kept.stack.close()


def test_a_young_walk_is_held_and_an_old_one_is_on_disk(tmp_path, monkeypatch):
    where = tmp_path / "chunks"
    kept, _ = claimed(where)
    kept.add(chunk(0, 100))
    kept.advance(50, lambda: chunk(100, 150))
    assert not where.exists() and kept.chunk(0, 0) is None
    monkeypatch.setattr(store, "SAVE_SECONDS", 0)
    kept.advance(50, lambda: chunk(100, 150))
    names = {path.name for path in where.iterdir()}
    first = "000_000000000000_000000000100.npz"
    assert names == {"run.json", "lock", "draft.npz", first}
    kept.stack.close()
    again, _ = claimed(where)
    assert again.chunk(0, 0).end == 100 and again.chunk(0, 100) is None
    assert again.draft(0, 100, 200).arrays["x"][-1] == 149
    assert again.draft(0, 100, 120) is None and again.draft(0, 0, 200) is None
    again.add(chunk(100, 200))
    assert again.draft(0, 100, 200) is None and again.chunk(0, 100).end == 200


def test_without_a_directory_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "SAVE_SECONDS", 0)
    kept, _ = claimed(None)
    kept.add(chunk(0, 100))
    kept.advance(50, lambda: chunk(0, 50))
    kept.finish()
    assert not kept.held and not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps, draws, left", [(100, False, 0), (10_001, False, 1)])
def test_what_is_left_of_a_finished_walk(tmp_path, monkeypatch, steps, draws, left):
    monkeypatch.setattr(store, "SAVE_SECONDS", 0)
    where = tmp_path / "chunks"
    kept, _ = claimed(where, steps=steps, draws=draws)
    kept.advance(100, lambda: chunk(0, 100))
    (where / "draft.npz.tmp").touch()
    kept.finish()
    assert where.exists() == bool(left)
    if left:
        assert {path.name for path in where.iterdir()} == {"run.json", "lock"}
        assert json.loads((where / "run.json").read_text())["finished"]


def test_a_damaged_chunk_costs_itself_alone(tmp_path, caplog):
    begun(tmp_path)
    path = tmp_path / "000_000000000000_000000000100.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        kept, _ = claimed(tmp_path, draws=True)
        assert kept.chunk(0, 0) is None and "is damaged" in caplog.text
    # Its name still tells where the next one begins.
    assert kept.end(0, 0) == 100 and kept.chunk(0, 100).end == 200


def test_other_settings_are_named(tmp_path):
    begun(tmp_path, labels=lambda: {"kernel": "mala"})
    same = {"draws": True, "labels": lambda: {"kernel": "mala"}}
    with pytest.raises(
        ValueError,
        match=r"holds another run \(seed: 0 there, given 1\): give the same values to "
        "go on with it, use another directory, or delete",
    ):
        claimed(tmp_path, **same, seed=1)
    with pytest.raises(ValueError, match=r"\(steps: 20000 there, given 10000\)"):
        claimed(tmp_path, **same, steps=10_000)
    with pytest.raises(ValueError, match=r"\(kernel: 'mala' there, given 'rwm'\)"):
        claimed(tmp_path, lambda: {"kernel": "rwm"}, draws=True)
    kept, _ = claimed(tmp_path, **same)
    assert kept.chunk(0, 0).end == 100


def test_more_steps_go_on_with_the_thinning_there_is(tmp_path):
    begun(tmp_path)
    kept, thin = claimed(tmp_path, draws=True, steps=40_000, thin=None)
    assert thin == 10 and kept.chunk(0, 0).end == 100
    kept.stack.close()
    with pytest.raises(ValueError, match=r"\(steps: 40000 there, given 20000\)"):
        claimed(tmp_path, draws=True)
    with pytest.raises(ValueError, match=r"\(thin: 10 there, given 20\)"):
        claimed(tmp_path, draws=True, steps=40_000, thin=20)


def test_a_last_window_cut_short_is_walked_again_by_a_longer_walk(tmp_path):
    kept, _ = claimed(tmp_path, draws=True, steps=105)
    kept.add(chunk(0, 105))
    kept.stack.close()
    kept, _ = claimed(tmp_path, draws=True, steps=200)
    assert kept.chunk(0, 0) is None and kept.end(0, 0) is None
    kept.add(chunk(0, 50))
    assert kept.chunk(0, 0).end == 50
    assert not (tmp_path / "000_000000000000_000000000105.npz").exists()


def test_a_short_walk_that_was_finished_makes_room_where_it_may(tmp_path):
    (tmp_path / "measured.npz").touch()
    options = {"draws": True, "replaces": True, "thin": None}
    for seed in (0, 1):
        kept, thin = claimed(tmp_path, **options, steps=100, seed=seed)
        assert thin == 1 and kept.chunk(0, 0) is None
        kept.add(chunk(0, 100))
        kept.finish()
        kept.stack.close()
    # Its thinning is no model for a long one.
    kept, thin = claimed(tmp_path, **options)
    assert thin == 1 and kept.chunk(0, 0) is None
    kept.stack.close()
    assert (tmp_path / "measured.npz").exists()


def test_a_finished_walk_is_kept_unless_it_may_be_replaced(tmp_path):
    kept, _ = claimed(tmp_path, draws=True, steps=100)
    kept.add(chunk(0, 100))
    kept.finish()
    kept.stack.close()
    with pytest.raises(ValueError, match=r"another run \(seed: 0 there, given 1\)"):
        claimed(tmp_path, draws=True, steps=100, seed=1)
    kept, _ = claimed(tmp_path, draws=True, steps=100)
    assert kept.chunk(0, 0).end == 100


def test_chunks_of_another_walk_are_not_taken(tmp_path):
    begun(tmp_path)
    (tmp_path / "run.json").unlink()
    kept, _ = claimed(tmp_path, draws=True, seed=1)
    assert kept.chunk(0, 0) is None


def test_a_damaged_record_of_the_settings_is_told(tmp_path):
    begun(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    for text in (path.read_text(), "[]", "{", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"run.json is damaged \(.*\): delete"):
            claimed(tmp_path, seed=1)


def test_two_processes_do_not_share_a_walk(tmp_path):
    kept, _ = claimed(tmp_path, draws=True)
    with pytest.raises(ValueError, match="another process samples in .*: wait for it"):
        claimed(tmp_path, draws=True)
    kept.stack.close()
    claimed(tmp_path, draws=True)


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "chunks").touch()
    with pytest.raises(ValueError, match="chunks is no directory: name another"):
        claimed(tmp_path / "chunks", draws=True)


def test_a_signal_saves_a_long_walk_and_leaves_a_short_one(tmp_path):
    kept, _ = claimed(tmp_path / "long", signals=[None, signal.SIGTERM])
    kept.advance(50, lambda: chunk(0, 50))
    told = "SIGTERM: saved at step 100 of 20000; the same command goes on"
    with pytest.raises(store.Stopped, match=told) as stopped:
        kept.advance(50, lambda: chunk(0, 100))
    assert stopped.value.number == signal.SIGTERM
    kept.stack.close()
    assert claimed(tmp_path / "long")[0].draft(0, 0, 100).end == 100
    kept, _ = claimed(tmp_path / "short", steps=100, signals=[signal.SIGINT])
    with pytest.raises(store.Stopped, match="SIGINT: stopped at step 50 of 100; so"):
        kept.advance(50, lambda: chunk(0, 50))
    assert not (tmp_path / "short").exists()


def test_the_time_left_leaves_out_what_was_walked_before(monkeypatch, caplog):
    monkeypatch.setattr(store, "SAVE_SECONDS", 10)
    now = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    progress = store.Progress(1000, shown=True)
    progress.skip(500)
    with caplog.at_level(logging.INFO):
        for now[0] in (5.0, 10.0, 15.0):
            progress.add(50)
    # 100 steps in 10 seconds, 400 to go.
    assert caplog.messages == ["step 600 of 1000 left=00:40"]


def test_draws_are_those_of_the_groups_that_are_as_far_as_the_first(tmp_path):
    kept, _ = claimed(tmp_path, draws=True)
    draws = np.arange(2 * 6 * 3).reshape(2, 6, 3)
    for group, last in ((0, 60), (1, 60), (2, 40)):
        kept.add(chunk(store.START, 0, group))
        for begin in range(0, last, 20):
            part = draws[:, begin // 10 : begin // 10 + 2] + group
            kept.add(chunk(begin, begin + 20, group, observed_draws=part))
    found = store.draws(tmp_path)
    np.testing.assert_array_equal(found, np.concatenate([draws, draws + 1]))
    (tmp_path / "001_000000000020_000000000040.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="0040.npz is damaged: run the same command"):
        store.draws(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="has no draws: sample with --keep_draws"
    ):
        store.draws(tmp_path / "elsewhere")
