"""Inverse Ising: fields and couplings of spins from what they were seen to do.

Nguyen, Zecchina and Berg 2017, "Inverse statistical problems", for all four estimators;
Roudi, Aurell and Hertz 2009 for the mean fields; Besag 1975, pseudo-likelihood.
E(s) = -sum_i h_i s_i - sum_{i<j} J_ij s_i s_j with spins -1 and 1.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from megjax.evaluation.ising import Estimate

MAX_SPINS = 16
"""Up to which maximum likelihood sums over all states."""


class Couplings(NamedTuple):
    """Estimates and their standard errors.

    fields: h [n]. couplings: J [n, n], symmetric with a diagonal of zeros.
    """

    fields: np.ndarray
    couplings: np.ndarray
    field_errors: np.ndarray
    coupling_errors: np.ndarray


class Bonds(NamedTuple):
    """Estimates where only some pairs are coupled.

    fields: h [n]. couplings: J [E], edge by edge, with their errors [E]. mean: of all
    couplings; its error knows how those of different edges depend on each other.
    """

    fields: np.ndarray
    couplings: np.ndarray
    coupling_errors: np.ndarray
    mean: Estimate


def maximum_likelihood(x: np.ndarray, *, num_steps: int = 50) -> Couplings:
    """The exact maximum, by Newton's method on sums over all 2^n states.

    x: independent spins [N, n]. Errors are those of the Fisher information. Raises
    ValueError above 16 spins and where two spins are never seen to disagree, or a spin
    never to change: the maximum is then at infinity.
    """
    x = _checked(x)
    num, n = x.shape
    if n > MAX_SPINS:
        raise ValueError(
            f"{n} spins have 2^{n} states: give at most {MAX_SPINS}, or use "
            "pseudo_likelihood"
        )
    states = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1
    features, target = _features(states), _features(x).mean(0)
    theta = np.zeros_like(target)
    for _ in range(num_steps):
        mean, information = _moments(features, theta)
        step = np.linalg.solve(information, target - mean)
        # Far from the maximum a full step of Newton's may overshoot.
        theta += step / max(1.0, 2 * np.max(np.abs(step)))
        if np.max(np.abs(step)) < 1e-10:
            break
    _check_converged(step)
    _, information = _moments(features, theta)
    errors = np.sqrt(np.diag(np.linalg.inv(information)) / num)
    return Couplings(*_unpacked(theta, n), *_unpacked(errors, n))


def pseudo_likelihood(x: np.ndarray, *, num_steps: int = 50) -> Couplings:
    """A logistic regression of every spin on the others; each J the mean of its two.

    x: independent spins [N, n]. Errors are of the sandwich form, which holds although
    the conditionals are no likelihood. Raises ValueError as `maximum_likelihood`, but
    for the number of spins.
    """
    x = _checked(x)
    num, n = x.shape
    theta, influence = np.zeros((n, n)), np.zeros((num, n, n))
    for i in range(n):
        # The place of a spin's own coupling holds its field.
        inputs = x.copy()
        inputs[:, i] = 1
        theta[i], influence[:, i] = _regression(inputs, x[:, i], num_steps)
    influence = (influence + influence.swapaxes(1, 2)) / 2
    errors = np.sqrt(np.mean(influence**2, 0) / num)
    theta = (theta + theta.T) / 2
    return Couplings(
        np.diag(theta).copy(), _hollow(theta), np.diag(errors).copy(), _hollow(errors)
    )


def mean_field(x: np.ndarray, *, num_groups: int = 20) -> Couplings:
    """Naive mean field: J is minus the inverse covariance off its diagonal.

    x: spins [N, n] in any order; errors by leaving out each of `num_groups`
    consecutive parts, which says nothing of the bias of the method.
    """
    return _jackknife(_mean_field, _checked(x), num_groups)


def tap(x: np.ndarray, *, num_groups: int = 20) -> Couplings:
    """The equations of Thouless, Anderson and Palmer: mean field one order further.

    As `mean_field`, to which it is equal where all magnetisations vanish. Pairs for
    which the equation has no real root take the place where its two roots meet.
    """
    return _jackknife(_tap, _checked(x), num_groups)


def bond_pseudo_likelihood(
    x: np.ndarray, edges: np.ndarray, *, num_groups: int, num_steps: int = 50
) -> Bonds:
    """`pseudo_likelihood` of a model in which only the pairs `edges` [E, 2] are coupled.

    x: spins [N, n] of `num_groups` consecutive parts of one size, such as Markov chains:
    independent of each other, however strongly the spins of one part depend. Every spin
    needs an edge. Raises ValueError as `pseudo_likelihood`, and for parts that do not
    come out even.
    """
    x, edges = _grouped(_checked(x), num_groups), np.asarray(edges)
    num, n = x.shape
    fields, couplings = np.zeros(n), np.zeros(len(edges))
    influence, total = np.zeros((len(edges), num_groups)), np.zeros(num_groups)
    for i in range(n):
        at_first, at_second = (np.flatnonzero(edges[:, end] == i) for end in (0, 1))
        own = np.concatenate([at_first, at_second])
        others = np.concatenate([edges[at_first, 1], edges[at_second, 0]])
        inputs = np.concatenate([np.ones((num, 1)), x[:, others]], axis=1)
        theta, moved = _regression(inputs, x[:, i], num_steps)
        fields[i] = theta[0]
        couplings[own] += theta[1:] / 2
        moved = moved.reshape(num_groups, -1, len(theta)).mean(1)[:, 1:] / 2
        influence[own] += moved.T
        total += moved.sum(1) / len(edges)
    errors = _group_error(influence)
    return Bonds(
        fields,
        couplings,
        errors,
        Estimate(float(couplings.mean()), float(_group_error(total))),
    )


def shared_coupling(x: np.ndarray, edges: np.ndarray, *, num_groups: int) -> Estimate:
    """The maximum of the pseudo-likelihood without fields and with one J for all edges.

    Arguments and errors as of `bond_pseudo_likelihood`. Of a million spins it needs
    only how often each has how many neighbours like itself.
    """
    spins = np.ascontiguousarray(_grouped(_spins(x), num_groups).T, np.int16)
    degree, pull = np.bincount(np.ravel(edges)).max(), np.zeros_like(spins)
    for first, second in edges:
        pull[first] += spins[second]
        pull[second] += spins[first]
    aligned = (spins * pull + degree).T.reshape(num_groups, -1)
    width = 2 * degree + 1
    share = np.stack([np.bincount(row, minlength=width) for row in aligned])
    share = share / aligned.shape[1]
    values, mean, coupling = np.arange(width) - degree, share.mean(0), 0.0
    for _ in range(50):
        slopes = values * (1 - np.tanh(coupling * values))
        curvature = mean @ (values**2 * (1 - np.tanh(coupling * values) ** 2))
        step = mean @ slopes / curvature
        coupling += step / max(1.0, abs(step))
        if abs(step) < 1e-12:
            break
    _check_converged(step)
    return Estimate(float(coupling), float(_group_error(share @ slopes / curvature)))


def mean_field_coupling(
    x: np.ndarray, edges: np.ndarray, *, num_groups: int
) -> Estimate:
    """The mean over `edges` of `mean_field`'s couplings, which it takes for all pairs.

    Arguments as of `bond_pseudo_likelihood`; the error by leaving out each part.
    """
    x = _grouped(_checked(x), num_groups)
    parts = x.reshape(num_groups, -1, x.shape[1])
    total, second = x.sum(0), x.T @ x

    def mean(num, total, second):
        covariance = (second - np.outer(total, total) / num) / (num - 1)
        return -np.mean(np.linalg.inv(covariance)[tuple(np.asarray(edges).T)])

    left_out = [
        mean(len(x) - len(part), total - part.sum(0), second - part.T @ part)
        for part in parts
    ]
    error = np.sqrt(num_groups - 1) * np.std(left_out)
    return Estimate(float(mean(len(x), total, second)), float(error))


def recovery(estimate: Couplings, truth: np.ndarray) -> Mapping[str, float]:
    """How well couplings were recovered: truth J [n, n].

    rms_error and mean_error (the bias) over pairs; mean_standard_error: what the
    estimate says of itself; within_two_errors: fraction of pairs whose truth lies in the
    interval, 0.954 for honest errors.
    """
    pairs = np.triu_indices(len(truth), 1)
    deviation = (estimate.couplings - truth)[pairs]
    errors = estimate.coupling_errors[pairs]
    return {
        "rms_error": float(np.sqrt(np.mean(deviation**2))),
        "mean_error": float(np.mean(deviation)),
        "mean_standard_error": float(np.mean(errors)),
        "within_two_errors": float(np.mean(np.abs(deviation) < 2 * errors)),
    }


def _spins(x):
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not np.all(np.abs(x) == 1):
        raise ValueError(f"x of shape {x.shape}: give spins -1 and 1, [N, n]")
    return x


def _checked(x):
    x = _spins(x)
    second = x.T @ x / len(x)
    pairs = np.triu_indices(x.shape[1], 1)
    if np.any(np.abs(x.mean(0)) == 1) or np.any(np.abs(second[pairs]) == 1):
        raise ValueError(
            "a spin never changes, or two always agree or disagree: no finite "
            "couplings say so; give more data or leave those spins out"
        )
    return x


def _grouped(x, num_groups):
    if num_groups < 2 or len(x) % num_groups:
        raise ValueError(
            f"num_groups={num_groups} of {len(x)} rows: give at least 2, and a divisor"
        )
    return x


def _group_error(influence):
    """Of a mean over groups: influences [..., G], of which the mean is 0."""
    return np.sqrt(np.sum(influence**2, -1)) / influence.shape[-1]


def _features(x):
    """Spins and products of pairs [N, n + n (n - 1) / 2]."""
    first, second = np.triu_indices(x.shape[1], 1)
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def _unpacked(values, n):
    """(fields [n], symmetric [n, n]) of values in the order of `_features`."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = values[n:]
    return values[:n], matrix + matrix.T


