"""Anomaly detectors on the tables of ADBench (Han et al. 2022), one-class protocol.

    python -m benchmarks.adbench --data_dir=../shared/data/adbench
    python -m benchmarks.adbench --data_dir=../shared/data/adbench --contaminated \
        --energy=neighbours,neighbours:0.1
    python -m benchmarks.adbench --data_dir=../shared/data/adbench --published
    python -m benchmarks.adbench --data_dir=... --sets=WBC,glass --energy=neighbours,meg
    python -m benchmarks.adbench --data_dir=../shared/data/adbench --calibration
    python -m benchmarks.adbench --large

Half of the normal rows train, at most --max_train; the other half and all anomalies
test, at most --max_test. With --contaminated half of all rows train, whatever they are.
Prints the mean over seeds of the area under the ROC curve for every set and method, the
mean ranks, how often each is best, and medians of the CPU seconds of a fit. The rows of
sets and those of such figures are in two tables:
--record=anomalies/adbench,anomalies/adbench_summary.

--published: the splits of Livernoche et al. 2024 (arXiv 2305.18593, table of the one-class
setting; github.com/vicliv/DTE), and the rank of `EnergyDetector` among their 26 methods
on the same sets.
Theirs are the means of five seeds in adbench_published.csv, in percent.
--calibration: Kolmogorov-Smirnov tests of the p-values of held-out normal rows, against
uniform, and against those of the training rows, which are a sample too; and how often
`explain` ranks a column first to which 5 standard deviations were added.
--large: seconds and memory of a fit to 100,000 rows of 40 columns, and of their scores.
"""

import csv
import json
import pathlib
import resource
import time
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from absl import flags
from scipy import stats
from sklearn import (
    decomposition,
    ensemble,
    metrics,
    neighbors,
    pipeline,
    preprocessing,
    svm,
)

from benchmarks import recording
from megjax import EnergyDetector, app, checks

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the .npz: X [N, F], y [N].")
SETS = flags.DEFINE_list("sets", None, "Parts of the names of sets; default all.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Splits, and seeds of the methods.", 1)
ENERGY = flags.DEFINE_list("energy", ["neighbours"], "Of ours, name[:share of rows].")
METHODS = flags.DEFINE_list("methods", None, "Of the others; default all.")
MAX_TRAIN = flags.DEFINE_integer("max_train", 5000, "Training rows, at most.", 2)
MAX_TEST = flags.DEFINE_integer("max_test", 10_000, "Test rows, at most.", 2)
CONTAMINATED = flags.DEFINE_bool("contaminated", False, "Anomalies train as well.")
PUBLISHED = flags.DEFINE_bool("published", False, "Rank in a published table instead.")
CALIBRATION = flags.DEFINE_bool("calibration", False, "P-values and `explain` instead.")
LARGE = flags.DEFINE_bool("large", False, "Seconds on 100,000 x 40 instead.")

Detector = Callable[[np.ndarray], np.ndarray]
"""Test rows [N, F] -> scores [N], high for anomalies."""


def energy(train: np.ndarray, seed: int, name: str) -> Detector:
    """Ours, with its default settings but for the share of rows that are neighbours."""
    name, _, share = name.partition(":")
    more = {"num_neighbors": float(share)} if share else {}
    detector = EnergyDetector(energy=name, random_state=seed, **more).fit(train)
    return lambda x: -detector.score_samples(x)


def nearest_standardised(train: np.ndarray, seed: int) -> Detector:
    """Mean distance to the 5 nearest rows; columns of mean 0 and variance 1."""
    scaler = preprocessing.StandardScaler().fit(train)
    nearest = nearest_raw(scaler.transform(train), seed)
    return lambda x: nearest(scaler.transform(x))


def nearest_raw(train: np.ndarray, seed: int) -> Detector:
    """Mean distance to the 5 nearest rows as they are."""
    del seed
    tree = neighbors.NearestNeighbors(n_neighbors=5, algorithm="brute").fit(train)
    return lambda x: tree.kneighbors(x)[0].mean(1)


def isolation_forest(train: np.ndarray, seed: int) -> Detector:
    """Liu et al. 2008."""
    forest = ensemble.IsolationForest(random_state=seed).fit(train)
    return lambda x: -forest.score_samples(x)


def principal_components(train: np.ndarray, seed: int) -> Detector:
    """Squares of all components, each over its variance (Shyu et al. 2003)."""
    del seed
    scaler = preprocessing.StandardScaler().fit(train)
    pca = decomposition.PCA(svd_solver="full").fit(scaler.transform(train))
    kept = pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]
    variances = pca.explained_variance_[kept]

    def scores(x):
        return np.sum(pca.transform(scaler.transform(x))[:, kept] ** 2 / variances, 1)

    return scores


