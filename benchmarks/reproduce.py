"""Tables and figures of Kumar et al. 2019 (MEG), each by one command that can be resumed.

    python -m benchmarks.reproduce table3 --data_dir=../shared/data/tfds
    python -m benchmarks.reproduce table3 --record=anomalies/kdd99    # and into results/

Trains and evaluates what a table needs below --runs, skips what is there, and prints
the paper's numbers, ours, and what neither should be read without: baselines, lower
bounds and chance. --budget=full is the paper's protocol, --budget=reduced what two
CPU cores can do. Killed or timed out, the same command goes on.
"""

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from sklearn import metrics as sklearn_metrics

from benchmarks import measure, proposals, recording
from megjax import app, checks
from megjax.data import images
from megjax.evaluation import anomaly, fidelity
from megjax.io import atomic
from megjax.recipes import cifar10, image_sets, wgan_gp
from megjax.samplers import rwm
from megjax.sampling import model, trace
from megjax.training import checkpoint, evaluate, experiment, loop, metric_writer

BUDGET = flags.DEFINE_enum("budget", "reduced", ["reduced", "full"], "Protocol.")
RUNS = flags.DEFINE_string("runs", "runs/reproduce", "Directory of the runs.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS folder; default TFDS's own.")
SEEDS = flags.DEFINE_integer("seeds", None, "Runs of a row; default per table.", 1)
CLASSIFIER = flags.DEFINE_string(
    "classifier", "runs/mnist_classifier/classifier.npz", "Of MNIST, for table1."
)

INCEPTION = flags.DEFINE_string("inception_weights", None, "For table2; else:")
CIFAR_CLASSIFIER = flags.DEFINE_string(
    "cifar_classifier", "runs/cifar10_classifier/classifier.npz", "Of CIFAR-10."
)
ROWS = flags.DEFINE_list("rows", list(proposals.ROWS), "Targets of proposal_table1.")
NO_FILES = ("toy", "digits", "icg", "scg", "moon", "funnel")
"""Parts of the names of configs that read no data."""
TRAINING_SECONDS = flags.DEFINE_float(
    "training_seconds",
    200.0,
    "Of every run of `images`, and of reduced table1 and table2.",
    1.0,
)
GAN = "configs/wgan_gp.py:"
KDD99_SEEDS = 5


class Run(NamedTuple):
    """What one row of a table trains: a config file[:argument] with changed fields."""

    label: str
    config: str
    fields: Mapping[str, object] = {}

    def workdir(self, seed: int) -> pathlib.Path:
        """Where the run of a seed lives; other fields make another directory."""
        changed = "".join(f"-{k.split('.')[-1]}={v}" for k, v in self.fields.items())
        return (
            pathlib.Path(RUNS.value)
            / f"{experiment.directory(self.config).name}{changed}-seed={seed}"
        )


def trained(run: Run, seed: int = 0) -> pathlib.Path:
    """The directory of a run that is trained to its end, now or formerly."""
    workdir = run.workdir(seed)
    config, *fields = _flags(run)
    own = (f"--workdir={workdir}", f"--config.train.seed={seed}")
    called("train.py", config, *own, *fields)
    return workdir


def _flags(run: Run) -> list[str]:
    """The config of a run and its changed fields, as flags."""
    fields = [f"--config.{field}={value}" for field, value in run.fields.items()]
    if DATA_DIR.value and not any(name in run.config for name in NO_FILES):
        fields.append(f"--config.data_dir={DATA_DIR.value}")
    return [f"--config={run.config}", *fields]


def evaluated(run: Run, name: str, seed: int = 0, **fields) -> dict[str, float]:
    """Metrics of one evaluation of a trained run; fields: of its config, changed."""
    workdir = trained(run, seed)
    values = checkpoint.claimed(workdir).values
    entry = evaluate.read(workdir / "evaluation").get(name, {})
    if entry.get("step") != values["train"]["num_steps"]:
        changes = [f"--set={field}={value}" for field, value in fields.items()]
        called("evaluate.py", f"--workdir={workdir}", f"--only={name}", *changes)
        entry = evaluate.read(workdir / "evaluation")[name]
    return entry["metrics"]


