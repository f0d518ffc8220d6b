"""How close samples are to data in a feature space: FID, KID, Inception score.

Kumar et al. 2019, table 2. With a classifier trained elsewhere in place of Inception
the same distances have names of their own, since their numbers cannot be compared.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks, plotting
from megjax.data import images
from megjax.data.dataset import Dataset
from megjax.evaluation import inception
from megjax.learners.base import Learner
from megjax.metrics import frechet
from megjax.metrics.frechet import Summary
from megjax.sampling import model
from megjax.types import Array, Evaluation, Key, PyTree, Report

LOG = logging.getLogger("megjax.fidelity")
ROUNDINGS = {"round": np.round, "truncate": np.floor}
GROUP = 1000
"""Images that are drawn, and summarised, at a time."""

MIN_SAMPLES = 10
"""One for every split of the score."""

SHOWN = 100
_ROUNDING = 1e-3
_MUCH = 0.5
"""Share of values outside of [-1, 1] that no sampler of images has by mistake."""


class Space(NamedTuple):
    """A feature space in which sets of images are compared.

    name: for file names. fingerprint: of everything that features depend on.
    outputs: pixels uint8 [B, H, W, C] -> (features [B, F], logits [B, K])
    frechet, kernel, score: names of the metrics.
    """

    name: str
    fingerprint: str
    outputs: Callable[[np.ndarray], tuple[Array, Array]]
    frechet: str
    kernel: str
    score: str


class Draws(NamedTuple):
    """Samples x [N, ...] and what is known of their making, such as acceptance."""

    x: np.ndarray
    metrics: Mapping[str, float] = {}


Sampler = Callable[[Key, PyTree, int], Draws]
"""(key, learner state, number) -> Draws."""


def inception_space(weights: str) -> Space:
    """The space of FID, KID and Inception score; errors as for `inception.load`."""
    network = inception.load(weights)
    names = ("fid", "kid", "inception_score")
    return Space("inception", network.fingerprint, network.outputs, *names)


def classifier_space(classifier, fingerprint: str) -> Space:
    """The space of a classifier with features(x) -> [B, F] and logits(x) -> [B, K].

    x: images [B, H, W, C] in [-1, 1]. fingerprint: of its weights.
    """

    @jax.jit
    def outputs(pixels):
        x = images.normalised(pixels)
        return classifier.features(x), classifier.logits(x)

    names = ("classifier_frechet", "classifier_kernel_distance", "classifier_score")
    return Space("classifier", fingerprint, outputs, *names)


def generator(learner: Learner) -> Sampler:
    """The learner's own samples."""
    draw = jax.jit(learner.sample, static_argnums=2)
    return lambda key, state, num: Draws(np.asarray(draw(key, state, num)))


def chain_ends(learner, key, state, num, **settings) -> Draws:
    """Ends of chains that start at samples of the learner, and how they moved.

    settings: of `sampling.model.sample`.
    """
    trace = model.sample(key, learner, state, num=num, num_snapshots=2, **settings)
    if len(trace.times) == 1:
        return Draws(trace.x)
    moved = {
        "acceptance": float(np.mean(trace.acceptance_rate)),
        "energy_before": float(np.mean(trace.energy[:, 0])),
        "energy_after": float(np.mean(trace.energy[:, -1])),
        "rms_after": float(np.mean(trace.rms[:, -1])),
    }
    return Draws(trace.x, moved)


def by_ratio(learner: Learner) -> dict[str, Sampler]:
    """Samples improved by the density ratio, where the learner has one.

    Resampled, one of 4; and moved by 30 latent MALA steps after that.
    """
    if learner.log_ratio is None:
        return {}
    ends = functools.partial(chain_ends, learner, target="ratio", resample=4)
    return {
        "resampled": functools.partial(ends, steps=0),
        "latent": functools.partial(ends, steps=30),
    }


def quantised(x: np.ndarray, rounding: str = "round") -> np.ndarray:
    """Images in [-1, 1] as the uint8 of a picture file; values outside are clipped.

    The log says where so many lie outside that the images must have another range.
    rounding: "round", which gives data back as they were, or "truncate", as the paper's
    code writes its samples: they come out half a grey level darker. Raises ValueError
    at other words and at whole numbers, FloatingPointError for images that are not
    finite.
    """
    _check_rounding(rounding)
    x = np.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images of {x.dtype}: give floats in [-1, 1].")
    x = x.astype(np.float32, copy=False)
    if not np.all(np.isfinite(x)):
        raise FloatingPointError("some samples are not finite: use another checkpoint")
    outside = np.mean(np.abs(x) > 1 + _ROUNDING) if x.size else 0
    if outside > _MUCH:
        LOG.warning(
            "%.0f %% of the values of images lie outside [-1, 1], from %.4g to %.4g: they "
            "are clipped; divide images of 0 to 255 by 127.5 and subtract 1",
            *(100 * outside, x.min(), x.max()),
        )
    levels = (np.clip(x, -1, 1) + 1) * np.float32(127.5)
    return ROUNDINGS[rounding](levels).astype(np.uint8)


def reference(
    data: Dataset, space: Space, cache_dir: str, *, batch_size: int = 100
) -> Summary:
    """What a training set looks like in a space, from `cache_dir` where it was before.

    All its images, in a fixed random order. The file is held to the SHA-256 of the
    pixels and of the network. Raises ValueError where it does not match, for sets without
    an end, and for images outside [-1, 1]; the log says where none is below 0.
    """
    if data.num_examples is None:
        raise ValueError(f"{data.name} has no fixed set of images to compare with.")
    words = f"{space.name} {space.fingerprint} {data.num_examples} {data.shape}"
    mark = frechet.fingerprint(words, _pixels(data))
    path = checks.path(cache_dir)
    path = path / f"{data.name}_{space.name}_{mark[:12]}.npz"

    def made():
        LOG.info("%s of %d images of %s", space.name, data.num_examples, data.name)
        return frechet.summary(_outputs(space, _pixels(data), batch_size))

    return frechet.cached(path, mark, made)