def one_class_svm(train: np.ndarray, seed: int) -> Detector:
    """Schölkopf et al. 2001, on columns of mean 0 and variance 1."""
    del seed
    scaler = preprocessing.StandardScaler()
    machine = pipeline.make_pipeline(scaler, svm.OneClassSVM(cache_size=500)).fit(train)
    return lambda x: -machine.score_samples(x)


def local_outlier_factor(train: np.ndarray, seed: int) -> Detector:
    """Breunig et al. 2000, on columns of mean 0 and variance 1."""
    del seed
    scaler = preprocessing.StandardScaler()
    factor = neighbors.LocalOutlierFactor(novelty=True, algorithm="brute")
    line = pipeline.make_pipeline(scaler, factor).fit(train)
    return lambda x: -line.score_samples(x)


def ecod(train: np.ndarray, seed: int) -> Detector:
    """Sums of -log of empirical tails over columns (Li et al. 2022), of training rows.

    The larger of three sums: left tails, right tails, and of each column the tail on
    the side to which it is skewed.
    """
    del seed
    ordered, num = np.sort(train, axis=0), len(train)
    is_left = np.nan_to_num(stats.skew(train, axis=0)) < 0

    def scores(x):
        left, right = np.empty(x.shape), np.empty(x.shape)
        for j in range(x.shape[1]):
            below = np.searchsorted(ordered[:, j], x[:, j], side="right")
            above = num - np.searchsorted(ordered[:, j], x[:, j], side="left")
            # As the row itself is counted where it trains, no tail is empty.
            left[:, j] = -np.log((below + 1) / (num + 1))
            right[:, j] = -np.log((above + 1) / (num + 1))
        skewed = np.where(is_left, left, right)
        return np.max([left.sum(1), right.sum(1), skewed.sum(1)], axis=0)

    return scores


OTHERS = {
    "kNN": nearest_standardised,
    "forest": isolation_forest,
    "PCA": principal_components,
    "SVM": one_class_svm,
    "LOF": local_outlier_factor,
    "ECOD": ecod,
    "kNN raw": nearest_raw,
}


def split(path: pathlib.Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training rows, test rows, their labels: 1 for anomalies)."""
    with np.load(path, allow_pickle=False) as table:
        x, y = table["X"].astype(np.float64), table["y"]
    random = np.random.RandomState(seed)
    pool = random.permutation(
        np.flatnonzero(y == 0) if not CONTAMINATED.value else len(y)
    )
    half = len(pool) // 2
    test = pool[half:]
    if not CONTAMINATED.value:
        test = random.permutation(np.concatenate([test, np.flatnonzero(y == 1)]))
    train, test = pool[:half][: MAX_TRAIN.value], test[: MAX_TEST.value]
    return x[train], x[test], y[test]


def published_split(
    path: pathlib.Path, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`split` of the published table: normal rows of the first half of the file train.

    Files of less than 1000 rows are resampled to 1000 with replacement, so that test
    rows can be copies of training rows; of more than 50,000, as many are drawn.
    """
    with np.load(path, allow_pickle=False) as table:
        x, y = table["X"].astype(np.float64), table["y"]
    random = np.random.RandomState(seed)
    if len(y) < 1000 or len(y) > 50_000:
        few = len(y) < 1000
        rows = random.choice(len(y), 1000 if few else 50_000, replace=few)
        x, y = x[rows], y[rows]
    normal = np.flatnonzero(y == 0)
    half = round(len(normal) / 2)
    test = np.concatenate([normal[half:], np.flatnonzero(y == 1)])
    return x[normal[:half]], x[test], y[test]


def published() -> dict[str, dict]:
    """Prints our area and rank for each set, then all means and mean ranks."""
    with open(pathlib.Path(__file__).with_name("adbench_published.csv")) as file:
        rows = {row.pop("set"): row for row in csv.DictReader(file)}
    found, mean_rank = {}, {}
    paths, seeds = all_sets()[0], range(SEEDS.value if SEEDS.present else 5)

    def sets():
        for path in paths:
            theirs = rows[path.stem.split("_", 1)[1].lower()]
            theirs = {name: float(area) for name, area in theirs.items()}
            areas = []
            for seed in seeds:
                train, test, labels = published_split(path, seed)
                scores = (f(train, seed)(test) for f in (_ours, nearest_largest))
                areas.append([100 * metrics.roc_auc_score(labels, s) for s in scores])
            ours, again = np.mean(areas, 0)
            found[path.stem] = {"EnergyDetector": ours} | theirs
            best = max(theirs, key=theirs.get)
            cells = (f"{area:.2f}" for area in (ours, again, theirs["KNN"]))
            rank = _ranks(found[path.stem])["EnergyDetector"]
            yield [path.stem, *cells, f"{theirs[best]:.2f} ({best})", f"{rank:g}"]

    def methods():
        ranks = [_ranks(row) for row in found.values()]
        mean_rank.update({n: np.mean([r[n] for r in ranks]) for n in ranks[0]})
        for name in sorted(mean_rank, key=mean_rank.get):
            areas = np.array([row[name] for row in found.values()])
            values = (areas.mean(), np.median(areas), areas.min(), mean_rank[name])
            yield [name, *(f"{value:.2f}" for value in values)]

    heads = ["set", "megjax", "kNN, own run", "kNN, published"]
    show([*heads, "best of 26 published", "rank of megjax of 27"], sets(), seeds)
    show(["method", "mean", "median", "minimum", "mean rank of 27"], methods(), seeds)
    return {"sets": found, "mean_rank": mean_rank}