def called(script: str, *arguments: str) -> None:
    """Runs one of the project's scripts; a signal to us reaches it first.

    Raises RuntimeError where it fails, and passes its exit status on where it was
    stopped.
    """
    print("+", script, *arguments, file=sys.stderr, flush=True)
    with subprocess.Popen(
        [sys.executable, script, *arguments], cwd=experiment.ROOT
    ) as process:
        try:
            status = process.wait()
        except (KeyboardInterrupt, SystemExit):
            process.terminate()
            process.wait()
            raise
    if status in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        sys.exit(status)
    if status:
        raise ValueError(f"{script} failed with status {status}: see above")


def table1() -> Iterator[Sequence]:
    """Stacked MNIST: modes and KL, beside what even shares and real stacks score."""
    names = ("modes", "modes_by_count", "modes_by_confidence", "kl", "kl_floor")
    names += ("real_kl", "real_kl_true_labels")
    yield "", *(name.replace("_", " ") for name in names), "paper: modes", "KL"
    for label, config, fields, *paper in _table1_rows():
        settings = {"evaluation.classifier": pathlib.Path(CLASSIFIER.value).resolve()}
        for seed in range(SEEDS.value or 1):
            found = evaluated(Run(label, config, fields), "modes", seed, **settings)
            yield f"{label}, seed {seed}", *(found[name] for name in names), *paper


def _table1_rows():
    gan, per_pixel = f"{GAN}stacked_mnist_", "wgan_gp.penalty_form"
    per_pixel = {per_pixel: "per_pixel"}
    if BUDGET.value == "full":
        yield "WGAN-GP", f"{gan}3", {}, "-", "-"
        yield "WGAN-GP, penalty per pixel", f"{gan}3", per_pixel, 959, 0.7276
        yield "MEG", "configs/stacked_mnist.py:3:paper", {}, 1000, 0.0313
        yield "WGAN-GP, 4 digits", f"{gan}4", {}, "-", "-"
        yield "WGAN-GP, penalty per pixel, 4 digits", f"{gan}4", per_pixel, 9538, 0.9144
        yield "MEG, 4 digits", "configs/stacked_mnist.py:4:paper", {}, 10000, 0.0480
        return
    small = "configs/stacked_mnist_small.py"
    for run in _equal_seconds(small, f"{gan}3"):
        yield *run, *((1000, 0.0313) if run.label == "MEG" else ("-", "-"))


def image_methods() -> Iterator[Sequence]:
    """MNIST at equal training seconds: distances, names and speed, method by method.

    Distances in a classifier's features to images that no training saw. The last
    columns are of samples improved by the density ratio of data and generator.
    """
    names = ("frechet_held_out", "confidence", "rarest_class", "spread")
    names += ("resampled_frechet_held_out", "latent_frechet_held_out")
    names += ("latent_confidence",)
    yield "", "iterations", *(name.replace("_", " ") for name in names)
    settings = {"evaluation.classifier": pathlib.Path(CLASSIFIER.value).resolve()}
    for run in _equal_seconds("configs/mnist_small.py", f"{GAN}mnist"):
        for seed in range(SEEDS.value or 3):
            found = evaluated(run, "classes", seed, **settings)
            values = (found.get(name, "-") for name in names)
            yield f"{run.label}, seed {seed}", run.fields["train.num_steps"], *values
    floor = ("frechet", "confidence", "rarest_class", "spread")
    yield "held-out images", "-", *(found[f"held_out_{n}"] for n in floor), *"---"


