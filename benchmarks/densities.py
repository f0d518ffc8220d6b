"""Energies as densities in the plane and on tables, beside a Gaussian mixture and KDE.

    python -m benchmarks.densities --rows=25gaussians,8gaussians
    python -m benchmarks.densities --rows=digits,wine,39_vertebral --adbench=../shared/data/adbench

Each row trains its config once for each of --seeds, also that of the split, and
prints mean log-densities of held-out examples in nats at inverse temperature 1. Beside
them: scikit-learn's Gaussian mixture chosen by BIC (1 to 32 components of full or diagonal
covariance) and its kernel density estimation (KDE), whose width five-fold
cross-validation chooses, on the rows that trained the energy and those that chose among
its weights. Of tables, normal rows alone, with noise as wide as the smallest step of each
column (digits: a grey level), and nats are those of columns with variance 1.
ADBench's tables are the four of its 29 whose least continuous column has the largest
share of different values.
"""

import pathlib
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from absl import flags
from sklearn import datasets, exceptions, mixture, model_selection, neighbors

import megjax
from benchmarks import measure, recording
from megjax import app
from megjax.learners import noise_contrastive
from megjax.recipes import density, planar_sets
from megjax.training import metric_writer

PLANES = ("25gaussians", "8gaussians", "swissroll", "two_spirals", "pinwheel")
ADBENCH = ("39_vertebral", "44_Wilt", "14_glass", "28_pendigits")
TABLES = ("digits", "breast_cancer", "wine", *ADBENCH)
ROWS = flags.DEFINE_list("rows", [*PLANES, *TABLES], "Sets.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "One run of a row each.")
FOLDER = flags.DEFINE_string("adbench", "../shared/data/adbench", "Its .npz files.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of our config; repeatable.")
ANNEALING = flags.DEFINE_boolean("annealing", False, "Also log Z of tables by AIS.")
BASELINES = flags.DEFINE_boolean("baselines", True, "Also fit scikit-learn's two.")
NUM_COMPONENTS = (1, 2, 4, 8, 16, 25, 32)
COVARIANCES = ("full", "diag")
NUM_BASELINE = 10_000
"""Rows that baselines in the plane are fitted to, and the kernel density's at most."""


def steps(column: np.ndarray) -> float:
    """The smallest difference of different values; 1 where there is one value."""
    values = np.unique(column)
    return float(np.min(np.diff(values))) if len(values) > 1 else 1.0


def table(name: str, seed: int) -> np.ndarray:
    """Rows with noise as wide as the steps of their columns, with variance 1."""
    loaders = {
        "digits": datasets.load_digits,
        "breast_cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
    }
    if name in loaders:
        x = loaders[name]().data
    else:
        with np.load(pathlib.Path(FOLDER.value) / f"{name}.npz") as found:
            x = found["X"][found["y"] == 0]
    x = np.asarray(x, np.float64)
    widths = np.array([steps(column) for column in x.T])
    x += widths * np.random.RandomState(seed).uniform(size=x.shape)
    return np.float32((x - x.mean(0)) / x.std(0))


def trained(name: str, seed: int, path: str) -> tuple[megjax.Model, dict[str, float]]:
    """Our model of a set, and what its training measured, CPU seconds included."""
    config = f"density_{name}" if name in PLANES else "density_table"
    fields = [f"train.seed={seed}", *SET.value]
    if name in TABLES:
        np.save(path, table(name, seed))
        fields += [f"path={path}", "held_out_share=0.2"]
    with tempfile.TemporaryDirectory() as workdir:
        start = time.process_time()
        model = megjax.train(config, workdir=workdir, overrides=fields)
        found = {"cpu_seconds": time.process_time() - start}
        for line in metric_writer.read(workdir):
            found |= {k.removeprefix("likelihood/"): v for k, v in line.items()}
    return model, found


def of_noise(model: megjax.Model) -> float:
    """Mean log-density of held-out rows under the noise that the energy starts from."""
    base = noise_contrastive.noise_of(density.spec(model.config), model.state)
    held_out = model.run.experiment().data.reference["held_out"]
    return float(np.mean(jax.jit(base.log_prob)(held_out)))


def parts(model: megjax.Model, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that baselines are fitted to, and those held out."""
    data = model.run.experiment().data
    if name in TABLES:
        known = data.reference
        return np.concatenate([data.store, known["validation"]]), known["held_out"]
    source = planar_sets.SOURCES[model.config.dataset]
    return planar_sets.points(data, NUM_BASELINE), planar_sets.points(
        source(seed=2**31 - 1), model.config.evaluation.num_points
    )


def baselines(train: np.ndarray, held_out: np.ndarray) -> Mapping[str, float]:
    """Mean log-densities of held-out rows under scikit-learn's two, and what they are."""
    train, held_out = train.astype(np.float64), held_out.astype(np.float64)
    rng = np.random.RandomState(0)
    mixtures = (
        mixture.GaussianMixture(num, covariance_type=form, random_state=0)
        for num in NUM_COMPONENTS
        for form in COVARIANCES
        if num < len(train) // 4
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        fitted = [one.fit(train) for one in mixtures]
    best = min(fitted, key=lambda one: one.bic(train))
    rows = train[rng.permutation(len(train))[:NUM_BASELINE]]
    widths = {"bandwidth": np.logspace(-2, 0.5, 26)}
    search = model_selection.GridSearchCV(
        neighbors.KernelDensity(), widths, cv=model_selection.KFold(5, shuffle=True)
    ).fit(rows[:2000])
    kernels = neighbors.KernelDensity(**search.best_params_).fit(rows)
    return {
        "mixture": best.score(held_out),
        "components": best.n_components,
        "kernels": kernels.score(held_out) / len(held_out),
        "width": search.best_params_["bandwidth"],
    }


def results(name: str, path: str) -> Iterator[Mapping[str, object]]:
    """A line for each seed."""
    for seed in map(int, SEEDS.value):
        model, found = trained(name, seed, path)
        line = {"set": name, "seed": seed}
        kept = ("cpu_seconds", "held_out_log_likelihood", "bits_per_dim")
        kept += ("true_entropy", "kl", "validation_loss")
        line |= {metric: found[metric] for metric in kept if metric in found}
        line |= {k: v for k, v in found.items() if "log_z" in k and "/" not in k}
        if name in TABLES:
            line["noise"] = of_noise(model)
        if ANNEALING.value and name in TABLES:
            annealed = megjax.evaluate(model, ["annealing"])["annealing"].metrics
            line |= {f"annealed_{k}": v for k, v in annealed.items() if "log_z" in k}
        if BASELINES.value:
            line |= baselines(*parts(model, name))
            best = max(line["mixture"], line["kernels"])
            line["wins"] = int(line["held_out_log_likelihood"] > best)
        yield line


def main() -> int:
    """Prints the figures of every run, and all of them as a line of JSON."""
    unknown = set(ROWS.value) - {*PLANES, *TABLES}
    if unknown:
        raise ValueError(
            f"--rows={','.join(sorted(unknown))}: choose of {', '.join(PLANES + TABLES)}"
        )
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        for name in ROWS.value:
            found = results(name, str(pathlib.Path(directory, "rows.npy")))
            for line in recording.recorded(found, []):
                lines.append(line)
                words = (
                    f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}"
                    for k, v in line.items()
                )
                print(*words, flush=True)
    measure.report({"results": lines})
    return 0


if __name__ == "__main__":
    app.run(main)
