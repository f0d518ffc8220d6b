"""Did the chains mix? Effective sample size, R-hat, squared jumps, acceptance.

Vehtari et al. 2021 by ArviZ for scalar traces; for positions one estimator with the
choices in which Levy et al. 2018 (L2HMC), Song et al. 2017 (A-NICE-MC), Hoffman et al.
2019 (NeuTra) and Titsias and Dellaportas 2019 differ.
"""

import functools
import inspect
import logging
import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from megjax import checks, extras

LOG = logging.getLogger(__name__)
MIN_DRAWS = 4
TRUNCATIONS = ("geyer", "above", "first")
CUT = 0.05


class Estimator(NamedTuple):
    """How to turn the draws of chains into an effective sample size.

    truncation: which lags count.
        "geyer": the initial monotone sequence of pair sums; antithetic chains can
        score above 1 (Geyer 1992; Titsias and Dellaportas).
        "above": every lag whose correlation is above 0.05 (L2HMC, A-NICE-MC);
        negative correlations earn nothing, so that the score never exceeds 1. Noise
        above the cut counts, so that few draws score too little: half, for an AR(1) of
        0.5 with one chain of 2000.
        "first": lags before the first with |correlation| < 0.05 (NeuTra).
    mean: known means [dim] to centre by; None for those of all draws pooled.
    variance: known variances [dim] to divide by; None for those of the draws. One that
        is too large inflates the score, and so do draws that miss the tails of theirs.
    trace_weighted: one correlation of all coordinates together, sum of covariances by
        sum of variances (L2HMC): dominated by the widest direction.
    """

    truncation: str = "geyer"
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    trace_weighted: bool = False


GEYER = Estimator()


def effective_sample_size(traces: np.ndarray) -> float:
    """Independent draws that would estimate the mean as well: [chains, draws] -> float.

    Pooled over chains, autocorrelations cut by Geyer's initial monotone sequence on
    split chains. For an AR(1) process of coefficient r it is draws * (1 - r) / (1 + r).
    NaN where it is undefined: fewer than 4 draws, a non-finite value, no variation; and
    without ArviZ (the extra `sampling`).

    >>> import numpy as np
    >>> from megjax import effective_sample_size
    >>> draws = np.random.default_rng(0).normal(size=(4, 500))
    >>> 1500 < effective_sample_size(draws) < 2500
    True
    """
    if not _usable(traces) or not _has_arviz():
        return float("nan")
    return float(_arviz().ess(np.asarray(traces, np.float64), method="mean"))


def r_hat(traces: np.ndarray) -> float:
    """Rank-normalised split R-hat, [chains, draws] -> float; 1 when chains agree.

    The larger of the bulk and the folded (spread) version; above 1.01 the chains have
    not mixed. NaN as for `effective_sample_size` and for a single chain; infinite
    where chains differ and none of them moves.

    >>> import numpy as np
    >>> from megjax import r_hat
    >>> draws = np.random.default_rng(0).normal(size=(4, 500))
    >>> abs(r_hat(draws) - 1) < 0.01
    True
    """
    if not _usable(traces) or len(traces) < 2:
        return float("nan")
    traces = np.asarray(traces, np.float64)
    if np.all(np.ptp(traces, axis=1) == 0):
        return float("inf")
    return float(_arviz().rhat(traces)) if _has_arviz() else float("nan")


def autocorrelations(x: np.ndarray, estimator: Estimator) -> np.ndarray:
    """Mean over chains of the autocorrelation at every lag.

    x: [chains, draws, dim] -> [draws, dim], or [draws, 1] where trace-weighted. Lag t
    is a sum over draws - t products divided by `draws`, the form that the variance of
    a mean of finitely many draws contains; lag 0 is 1 with empirical moments only.
    Raises ValueError unless x has three axes.
    """
    if np.ndim(x) != 3:
        raise ValueError(f"x has shape {np.shape(x)}: want [chains, draws, dim].")
    columns = [
        _autocovariances(np.asarray(x[..., i], np.float64), mean)
        for i, mean in enumerate(_or_none(estimator.mean, x.shape[2]))
    ]
    covariances = np.stack(columns, axis=1)
    if estimator.variance is None:
        variances = covariances[0]
    else:
        variances = np.asarray(estimator.variance, np.float64)
    if estimator.trace_weighted:
        covariances = covariances.sum(axis=1, keepdims=True)
        variances = variances.sum(keepdims=True)
    return covariances / np.where(variances > 0, variances, np.nan)