def _equal_seconds(small: str, gan: str) -> Iterator[Run]:
    """Methods of images with as many iterations as --training_seconds allow.

    small: config of MEG, whose networks and settings all have but the dense one; deep
        directed models are of digits only.
    The iterations are kept in --runs.
    """
    width = experiment.load(small).width
    critic = {f"wgan_gp.{k}": value for k, value in wgan_gp.as_meg(width).items()}
    critic |= {"width": width, "norm": "per_unit", "ratio.num_steps": 2000}
    if "cifar10" in small:
        critic["networks"] = "strided"
    runs = [
        Run("MEG", small),
        Run("MEG without entropy", small, {"meg.information_weight": 0.0}),
        Run("WGAN-GP", gan, critic),
    ]
    deep = "configs/deep_directed_mnist.py"
    if "stacked" in small:
        runs.append(Run("deep directed", f"{deep}:stacked"))
    elif "mnist" in small:
        runs.append(Run("deep directed", f"{deep}:convolutional"))
        runs.append(Run("deep directed, dense", deep))
    path = pathlib.Path(RUNS.value, "iterations.json")
    known = json.loads(path.read_text()) if path.exists() else {}
    names = [f"{r.workdir(0).name}, {TRAINING_SECONDS.value:g} s" for r in runs]
    # All before the first trains, so that nothing else takes their time.
    for name, run in zip(names, runs):
        if name not in known:
            found = measure.module("benchmarks.step", *_flags(run))
            rate = found["loop_iterations_per_second"]
            known[name] = max(1, round(TRAINING_SECONDS.value * rate))
            path.write_text(json.dumps(known, indent=2) + "\n")
    for name, run in zip(names, runs):
        yield run._replace(fields=run.fields | {"train.num_steps": known[name]})


def table2() -> Iterator[Sequence]:
    """CIFAR-10: Inception's scores, or without its weights those of a classifier.

    A classifier's distances are no FID and are not comparable with the paper's. The
    reduced protocol has three seeds.
    """
    num_seeds = SEEDS.value or (3 if BUDGET.value == "reduced" else 1)
    settings, metrics_of = {}, ("fid", "kid", "inception_score")
    space, weights = "inception", INCEPTION.value
    if not weights:
        space, weights = "classifier", CIFAR_CLASSIFIER.value
        metrics_of = ("frechet", "kernel_distance", "score")
        metrics_of = tuple(f"classifier_{name}" for name in metrics_of)
    if BUDGET.value == "reduced":
        settings = {"evaluation.num_samples": 5000}
    file = "inception_weights" if space == "inception" else "classifier"
    settings[f"evaluation.{file}"] = checks.path(weights).resolve()
    yield "", *metrics_of, "paper: FID", "Inception score"
    num, floor = _test_images(space, settings)
    yield f"{num} test images", *(floor[name] for name in metrics_of), 7.8, 11.24
    for run, sampler, *paper in _table2_rows():
        for seed in range(num_seeds):
            found = evaluated(run, f"{space}_{sampler}", seed, **settings)
            label = f"{run.label}, seed {seed}"
            yield label, *(found[name] for name in metrics_of), *paper


def _test_images(space, settings) -> tuple[int, dict[str, float]]:
    """How many images of the test set are compared, as samples are, and their metrics."""
    config = experiment.load("cifar10")
    experiment.assign(config, [f"{name}={value}" for name, value in settings.items()])
    chosen = config.evaluation
    if space == "inception":
        ready = fidelity.inception_space(chosen.inception_weights)
    else:
        ready = image_sets.classifier_space(chosen.classifier, "cifar10")
    pixels, _ = images.labelled("cifar10", split="test", data_dir=DATA_DIR.value)
    pixels = pixels[: chosen.num_samples]
    found = fidelity.summary(pixels, ready, batch_size=chosen.batch_size)
    train = images.tfds_images("cifar10", data_dir=DATA_DIR.value)
    against = cifar10.reference(chosen, train, lambda: ready)
    return len(pixels), fidelity.compared(found, against, ready)


def _table2_rows():
    """(run, sampler, the paper's FID and Inception score)."""
    ours = Run("MEG", "configs/cifar10.py:paper")
    others = [Run("WGAN-GP", "configs/wgan_gp.py:cifar10")]
    improved = []
    if BUDGET.value == "reduced":
        small = _equal_seconds("configs/cifar10_small.py", f"{GAN}cifar10")
        ours, *others = small
        improved = ["resampled", "latent"]
    for run in others:
        is_gan = run.label == "WGAN-GP"
        yield run, "generator", *((30.95, 6.81) if is_gan else "--")
        for sampler in improved:
            label = f"{run.label}, {sampler}"
            yield run._replace(label=label), sampler, "-", "-"
    for name, sampler, *paper in (
        ("", "generator", 35.02, 6.49),
        *((f", {name}", name, "-", "-") for name in improved),
        (", latent MALA", "latent_mala", 33.85, 6.94),
        (", latent MALA, prior", "latent_mala_prior", "-", "-"),
        (", visible MALA", "data_mala", "-", "-"),
        (", visible random walk", "data_random_walk", "-", "-"),
    ):
        yield ours._replace(label=ours.label + name), sampler, *paper