def _moments(features, theta):
    """Mean and covariance of features [S, F] under exp(theta . f) / Z."""
    logits = features @ theta
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    mean = probs @ features
    return mean, (features * probs[:, None]).T @ features - np.outer(mean, mean)


def _regression(inputs, spin, num_steps):
    """Maximum of mean log sigmoid(2 s t.x), and influences: [n], [N, n]."""
    theta = np.zeros(inputs.shape[1])
    for _ in range(num_steps):
        tanh = np.tanh(inputs @ theta)
        slopes = inputs * (spin - tanh)[:, None]
        curvature = (inputs * (1 - tanh**2)[:, None]).T @ inputs / len(inputs)
        step = np.linalg.solve(curvature, slopes.mean(0))
        theta = theta + step / max(1.0, np.max(np.abs(step)))
        if np.max(np.abs(step)) < 1e-10:
            break
    _check_converged(step)
    return theta, np.linalg.solve(curvature, slopes.T).T


def _check_converged(step):
    if not np.max(np.abs(step)) < 1e-6:
        raise ValueError(
            "the couplings do not converge, as where some spins decide others: give "
            "more data, or fewer spins"
        )


def _mean_field(x):
    couplings = _hollow(-np.linalg.inv(np.cov(x.T)))
    mean = x.mean(0)
    return np.arctanh(mean) - couplings @ mean, couplings


def _tap(x):
    mean = x.mean(0)
    inverse = _hollow(np.linalg.inv(np.cov(x.T)))
    # The root of 2 m_i m_j J^2 + J + C^-1 = 0 that joins mean field as m vanishes.
    product = np.outer(mean, mean)
    root = np.sqrt(np.maximum(1 - 8 * product * inverse, 0))
    couplings = -2 * inverse / (1 + root)
    reaction = mean * (couplings**2 @ (1 - mean**2))
    return np.arctanh(mean) - couplings @ mean + reaction, couplings


def _hollow(matrix):
    return matrix - np.diag(np.diag(matrix))


def _jackknife(estimator: Callable, x: np.ndarray, num_groups: int) -> Couplings:
    group = np.arange(len(x)) * num_groups // len(x)
    left_out = [estimator(x[group != i]) for i in range(num_groups)]
    scale = np.sqrt(num_groups - 1)
    errors = (scale * np.std(values, axis=0) for values in zip(*left_out, strict=True))
    return Couplings(*estimator(x), *errors)
