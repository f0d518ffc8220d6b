"""What the core does without: each missing package is one line, or is skipped."""

import logging
import sys

import numpy as np
import pytest

from megjax import extras, plotting
from megjax.data import images
from megjax.metrics import mcmc
from megjax.training import metric_writer


@pytest.fixture
def without(monkeypatch):
    """(names) -> as if these packages were not installed."""

    def remove(*names):
        for name in [one for one in sys.modules if one.partition(".")[0] in names]:
            monkeypatch.setitem(sys.modules, name, None)
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        forget()

    def forget():
        plotting.is_installed.cache_clear()
        mcmc._has_arviz.cache_clear()

    yield remove
    forget()


def test_the_line_names_package_and_extra():
    match = r'^no_such_package is not installed: pip install "megjax\[plot\]"$'
    with pytest.raises(ModuleNotFoundError, match=match), extras.needed("plot"):
        import no_such_package.inside  # noqa: F401


def test_errors_of_megjax_itself_are_not_taken_for_missing_extras():
    with pytest.raises(ModuleNotFoundError, match=r"megjax\.absent"):  # noqa: SIM117
        with extras.needed("plot"):
            import megjax.absent  # noqa: F401


def test_digits_name_the_extra_that_has_them(without):
    without("sklearn")
    with pytest.raises(ImportError, match=r"sklearn is not.*megjax\[estimators\]"):
        images.digits()


@pytest.mark.parametrize("missing", ["matplotlib", "PIL"])
def test_pictures_are_skipped(without, tmp_path, caplog, missing):
    without(missing)
    with caplog.at_level(logging.WARNING):
        curve = plotting.curves({"a": ([0, 1], [0, 1])}, x_label="x", y_label="y")
        plotting.write_png(tmp_path / "a.png", curve)
        plotting.write_gif(tmp_path / "a.gif", [curve])
    assert curve.shape == (1, 1, 3) and not list(tmp_path.iterdir())
    assert [record.message for record in caplog.records] == [
        'no pictures are written: pip install "megjax[plot]"'
    ]


def test_metrics_are_written_without_tensorboard_and_pictures(without, tmp_path):
    without("tensorboardX", "matplotlib")
    with metric_writer.opened(tmp_path, 0, 10) as writer:
        writer.write(1, {"loss": 0.5})
        writer.write_pictures(1, {"grid": np.zeros((2, 2, 3), np.uint8)})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert metric_writer.read(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_diagnostics_are_left_out_without_arviz(without, caplog):
    without("arviz")
    draws = np.random.default_rng(0).normal(size=(4, 100))
    with caplog.at_level(logging.WARNING):
        assert np.isnan([mcmc.r_hat(draws), mcmc.effective_sample_size(draws)]).all()
    (record,) = caplog.records
    assert 'pip install "megjax[sampling]"' in record.getMessage()