def table3() -> Iterator[Sequence]:
    """KDD99: last ten evaluations of each seed, both scores; then linear baselines.

    The reduced protocol leaves out `raw`, the replication. Our seeds' F1 are listed:
    their spread is larger than most differences between methods.
    """
    yield "", "precision", "recall", "F1", "F1 of each seed"
    yield "MEG, paper", 0.9307, 0.9472, "0.9389 +- 0.0148", "-"
    yield "DAGMM, paper", 0.9297, 0.9442, 0.9369, "-"
    variants = ("minmax", "raw") if BUDGET.value == "full" else ("minmax",)
    for variant in variants:
        run = Run(variant, f"configs/kdd99.py:{variant}")
        seeds = range(SEEDS.value or KDD99_SEEDS)
        logs = [metric_writer.read(trained(run, seed)) for seed in seeds]
        for score in ("score_norm", "energy"):
            yield f"MEG {variant}, {score}", *_last_ten(logs, score, variant)
    arguments = ["benchmarks.anomaly_baselines", "--config=configs/kdd99.py"]
    if DATA_DIR.value:
        arguments.append(f"--config.data_dir={DATA_DIR.value}")
    for row in measure.module(*arguments)["results"]:
        label = f"{row['baseline']}, {row['score']}"
        yield label, *(row[metric] for metric in ("precision", "recall", "f1")), "-"


def _last_ten(logs, score, variant) -> Iterator[str]:
    """Of the last ten evaluations: means of every seed, mean and deviation of these."""
    # The reference evaluates at the start of an epoch, so never after the last one.
    before = 55 * 774 if variant == "raw" else None
    for metric in ("precision", "recall", "f1"):
        name = f"anomaly/{score}_{metric}"
        means = [
            anomaly.last_evaluations(log, name, before=before).mean() for log in logs
        ]
        yield measure.over_seeds(means, ".4f", ".4f")
    yield " ".join(f"{mean:.4f}" for mean in means)


def table4() -> Iterator[Sequence]:
    """MNIST without one digit: areas of every score, beside chance and the minimum.

    Scores as of the end of training, then PCA and neighbors on the pixels.
    """
    scores = ("neighbor_energy", "feature_distance", "energy", "score_norm")
    published = {1: (0.281, 0.287), 4: (0.401, 0.443), 5: (0.402, 0.514)}
    published |= {7: (0.290, 0.347), 9: (0.342, 0.307)}
    areas = {"average precision": "average_precision", "AUPRC": "auprc"}
    ours = [f"{area}, {score}" for area in areas for score in scores]
    ours.append("AUROC, neighbor_energy")
    pixels = {
        "PCA 32": ("PCA 32", "relative reconstruction"),
        "neighbors": ("neighbors", "neighbor energy"),
    }
    theirs = [f"average precision, {name} of pixels" for name in pixels]
    yield "digit", "chance", "minimum", *ours, *theirs, "paper: MEG", "BiGAN"
    config = "mnist_anomaly" if BUDGET.value == "full" else "mnist_anomaly_small"
    for digit in range(10):
        run = Run(str(digit), f"configs/{config}.py:{digit}")
        classical = _classical(run)
        for seed in range(SEEDS.value or 1):
            log = metric_writer.read(trained(run, seed))
            names = ["prevalence", "minimum_auprc"]
            names += [f"{s}_{area}" for area in areas.values() for s in scores]
            names.append("neighbor_energy_auroc")
            yield (
                f"{digit}, seed {seed}",
                *(_last(log, f"anomaly/{name}") for name in names),
                *(classical[name]["average_precision"] for name in pixels.values()),
                *published.get(digit, ("-", "-")),
            )


def _last(log, name) -> float:
    """The last value of a metric that a run has written."""
    return float(anomaly.last_evaluations(log, name, num=1)[0])