def efficiencies(x: np.ndarray, estimator: Estimator = GEYER) -> np.ndarray:
    """Effective sample size per draw, 1 / (1 + 2 sum of autocorrelations).

    x: [chains, draws, dim] -> [dim], or [1] where trace-weighted. For an AR(1) process
    of coefficient r it is (1 - r) / (1 + r), a little more for the truncations at 0.05.
    NaN where a coordinate has a non-finite value or does not vary. Raises ValueError
    at an unknown truncation or wrong shape.
    """
    if estimator.truncation not in TRUNCATIONS:
        known = ", ".join(TRUNCATIONS)
        raise ValueError(f"truncation={estimator.truncation!r}: choose one of {known}.")
    r = autocorrelations(x, estimator)
    with np.errstate(invalid="ignore"):
        if estimator.truncation == "above":
            total = np.sum(np.where(r[1:] > CUT, r[1:], 0), axis=0)
        elif estimator.truncation == "first":
            before = np.cumsum(np.abs(r[1:]) < CUT, axis=0) == 0
            total = np.sum(np.where(before, r[1:], 0), axis=0)
        else:
            total = _geyer(r)
    # NaN correlations would otherwise look like none.
    return np.where(np.isnan(r[0]), np.nan, 1 / (1 + 2 * total))


def squared_jumps(x: np.ndarray) -> np.ndarray:
    """Expected squared jump between consecutive draws, [chains, draws, dim] -> [dim].

    Of a stationary chain it is twice the variance times one minus the lag-1
    autocorrelation.

    >>> import numpy as np
    >>> from megjax.metrics.mcmc import squared_jumps
    >>> squared_jumps(np.array([[[0.0], [1.0], [3.0]]])).tolist()
    [2.5]
    """
    return np.mean(np.diff(np.asarray(x, np.float64), axis=1) ** 2, axis=(0, 1))


def longest_rejection_run(x: np.ndarray) -> int:
    """Most steps in a row for which a chain of [chains, draws, dim] did not move."""
    still = np.all(x[:, 1:] == x[:, :-1], axis=2)
    longest = run = np.zeros(len(x), int)
    for column in still.T:
        run = np.where(column, run + 1, 0)
        longest = np.maximum(longest, run)
    return int(longest.max())