def _ours(train, seed):
    return energy(train, seed, ENERGY.value[0])


def nearest_largest(train: np.ndarray, seed: int) -> Detector:
    """Distance to the fifth nearest row, columns of mean 0 and variance 1: PyOD's."""
    del seed
    scaler = preprocessing.StandardScaler().fit(train)
    tree = neighbors.NearestNeighbors(n_neighbors=5).fit(scaler.transform(train))
    return lambda x: tree.kneighbors(scaler.transform(x))[0][:, -1]


def _ranks(areas):
    """Of each method, 1 for the largest; as many digits count as are published."""
    values = stats.rankdata(-np.round(list(areas.values()), 2))
    return dict(zip(areas, values))


def measured(path: pathlib.Path, methods: dict[str, Callable]) -> dict[str, np.ndarray]:
    """(area, seconds of the fit, seconds of scoring) by method: means over seeds."""
    found = {name: [] for name in methods}
    for seed in range(SEEDS.value):
        train, test, labels = split(path, seed)
        if len(np.unique(labels)) < 2:
            continue
        for name, method in methods.items():
            start = time.process_time()
            detector = method(train, seed)
            fitted = time.process_time()
            scores = detector(test)
            scored = time.process_time()
            area = metrics.roc_auc_score(labels, scores)
            found[name].append((area, fitted - start, scored - fitted))
    return {name: np.mean(values, 0) for name, values in found.items()}


def chosen() -> tuple[list[pathlib.Path], dict[str, Callable]]:
    """The files and methods of the flags; ValueError where there are none."""
    if not DATA_DIR.value:
        raise ValueError("no data: give --data_dir, a folder of ADBench's .npz files")
    folder = checks.path(DATA_DIR.value)
    paths = sorted(folder.glob("*.npz"), key=lambda path: path.stem.split("_")[-1])
    if SETS.value:
        paths = [p for p in paths if any(name in p.stem for name in SETS.value)]
    if not paths:
        raise ValueError(f"no such .npz in {folder}: give --data_dir and --sets")
    names = METHODS.value if METHODS.value is not None else list(OTHERS)
    unknown = set(names) - set(OTHERS)
    if unknown:
        raise ValueError(
            f"--methods={unknown.pop()}: choose of {', '.join(map(repr, OTHERS))}"
        )
    ours = {
        _label(name): lambda train, seed, name=name: energy(train, seed, name)
        for name in ENERGY.value
    }
    return paths, ours | {name: OTHERS[name] for name in names}


def _label(name):
    """What the column of one of --energy is called."""
    name, _, share = name.partition(":")
    return f"{name}, {share} of rows" if share else name


def all_sets() -> tuple[list[pathlib.Path], dict[str, Callable]]:
    """`chosen`; ValueError where means over some sets would be recorded as of all."""
    if SETS.value and recording.RECORD.value:
        raise ValueError("--record takes all sets, whose means it has: drop --sets")
    return chosen()


def ranks(areas: np.ndarray, names: list[str], left_out: str) -> dict[str, tuple]:
    """(mean rank, sets where it is best) by method, without one of them: [sets, methods]."""
    kept = [i for i, name in enumerate(names) if name != left_out]
    found = stats.rankdata(-areas[:, kept].round(4), axis=1)
    best = (found == found.min(1, keepdims=True)).sum(0)
    return {
        names[i]: (mean, int(wins)) for i, mean, wins in zip(kept, found.mean(0), best)
    }


def summary(areas: np.ndarray, names: list[str]) -> dict[str, dict]:
    """Figures of every method over the sets: areas [sets, methods]."""
    main, other = (ranks(areas, names, left_out) for left_out in ("kNN raw", "ECOD"))
    gains, raw = areas[:, :1] - areas, "kNN on raw columns"
    return {
        name: {
            "mean": areas[:, i].mean(),
            "median": np.median(areas[:, i]),
            "minimum": areas[:, i].min(),
            f"mean rank without {raw}": main.get(name, (np.nan, 0))[0],
            f"sets ranked first, without {raw}": main.get(name, (np.nan, 0))[1],
            f"mean rank with {raw} in place of ECOD": other.get(name, (np.nan, 0))[0],
            f"sets where {names[0]} is better": int((gains[:, i] > 0.002).sum()),
            f"sets where {names[0]} is worse": int((gains[:, i] < -0.002).sum()),
        }
        for i, name in enumerate(names)
    }