def _classical(run) -> dict[tuple[str, str], dict[str, float]]:
    """(baseline, score) -> figures, of the pixels; kept in --runs."""
    path = pathlib.Path(RUNS.value, f"baselines-{experiment.name(run.config)}.json")
    if not path.exists():
        arguments = ("--only=PCA,neighbors", "--components=32", *_flags(run))
        found = measure.module("benchmarks.anomaly_baselines", *arguments)
        path.write_text(json.dumps(found["results"]) + "\n")
    rows = json.loads(path.read_text())
    return {(row["baseline"].split(",")[0], row["score"]): row for row in rows}


def figure3() -> Iterator[Sequence]:
    """Toy densities: mass near the modes and divergence from the truth, in nats.

    Calibrated ones as noise contrast has finished them, and before.
    """
    names = ("modes", "near_share", "mass_at_beta_1", "best_beta", "best_beta_mass")
    names += ("kl_at_beta_1", "kl_at_best_beta")
    names += (
        "held_out_log_likelihood_at_best_beta",
        "held_out_log_likelihood_of_truth",
    )
    yield "", *(name.replace("_", " ") for name in names)
    variant = "paper" if BUDGET.value == "full" else "calibrated"
    for data in ("25gaussians", "8gaussians", "swissroll"):
        for seed in range(SEEDS.value or 3):
            run = Run(data, f"configs/toy_{data}.py:{variant}")
            evaluations = {"": "plane"}
            if variant == "calibrated":
                evaluations |= {", before the finish": "before_finish"}
            for words, evaluation in evaluations.items():
                found = evaluated(run, evaluation, seed)
                row = (found.get(name, "-") for name in names)
                yield f"{data}, seed {seed}{words}", *row


def figure4() -> Iterator[Sequence]:
    """Chains from generated images: latent ones sharpen, those on pixels drift (figure 1).

    off the data: root mean square distance of a pixel to the nearest training image,
    in the images' range [-1, 1]. Pictures and arrays are left in the run's chains/.
    """
    full = BUDGET.value == "full"
    workdir = trained(Run("", f"configs/{'celeba' if full else 'mnist_small'}.py"))
    restored = loop.restore(workdir)
    train = restored.experiment().data
    some = np.asarray(
        train.take(train.store, np.arange(min(train.num_examples, 10000)))
    )
    yield (
        *("chain", "beta", "step size", "acceptance", "energy before", "energy after"),
        *("rms of position before", "rms after"),
        *("off the data before", "off the data after"),
    )
    for name, beta, settings in CHAINS:
        if settings.get("target") == "ratio" and not restored.learner.log_ratio:
            continue
        chain = model.sample(
            jax.random.key(SEEDS.value or 0),
            restored.learner,
            restored.state,
            inverse_temperature=beta,
            **settings,
        )
        found = trace.write(chain, workdir / "chains" / name.replace(" ", "_"))
        yield (
            *(name, beta, found["step_size"], found["acceptance"]),
            *(found["energy_before"], found["energy_after"]),
            *(found["rms_before"], found["rms_after"]),
            *(_off_data(x, some) for x in (chain.before, chain.x)),
        )


def proposal_table1() -> Iterator[Sequence]:
    """Li, Chen and Sommer 2021, table 1: the learned proposal beside four samplers.

    The reduced budget prints the samplers that need no training.
    """
    full = BUDGET.value == "full"
    unknown = set(ROWS.value) - set(proposals.ROWS)
    if unknown:
        raise ValueError(f"rows={unknown}: choose from {', '.join(proposals.ROWS)}.")
    yield from proposals.table(
        ROWS.value,
        (lambda config, seed: trained(Run("", config), seed)) if full else None,
        runs=RUNS.value,
        data_dir=DATA_DIR.value,
        seeds=SEEDS.value or (3 if full else 1),
    )