def report(
    x: np.ndarray,
    *,
    gradients_per_draw: float,
    seconds: float | None = None,
    mean: np.ndarray | None = None,
    variance: np.ndarray | None = None,
) -> dict[str, float]:
    """Efficiency of chains x [chains, draws, dim] by every definition in use.

    Effective sample sizes per transition: ess_geyer, centred by the known mean where
    there is one; ess_above and ess_first, divided by the known variance too, as the
    tables of the proposal paper; all three minima over coordinates. ess_trace (L2HMC)
    is of all coordinates together, ess_geyer_x0 and ess_above_x0 of the first, on which
    a funnel hangs; ess_geyer_others and ess_above_others, where there are others, are
    minima over them.
    ess_per_gradient and ess_per_second divide ess_geyer: by the target's gradients in a
    transition, reverse move included, and by `seconds`, the wall time of all draws of
    all chains.

    Also the largest R-hat, the sum of expected squared jumps, the smallest of them in
    units of twice the variance (1 - the lag-1 autocorrelation, which shorter runs can
    tell than an effective sample size), and, where the moments
    are known, the largest error of a mean in standard deviations and the smallest and
    largest ratio of second moments about it: a chain that misses part of the target
    can score well.
    """
    own, known = Estimator(mean=mean), Estimator(mean=mean, variance=variance)
    geyer = efficiencies(x, own)
    above = efficiencies(x, known._replace(truncation="above"))
    trace = known._replace(truncation="above", trace_weighted=True)
    jumps = squared_jumps(x)
    spread = np.var(x, axis=(0, 1), dtype=np.float64) if variance is None else variance
    metrics = {
        "ess_geyer": float(np.min(geyer)),
        "ess_above": float(np.min(above)),
        "ess_first": float(np.min(efficiencies(x, known._replace(truncation="first")))),
        "ess_trace": float(efficiencies(x, trace)[0]),
        "ess_geyer_x0": float(geyer[0]),
        "ess_above_x0": float(above[0]),
        "ess_per_gradient": float(np.min(geyer)) / gradients_per_draw,
        "squared_jump": float(np.sum(jumps)),
        "relative_jump": float(
            np.min(jumps / np.where(spread > 0, 2 * spread, np.nan))
        ),
        # Not Python's max, which loses a NaN.
        "r_hat": float(np.max([r_hat(x[..., i]) for i in range(x.shape[2])])),
    }
    if x.shape[2] > 1:
        metrics["ess_geyer_others"] = float(np.min(geyer[1:]))
        metrics["ess_above_others"] = float(np.min(above[1:]))
    if seconds is not None:
        draws = x.shape[0] * x.shape[1]
        metrics["ess_per_second"] = metrics["ess_geyer"] * draws / seconds
    return metrics | _errors(x, mean, variance)


def exported(x: np.ndarray, infos=None, *, name: str = "x"):
    """Chains as ArviZ keeps them: InferenceData before its version 1, then a DataTree.

    x: [chains, draws, ...], the posterior's variable `name`. infos: a NamedTuple of
    [chains, draws], as `samplers.kernel.Info`; its fields become `sample_stats`.
    """
    groups = {"posterior": {name: np.asarray(x)}}
    if infos is not None:
        stats = {k: np.asarray(v) for k, v in infos._asdict().items()}
        # ArviZ's name for it.
        stats["diverging"] = stats.pop("is_divergent")
        groups["sample_stats"] = stats
    return inference_data(groups)


def inference_data(groups: Mapping[str, Mapping[str, np.ndarray]]):
    """Groups of arrays [chains, draws, ...] as ArviZ's data.

    InferenceData before ArviZ's version 1, then a DataTree. Raises ValueError where
    arrays differ in chains or draws, ModuleNotFoundError that names the extra where
    ArviZ is not installed.
    """
    arviz = _arviz()
    forms = {
        f"{group}/{name}": np.shape(values)[:2]
        for group, arrays in groups.items()
        for name, values in arrays.items()
    }
    expected = next(iter(forms.values()), None)
    for name, form in forms.items():
        if len(form) < 2 or form != expected:
            raise ValueError(
                f"{name} has [chains, draws] {list(form)}, and {next(iter(forms))} "
                f"{list(expected)}: give arrays of the same chains and draws."
            )
    parameters = inspect.signature(arviz.from_dict).parameters
    if "posterior" in parameters:
        return arviz.from_dict(**groups)
    # SMC has more chains than draws of each, which ArviZ takes for a mistake.
    known = {"check_conventions"} & parameters.keys()
    return arviz.from_dict(groups, **dict.fromkeys(known, False))