def calibration(path: pathlib.Path) -> dict[str, list[float]]:
    """Of every seed: p-values of two Kolmogorov-Smirnov tests, shares named first."""
    found = {"uniform": [], "two samples": [], "named": []}
    for seed in range(SEEDS.value):
        train, test, labels = split(path, seed)
        normal, random = test[labels == 0], np.random.RandomState(seed)
        one = EnergyDetector(random_state=seed).fit(train)
        p_values = one.p_values(normal)
        own = (1 + stats.rankdata(-one.energies_, "max")) / (1 + len(train))
        found["uniform"].append(stats.kstest(p_values, "uniform").pvalue)
        found["two samples"].append(stats.ks_2samp(p_values, own).pvalue)
        deviations = train.std(0)
        columns = random.choice(np.flatnonzero(deviations), 200)
        shifted = normal[random.randint(len(normal), size=200)]
        shift = 5 * random.choice([-1, 1], 200) * deviations[columns]
        shifted[np.arange(200), columns] += shift
        named = one.explain(shifted).argmax(1) == columns
        found["named"].append(named.mean())
    return found


def calibrations() -> dict[str, dict]:
    """Prints a row for each set; all of them."""
    found, heads = {}, ["set", "KS, uniform", "KS, two samples", "named first"]

    def rows():
        for path in chosen()[0]:
            found[path.stem] = calibration(path)
            values = found[path.stem].values()
            yield [path.stem, *(" / ".join(f"{v:.3g}" for v in vs) for vs in values)]

    show(heads, rows(), range(SEEDS.value))
    for name in ("uniform", "two samples"):
        passed = [np.mean(np.array(f[name]) > 0.05) for f in found.values()]
        print(f"{name}: p > .05 in {np.mean(passed):.0%}, of all seeds in", end=" ")
        print(f"{sum(share == 1 for share in passed)} of {len(passed)} sets")
    return found


def large() -> dict[str, float]:
    """CPU and wall seconds, and peak memory in MiB, on 100,000 rows of 40 columns."""
    rows, record = np.random.RandomState(0).normal(size=(100_000, 40)), {}
    one = EnergyDetector(random_state=0)
    for name, call in (("fit", one.fit), ("score", one.score_samples)):
        wall, cpu = time.perf_counter(), time.process_time()
        call(rows)
        record[f"{name} seconds"] = time.perf_counter() - wall
        record[f"{name} CPU seconds"] = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return record | {"peak MiB": peak / 1024}


def comparison() -> dict[str, dict]:
    """Prints a row for each set, then one for each figure; all of them."""
    paths, methods = all_sets()
    names = list(methods)
    found, figures = {}, {}

    def rows():
        for path in paths:
            found[path.stem] = measured(path, methods)
            areas = [found[path.stem][name][0] for name in names]
            leads = max(areas) - 5e-4
            cells = (f"**{a:.3f}**" if a >= leads else f"{a:.3f}" for a in areas)
            yield [path.stem, *cells]
        table = np.array([[row[name] for name in names] for row in found.values()])
        figures.update(summary(table[..., 0], names))
        median = f"CPU seconds, median of {len(paths)} sets"
        for i, name in enumerate(names):
            figures[name][f"fit {median}"] = np.median(table[:, i, 1])
            figures[name][f"score {median}"] = np.median(table[:, i, 2])
        for figure in figures[names[0]]:
            yield [figure, *(f"{figures[name][figure]:.4g}" for name in names)]

    show(["set", *names], rows(), range(SEEDS.value))
    sets = {
        stem: {n: v.tolist() for n, v in row.items()} for stem, row in found.items()
    }
    return {"sets": sets, "summary": figures}


def show(heads: list[str], rows: Iterable[list[str]], seeds: Sequence[int]) -> None:
    """Prints rows as they come, and records them where --record says so."""
    print(f"| {' | '.join(heads)} |\n|" + "---|" * len(heads))
    records = (dict(zip(heads, row, strict=True)) for row in rows)
    for record in recording.recorded(records, seeds):
        print("| " + " | ".join(record.values()) + " |", flush=True)


def main() -> int:
    """Prints a table, and all of it as a line of JSON."""
    if LARGE.value:
        found = large()
    elif PUBLISHED.value:
        found = published()
    else:
        found = calibrations() if CALIBRATION.value else comparison()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    app.run(main)