def image_ebm() -> Iterator[Sequence]:
    """Li, Chen and Sommer 2021, section 5.2: image energies with two samplers.

    Same seed and settings but for the sampler. Distances of the buffer to data beside
    those of other data (floor) and of what the chains began at; the entropy of the
    proposal per dimension in nats, means over the first and the last tenth of training;
    the frozen chains' energy distance to data at the end of long runs. FID takes the full
    budget and --inception_weights.
    """
    config = "ebm_flowers" if BUDGET.value == "full" else "ebm_digits"
    sides = ("buffer", "floor", "start")
    yield (
        *("sampler", *(f"Frechet distance of pixels, {side}" for side in sides)),
        *(f"energy distance, {side}" for side in sides),
        *("acceptance", "entropy, early", "late", "iterations a second"),
        *("long run, acceptance", "energy before", "energy after"),
        *("distance from the buffer before", "distance from the buffer after"),
        *("from the start after", "floor"),
        *("FID", "paper: FID"),
    )
    for sampler, published in (("neural", 38.1), ("mala", 43.0)):
        run = Run(sampler, f"configs/{config}.py:{sampler}")
        for seed in range(SEEDS.value or 1):
            found = evaluated(run, "buffer", seed)
            chain = evaluated(run, "long_run", seed)
            yield (
                f"{sampler}, seed {seed}",
                *(found[f"frechet_{side}"] for side in sides),
                *(found[f"energy_distance_{side}"] for side in sides),
                *_early_and_late(metric_writer.read(trained(run, seed))),
                chain["acceptance_buffer"],
                *(chain[f"energy_{when}_buffer"] for when in ("before", "after")),
                *(chain[f"distance_{when}_buffer"] for when in ("before", "after")),
                *(chain["distance_after_start"], chain["energy_distance_floor"]),
                *(_fid(run, seed), published),
            )


def _fid(run, seed) -> float | str:
    """Of the buffer at full size, with --inception_weights."""
    if BUDGET.value != "full" or not INCEPTION.value:
        return "-"
    weights = checks.path(INCEPTION.value).resolve()
    fields = {"evaluation.inception_weights": weights}
    return evaluated(run, "inception", seed, **fields)["fid"]


def _early_and_late(log) -> Iterator[float]:
    """Late acceptance, entropy early and late, and iterations a second."""
    records = [record for record in log if "entropy_per_dim" in record]
    tenth = max(len(records) // 10, 1)

    def mean(name, some):
        return float(np.mean([record[name] for record in some]))

    yield mean("acceptance", records[-tenth:])
    yield mean("entropy_per_dim", records[:tenth])
    yield mean("entropy_per_dim", records[-tenth:])
    rates = [r for r in records if "iterations_per_second" in r]
    yield float(np.median([r["iterations_per_second"] for r in rates]))


CHAINS = (
    ("latent MALA, density ratio", 1.0, {"space": "latent", "target": "ratio"}),
    ("latent MALA", 10.0, {"space": "latent"}),
    ("latent MALA without prior", 10.0, {"space": "latent", "prior": "none"}),
    ("visible MALA", 1.0, {"space": "data"}),
    ("visible MALA, long", 1.0, {"space": "data", "steps": 1000}),
    (
        "visible random walk",
        1.0,
        {
            "space": "data",
            "steps": 1000,
            "kernel_fn": rwm.rwm,
            "target_acceptance": rwm.TARGET_ACCEPTANCE,
        },
    ),
)
"""(name, inverse temperature, settings of `sampling.run`)."""


def _off_data(x, train) -> float:
    """Mean over samples [N, ...] of the rms pixel distance to the nearest of `train`."""
    flat, train = (v.reshape(len(v), -1).astype(np.float64) for v in (x, train))
    nearest = sklearn_metrics.pairwise_distances_argmin_min(flat, train)[1]
    return float(np.mean(nearest) / np.sqrt(flat.shape[1]))


TABLES: Mapping[str, Callable[[], Iterator[Sequence]]] = {
    "images": image_methods,
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "figure3": figure3,
    "figure4": figure4,
    "proposal_table1": proposal_table1,
    "image_ebm": image_ebm,
}


def main(name: str) -> int:
    """Prints a table row by row as it is known, and leaves it as JSON in --runs."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    flags.FLAGS.runs = str(atomic.folder(checks.path(RUNS.value)))
    head, *_ = rows = [next(table := TABLES[name]())]
    _show(head)
    print("|" + "---|" * len(head))
    records = (dict(zip(head, row, strict=True)) for row in table)
    seeds = range(SEEDS.value or (KDD99_SEEDS if name == "table3" else 1))
    for found in recording.recorded(records, seeds):
        rows.append([_cell(value) for value in found.values()])
        _show(rows[-1])
    pathlib.Path(RUNS.value, f"{name}.json").write_text(json.dumps(rows) + "\n")
    return 0


def _show(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    app.run(main, choices=TABLES)