def fidelity(
    sampler: Sampler,
    space: Callable[[], Space],
    against: Callable[[], Summary],
    *,
    num_samples: int = 50_000,
    batch_size: int = 100,
    rounding: str = "round",
) -> Evaluation:
    """An evaluation of samples against reference statistics of the same space.

    space, against: called when the evaluation runs, so that to build it is cheap.
    batch_size: of the feature network. rounding: see `quantised`.

    Metrics, under the names of the space: Frechet distance, kernel distance (mean and
    _std over subsets), score of the samples (likewise) and of the data, sizes of both
    sets, and what the sampler tells, averaged. The Frechet distance falls with the
    number of samples, so compare it at equal numbers only.
    Picture: the first 100 samples. Raises ValueError at numbers out of range.
    """
    _check_rounding(rounding)
    if num_samples < MIN_SAMPLES or batch_size < 1:
        raise ValueError(
            f"num_samples={num_samples}, batch_size={batch_size}: give at least "
            f"{MIN_SAMPLES} and 1."
        )

    def evaluate(key, state):
        # Missing weights are reported before the samples are drawn.
        ready, expected = space(), against()
        pixels, reported = _drawn(sampler, key, state, num_samples, rounding)
        found = summary(pixels, ready, batch_size=batch_size)
        picture = plotting.image_grid(images.normalised(pixels[:SHOWN]))
        return Report(compared(found, expected, ready) | reported, {"samples": picture})

    return evaluate


def summary(pixels: np.ndarray, space: Space, *, batch_size: int = 100) -> Summary:
    """What images uint8 [N, H, W, C] look like in a space; ValueError for others."""
    images.check_pixels(pixels)
    groups = np.split(pixels, range(GROUP, len(pixels), GROUP))
    return frechet.summary(_outputs(space, groups, batch_size))


def compared(found: Summary, expected: Summary, space: Space) -> dict[str, float]:
    """The metrics of samples against data, as `fidelity` names them."""
    distance = frechet.frechet_distance(
        found.mean, found.covariance, expected.mean, expected.covariance
    )
    kernel, deviation = frechet.kernel_distance(found.features, expected.features)
    return {
        space.frechet: distance,
        space.kernel: kernel,
        f"{space.kernel}_std": deviation,
        space.score: float(found.score[0]),
        f"{space.score}_std": float(found.score[1]),
        f"{space.score}_of_data": float(expected.score[0]),
        "num_samples": found.num,
        "num_data": expected.num,
    }


def _check_rounding(rounding: str) -> None:
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding={rounding!r}: choose {' or '.join(ROUNDINGS)}.")


def _drawn(
    sampler: Sampler, key: Key, state: PyTree, num: int, rounding: str
) -> tuple[np.ndarray, dict[str, float]]:
    """Pixels uint8 [num, H, W, C], and the sampler's metrics averaged over samples."""
    sizes = [min(GROUP, num - first) for first in range(0, num, GROUP)]
    pixels, reported = [], []
    for i, size in enumerate(sizes):
        draws = sampler(jax.random.fold_in(key, i), state, size)
        pixels.append(quantised(draws.x, rounding))
        reported.append(draws.metrics)
        if i % 10 == 9:
            LOG.info("drew %d of %d samples", sum(sizes[: i + 1]), num)
    means = {
        name: float(np.average([metrics[name] for metrics in reported], weights=sizes))
        for name in reported[0]
    }
    return np.concatenate(pixels), means


def _pixels(data: Dataset) -> Iterator[np.ndarray]:
    """The images of a set as uint8 [B, H, W, C], in a fixed random order."""
    order = np.random.RandomState(frechet.SEED).permutation(data.num_examples)
    take = jax.jit(data.take)
    store = None if data.stream else jax.tree.map(jnp.asarray, data.store)
    lowest = math.inf
    for first in range(0, len(order), GROUP):
        indices = order[first : first + GROUP].astype(np.int32)
        if data.stream:
            x = take(data.stream(indices), np.arange(len(indices)))
        else:
            x = take(store, indices)
        low, high = float(jnp.min(x)), float(jnp.max(x))
        lowest = min(lowest, low)
        if not (low >= -1 - _ROUNDING and high <= 1 + _ROUNDING):
            raise ValueError(
                f"{data.name} has values from {low:.6g} to {high:.6g}: its `take` must "
                "return images in [-1, 1]."
            )
        yield quantised(x)
    if lowest >= 0:
        LOG.warning(
            "no value of %s lies below 0: its images should span [-1, 1]; return 2 x - 1 "
            "where they span [0, 1]",
            data.name,
        )


def _outputs(
    space: Space, groups: Iterable[np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(features, logits) of groups of pixels, all of a group in flight at once.

    The last batch of a group is filled up, so that one compilation serves all.
    """
    for i, pixels in enumerate(groups):
        found = []
        for first in range(0, len(pixels), batch_size):
            batch = pixels[first : first + batch_size]
            found.append(
                space.outputs(np.resize(batch, (batch_size, *batch.shape[1:])))
            )
        features, logits = (np.concatenate(parts) for parts in zip(*found))
        if i % 10 == 9:
            LOG.info("%s features of %d images", space.name, GROUP * (i + 1))
        yield features[: len(pixels)], logits[: len(pixels)]