def acceptance(
    acceptance_rate: np.ndarray, is_accepted: np.ndarray, is_divergent: np.ndarray
) -> Mapping[str, float]:
    """What became of the proposals of all chains; three of [chains, draws].

    acceptance: mean min(1, r). acceptance_lowest: of the chain with the lowest mean.
    stuck: fraction of chains without an accepted move in the last half of the draws.
    divergent: fraction of proposals that were, as in `kernel.Info`. NaN without draws.
    """
    if not np.size(acceptance_rate):
        names = ("acceptance", "acceptance_lowest", "stuck", "divergent")
        return dict.fromkeys(names, float("nan"))
    late = np.asarray(is_accepted)[:, np.shape(is_accepted)[1] // 2 :]
    return {
        "acceptance": float(np.mean(acceptance_rate)),
        "acceptance_lowest": float(np.min(np.mean(acceptance_rate, axis=1))),
        "stuck": float(np.mean(~np.any(late, axis=1))),
        "divergent": float(np.mean(is_divergent)),
    }


def _errors(x, mean, variance) -> dict[str, float]:
    """How far draws [chains, draws, dim] are from known moments; empty without them."""
    if mean is None or variance is None:
        return {}
    away = np.asarray(x, np.float64) - mean
    ratios = np.mean(away**2, axis=(0, 1)) / variance
    errors = np.abs(np.mean(away, axis=(0, 1))) / np.sqrt(variance)
    return {
        "mean_error": float(np.max(errors)),
        "variance_ratio_lowest": float(np.min(ratios)),
        "variance_ratio_highest": float(np.max(ratios)),
    }


def _or_none(values, dim):
    """Known values per coordinate, or None for each."""
    if values is None:
        return [None] * dim
    values = np.asarray(values, np.float64)
    if values.shape != (dim,):
        raise ValueError(f"known moments have shape {values.shape}: want [{dim}].")
    return values


def _autocovariances(traces, mean) -> np.ndarray:
    """Of one coordinate [chains, draws], averaged over chains: [draws]."""
    draws = traces.shape[1]
    centred = traces - (np.mean(traces) if mean is None else mean)
    # Zeros behind the draws keep the circular convolution from wrapping.
    size = 2 ** math.ceil(math.log2(2 * draws))
    spectrum = np.fft.rfft(centred, size, axis=1)
    power = np.mean(np.abs(spectrum) ** 2, axis=0)
    return np.fft.irfft(power, size)[:draws] / draws


def _geyer(r) -> np.ndarray:
    """Sum over lags >= 1 of Geyer's initial monotone sequence: [lags, dim] -> [dim].

    Sums of pairs (2k, 2k + 1), up to the first that is not positive, none larger than
    the one before.
    """
    lags = len(r) // 2 * 2
    pairs = r[:lags:2] + r[1:lags:2]
    positive = np.cumprod(pairs > 0, axis=0)
    monotone = np.minimum.accumulate(np.where(positive, pairs, 0), axis=0)
    total = np.sum(monotone, axis=0)
    # The first pair contains lag 0. ArviZ's bound for antithetic chains, whose sum
    # noise can make arbitrarily negative: an efficiency of at most log10(draws).
    bound = 1 / math.log10(max(lags, 11))
    return np.maximum(total - r[0], (bound - 1) / 2)


def _usable(traces: np.ndarray) -> bool:
    """Whether the estimators are defined. Raises ValueError unless [chains, draws]."""
    try:
        traces = traces if hasattr(traces, "dtype") else np.asarray(traces, float)
    except (TypeError, ValueError) as error:
        raise ValueError("traces are no array of numbers: want [chains, draws].") from (
            error
        )
    checks.array("traces", traces)
    if np.ndim(traces) != 2:
        raise ValueError(f"traces have shape {np.shape(traces)}: want [chains, draws].")
    if traces.dtype == bool:
        traces = traces.astype(float)
    enough = np.shape(traces)[1] >= MIN_DRAWS and len(traces) > 0
    return enough and np.all(np.isfinite(traces)) and np.ptp(traces) > 0


def _arviz():
    """ArviZ, imported when needed: it takes over a second, and 0.23 warns of 1.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with extras.needed("sampling"):
            import arviz
    return arviz


@functools.cache
def _has_arviz() -> bool:
    """Whether ArviZ is installed; says once in the log where it is not."""
    try:
        _arviz()
    except ModuleNotFoundError as error:
        LOG.warning("no R-hat and no effective sample size: %s", error)
        return False
    return True
