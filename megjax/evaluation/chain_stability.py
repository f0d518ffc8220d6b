"""Are the persistent chains of an image energy at the data, and do they stay there?

Section 5.2 and figure 3 of Li, Chen and Sommer 2021 (proposal entropy); Nijkamp et al.
2020, "On the anatomy of MCMC-based maximum likelihood learning of energy-based models",
calls an energy convergent whose long chains still look like data.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax import plotting
from megjax.data.dataset import Dataset
from megjax.evaluation import sampler_comparison
from megjax.learners.base import Learner
from megjax.metrics import energy_distance
from megjax.sampling import draw
from megjax.sampling import model as sampling
from megjax.types import Array, Evaluation, Key, PyTree, Report, SharedEvaluation

NUM_RECORDS = 20
SHOWN = 100
SHOWN_CHAINS = 12


class Model(NamedTuple):
    """A learner with persistent chains, and how to see them.

    learner: with a `kernel`. positions_fn: state -> all chains as data [M, ...].
    start_fn: (key, shape [N, ...]) -> where chains begin, as data.
    noise_fn: (key, x) -> x, what training puts on data, or None.
    """

    learner: Learner
    positions_fn: Callable[[PyTree], Array]
    start_fn: Callable[[Key, tuple[int, ...]], Array]
    noise_fn: Callable[[Key, Array], Array] | None = None


def buffer_distance(model: Model, data: Dataset) -> Evaluation:
    """An evaluation of how far the chains are from the data, two ways.

    frechet: squared Frechet distance of pixels; energy_distance: of `distance`. Both
    fall with the number of examples, so that all sets have the same: half the data, or
    as many as there are chains. Against that many of the data: _buffer, of the chains;
    _floor, of other data; _start, of what the chains began at. Data bear the noise of
    training, and all are clipped to [-1, 1].
    """

    def evaluate(key, state):
        keys = jax.random.split(key, 3)
        chains = np.asarray(model.positions_fn(state))
        num = min(data.num_examples // 2, len(chains))
        x = examples(model, data, keys[0], 2 * num)
        rows = np.asarray(jax.random.permutation(keys[1], len(chains)))[:num]
        sets = {
            "buffer": chains[rows],
            "floor": x[num:],
            "start": model.start_fn(keys[2], x[:num].shape),
        }
        metrics = {"num_examples": num}
        for name, values in sets.items():
            for measure, value in distances(values, x[:num]).items():
                metrics[f"{measure}_{name}"] = value
        shown = {"chains": chains[rows], "data": x}
        pictures = {k: plotting.image_grid(v[:SHOWN]) for k, v in shown.items()}
        return Report(metrics, pictures)

    return evaluate


def examples(model: Model, data: Dataset, key: Key, num: int) -> np.ndarray:
    """Data [num, ...] drawn without replacement, with the noise of training."""
    key_rows, key_noise = jax.random.split(key)
    rows = jax.random.permutation(key_rows, data.num_examples)[:num]
    x = jax.jit(data.take)(data.store, rows)
    return np.asarray(model.noise_fn(key_noise, x) if model.noise_fn else x)


def distances(x: Array, y: Array) -> dict[str, float]:
    """Between two sets of images [N, ...], clipped to [-1, 1]."""
    return {
        "frechet": sampler_comparison.pixel_distance(_clipped(x), _clipped(y)),
        "energy_distance": away(x, y),
    }


def away(x: Array, y: Array) -> float:
    """The energy distance of two sets of images [N, ...], clipped to [-1, 1]."""
    return float(_energy_distance(_clipped(x), _clipped(y)))


_energy_distance = jax.jit(energy_distance.energy_distance)


def _clipped(x):
    return np.clip(np.asarray(x), -1, 1)


def long_run(
    model: Model,
    data: Dataset,
    *,
    num_chains: int = 64,
    num_transitions: int = 100_000,
) -> Evaluation:
    """An evaluation of chains of the frozen sampler, from the buffer and from the start.

    Twenty times on the way, if there are so many transitions: mean energy, rms of
    pixels and energy distance to as many examples. Metrics, for both: acceptance, and
    those numbers before and after; the energy distance of other data is its floor. Both
    have the same random numbers: where they end alike, the starts are forgotten.
    """

    @SharedEvaluation
    def evaluate(key, state):
        keys = jax.random.split(key, 4)
        num = min(num_chains, data.num_examples // 2)
        x = examples(model, data, keys[0], 2 * num)
        against = x[:num]
        floor = away(x[num:], against)
        metrics = {"num_transitions": num_transitions, "energy_distance_floor": floor}
        energies = jax.jit(model.learner.energy)(state, against)
        metrics["energy_of_data"] = float(np.mean(energies))
        starts = {
            "buffer": model.learner.sample(keys[1], state, num),
            "start": model.start_fn(keys[2], against.shape),
        }
        tracks = {}
        for name, start in starts.items():
            track = tracked(model.learner, state, keys[3], start, num_transitions)
            tracks[name] = track
            metrics |= {f"{k}_{name}": v for k, v in summary(track, against).items()}
        return Report(metrics, _pictures(tracks, against, floor))

    return evaluate


class Track(NamedTuple):
    """Records of chains: x [T + 1, num, ...] and energy [T + 1, num] at `times`.

    acceptance: mean over all transitions.
    """

    times: np.ndarray
    x: np.ndarray
    energy: np.ndarray
    acceptance: float


def tracked(
    learner: Learner, state: PyTree, key: Key, start: Array, num_transitions: int
) -> Track:
    """Chains of the frozen sampler from a start [num, ...], on the learner's energy."""
    thin = max(num_transitions // NUM_RECORDS, 1)
    frozen = sampling.Trained(learner.kernel, state)
    target, _ = sampling.targeted(learner, "data", "none", frozen, True)
    chain = sampling.chain(target)
    params = {"learner": state, "kernel": state}
    params |= {"inverse_temperature": 1.0, "step_size": np.nan}
    states = draw.start(chain, params, jnp.asarray(start))
    first = draw.observed(chain, params, states)
    num_steps = num_transitions // thin * thin
    found = draw.chains(key, chain, params, states, num_steps=num_steps, thin=thin)
    x, energy = (
        np.moveaxis(found.observations[name], 1, 0) for name in ("draws", "energy")
    )
    return Track(
        np.arange(0, num_transitions + 1, thin),
        np.concatenate([first["draws"][None], x]),
        np.concatenate([first["energy"][None], energy]),
        float(np.mean(found.infos["acceptance_rate"])),
    )


def summary(track: Track, against: np.ndarray) -> dict[str, float]:
    """Numbers of a track before and after."""
    found = {"acceptance": track.acceptance}
    for name, at in (("before", 0), ("after", -1)):
        found |= {
            f"energy_{name}": float(np.mean(track.energy[at])),
            f"rms_{name}": rms(track.x[at]),
            f"distance_{name}": away(track.x[at], against),
        }
    return found


def rms(x: np.ndarray) -> float:
    """Root mean square of all pixels."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _pictures(tracks, against, floor) -> dict[str, np.ndarray]:
    energies, far = {}, {}
    for name, track in tracks.items():
        energies[f"from {name}"] = (track.times, np.mean(track.energy, axis=1))
        found = [away(x, against) for x in track.x]
        far[f"from {name}"] = (track.times, np.array(found))
        far["other data"] = (track.times, np.full(len(found), floor))
    found = {
        "energy": plotting.curves(
            energies, x_label="transitions", y_label="mean energy"
        ),
        "distance": plotting.curves(
            far, x_label="transitions", y_label="energy distance to data", log_y=True
        ),
    }
    for name, track in tracks.items():
        rows = np.moveaxis(track.x[::2, :SHOWN_CHAINS], 0, 1)
        found[f"from_{name}"] = plotting.timeline(rows, track.times[::2])
    return found
