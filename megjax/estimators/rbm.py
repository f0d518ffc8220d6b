"""Restricted Boltzmann machines as a scikit-learn transformer.

Trained as in Tieleman 2008 (persistent contrastive divergence); the parameters and
attributes are those of `sklearn.neural_network.BernoulliRBM`, with Gaussian visible
units beside its binary ones.
"""

import functools
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from megjax import checks, extras
from megjax.energies import rbm, units
from megjax.energies.family import Family
from megjax.estimators import base
from megjax.evaluation import likelihood
from megjax.io import npz
from megjax.learners import contrastive, proximal
from megjax.learners.base import Learner
from megjax.samplers import partition
from megjax.training import loop
from megjax.types import Array, Key, PyTree

with extras.needed("estimators"):
    from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_random_state, validation

_VISIBLE = {"bernoulli": units.BERNOULLI, "gaussian": units.GAUSSIAN}
_ROUNDING = 1e-6
_ENUMERATED = 16
"""Units of a layer whose states are summed over one by one, 65,536 of them."""
_LARGEST = float(np.finfo(np.float32).max)


class RBM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, base.Estimator):
    """A restricted Boltzmann machine on rows of numbers [N, F].

    For a given `random_state` fitting is deterministic on a kind of device; it uses one.

    n_components: number of hidden units, each 0 or 1.
    visible: "bernoulli" for rows in [0, 1], probabilities of a 1; "gaussian" for real
        rows, with variance 1 around a mean that the hidden units move: scale the
        columns to variance 1 or so first. Rows beyond are refused, in `fit` and
        wherever else rows are given.
    learning_rate: of plain gradient descent. Gaussian units need less.
    batch_size: rows of an update, and chains of the negative phase.
    n_iter: passes over the rows in `fit`.
    num_sweeps: Gibbs sweeps of the chains between updates.
    persistent: whether chains go on where they stopped (PCD); else they restart at the
        rows of the batch (CD).
    l1, l2: weights of sum |w| and of sum w^2. The first makes exact zeros.
    learned_precision: whether each Gaussian unit learns its variance.
    verbose: whether to show a progress bar.
    random_state: int, numpy RandomState, or None for another result every time.

    Fitted: `components_` [n_components, F], `intercept_hidden_` [n_components],
    `intercept_visible_` [F], `precision_` [F] with Gaussian units, `n_features_in_`;
    `v_samples_` and `h_samples_` [batch_size, ...], the chains where they stopped;
    `feature_names_in_` where columns have names. `save` and `load` need no pickle; a
    loaded machine goes on training and sampling as the saved one would.

    >>> from megjax import RBM
    >>> import numpy as np
    >>> x = np.random.default_rng(0).integers(0, 2, (100, 6)).astype(float)
    >>> machine = RBM(n_components=3, random_state=0).fit(x)
    >>> machine.transform(x).shape, machine.sample(5, num_sweeps=10).shape
    ((100, 3), (5, 6))
    >>> machine.log_likelihood(x).shape
    (100,)
    """

    def __init__(
        self,
        n_components=256,
        *,
        visible="bernoulli",
        learning_rate=0.1,
        batch_size=10,
        n_iter=10,
        num_sweeps=1,
        persistent=True,
        l1=0.0,
        l2=0.0,
        learned_precision=False,
        verbose=0,
        random_state=None,
    ):
        self.n_components = n_components
        self.visible = visible
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.num_sweeps = num_sweeps
        self.persistent = persistent
        self.l1 = l1
        self.l2 = l2
        self.learned_precision = learned_precision
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X, y=None) -> Self:
        """Trains from scratch on X [N, F], `n_iter` passes; y is ignored.

        Raises ValueError at unusable parameters or data, FloatingPointError where
        training diverges.
        """
        X = self._usable(X, reset=True)
        return self._started(X)._trained(X, self.n_iter)

    def partial_fit(self, X, y=None) -> Self:
        """One more pass, over X [N, F], from where training stands; y is ignored.

        The first call starts it, and takes the visible biases from the means of its
        rows, as `fit` does.
        """
        first = not hasattr(self, "components_")
        X = self._usable(X, reset=first)
        if not first and len(self.v_samples_) != self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} was set after training started with "
                f"{len(self.v_samples_)} chains: fit again"
            )
        return (self._started(X) if first else self)._trained(X, 1)

    def transform(self, X) -> np.ndarray:
        """Expected hidden units, P(h = 1 | v): [N, F] -> [N, n_components]."""
        return self._chunked(_hidden, self._rows(X)).astype(self._dtype(X))

    def gibbs(self, v) -> np.ndarray:
        """Visible units after one Gibbs sweep from v: [N, F] -> [N, F]."""
        rows = self._rows(v)
        key = jax.random.key(base.seed(self.random_state_))
        moved = _swept(self._machine, 1, key, self._params(), rows)
        return np.asarray(moved).astype(self._dtype(v))

    def score_samples(self, X) -> np.ndarray:
        """Log-likelihoods up to one constant, minus the free energy: float64 [N].

        High is likely; differences are differences of log p. Where `BernoulliRBM` has
        a random estimate of the pseudo-likelihood, see `pseudo_likelihood`.
        """
        return self._chunked(_score, self._rows(X)).astype(np.float64)

    def pseudo_likelihood(self, X) -> np.ndarray:
        """sum_i log p(v_i | all others) of rows of zeros and ones, exactly: [N].

        F times the work of `score_samples`. Raises ValueError for Gaussian units and
        other values.
        """
        rows = self._rows(X)
        if self.visible != "bernoulli" or np.any((rows != 0) & (rows != 1)):
            raise ValueError(
                "pseudo_likelihood is of zeros and ones: round the rows, or use "
                "score_samples"
            )
        return self._chunked(_pseudo_likelihood, rows).astype(np.float64)

    def log_partition(
        self, *, num_chains: int = 100, num_steps: int = 10_000
    ) -> partition.LogPartition:
        """log Z in nats with its 95 % interval, the same at every call.

        Exact where a layer of binary units has at most 16; else by annealed importance
        sampling from the machine without weights (Salakhutdinov and Murray 2008).
        `effective_sample_size` near 1 says that num_steps are too few. Raises ValueError
        for Gaussian units with more hidden ones than that.

        num_chains: whose spread makes the interval. num_steps: temperatures that each
        chain goes through.
        """
        validation.check_is_fitted(self)
        checks.whole("num_chains", num_chains, 2)
        checks.whole("num_steps", num_steps, 1)
        params, gaussian = self._params(), self.visible == "gaussian"
        sizes = self.components_.shape[: 1 if gaussian else 2]
        if min(sizes) <= _ENUMERATED:
            layers = rbm.layer_kinds(_VISIBLE[self.visible])
            log_z = float(rbm.log_partition(params, layers=layers))
            return partition.LogPartition(log_z, log_z, log_z, float("inf"))
        if gaussian:
            raise ValueError(
                f"n_components={sizes[0]}: with visible='gaussian' log Z is known of at "
                f"most {_ENUMERATED} hidden units; score_samples needs none"
            )
        return likelihood.log_partition(
            jax.random.key(self.seed_),
            _family(self._machine),
            jax.tree.map(jnp.asarray, params),
            jnp.zeros((num_chains, self.n_features_in_)),
            num_steps=num_steps,
        )

    def log_likelihood(self, X, **options) -> np.ndarray:
        """log p of rows, in nats: float64 [N]; densities with Gaussian units.

        options: of `log_partition`, whose interval is that of all rows together. Rows
        between 0 and 1 of binary units have the energy of their probabilities; round
        them, or draw them, for a likelihood.
        """
        return self.score_samples(X) - self.log_partition(**options).log_z

    def reconstruct(self, X) -> np.ndarray:
        """E[v | E[h | v]], one pass up and down without noise: [N, F] -> [N, F]."""
        return self._chunked(_reconstruction, self._rows(X)).astype(self._dtype(X))

    def sample(self, n_samples=1, *, num_sweeps=1000, start=None) -> np.ndarray:
        """Fantasies [n_samples, F] after so many Gibbs sweeps.

        start: rows [N, F], taken in turns; by default the chains of training go on.
        Raises ValueError where a number is not positive.
        """
        validation.check_is_fitted(self)
        _check(self)
        _check_unchanged(self)
        values = {"n_samples": n_samples, "num_sweeps": num_sweeps}
        base.check(values, n_samples=1, num_sweeps=1)
        rows = self.v_samples_ if start is None else self._rows(start)
        rows = np.asarray(rows)[np.arange(n_samples) % len(rows)]
        key = jax.random.key(base.seed(self.random_state_))
        return np.asarray(
            _swept(
                self._machine,
                num_sweeps,
                key,
                self._params(),
                rows,
            )
        )

    def _started(self, X: np.ndarray) -> Self:
        """The machine before training, with biases that fit the means of X."""
        self.random_state_ = check_random_state(self.random_state)
        self.seed_, self.n_steps_ = base.seed(self.random_state_), 0
        means = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        bias = rbm.visible_bias(
            np.clip(means, 0, 1) if self.visible == "bernoulli" else means,
            visible=_VISIBLE[self.visible],
        )
        state = self._initial()
        return self._took(state.model.params | {"visible_bias": bias}, state.particles)

    def _initial(self) -> contrastive.State:
        x = jnp.zeros((self.batch_size, self.n_features_in_))
        return _learner(self._machine).init(loop.keys(self.seed_).init, x)

    def _trained(self, X: np.ndarray, passes: int) -> Self:
        state = self._initial()
        # Passes are those of an order of all rows, which starts at a multiple of them.
        steps = max(1, len(X) // self.batch_size)
        start = -(-self.n_steps_ // steps) * steps
        stop = start + passes * steps
        state = base.trained(
            _learner(self._machine),
            state.replace(
                model=state.model.replace(params=self._params()),
                particles=(self.v_samples_, self.h_samples_),
            ),
            X,
            range(start, stop),
            seed=self.seed_,
            batch_size=self.batch_size,
            verbose=self.verbose,
        )
        if state is None:
            raise FloatingPointError(
                "training diverged: lower learning_rate, or scale the columns (to "
                "[0, 1] for visible='bernoulli', to variance 1 for 'gaussian')"
            )
        self.n_steps_ = stop
        return self._took(state.model.params, state.particles)

    def _took(self, params: PyTree, particles: tuple[Array, Array]) -> Self:
        """The machine with these parameters and chains as its attributes."""
        self.components_ = np.asarray(params["weights"]).T
        self.intercept_hidden_ = np.asarray(params["hidden_bias"])
        self.intercept_visible_ = np.asarray(params["visible_bias"])
        self.v_samples_, self.h_samples_ = map(np.asarray, particles)
        if self.visible == "gaussian":
            zeros = np.zeros(self.n_features_in_)
            # In double precision, so that the logarithm is the same number again.
            log_precision = np.float64(params.get("visible_log_precision", zeros))
            self.precision_ = np.exp(log_precision)
        return self

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    @property
    def _machine(self) -> "_Machine":
        return base.hyperparameters(_Machine, self)

    def _params(self) -> dict[str, np.ndarray]:
        """The parameters as the attributes have them, whoever set those."""
        params = {
            "weights": self.components_.T,
            "hidden_bias": self.intercept_hidden_,
            "visible_bias": self.intercept_visible_,
        }
        if self.visible == "gaussian" and self.learned_precision:
            params["visible_log_precision"] = np.float32(np.log(self.precision_))
        return params

    @classmethod
    def load(cls, path) -> Self:
        """The machine that `save` wrote; errors as of every estimator's `load`."""
        machine = super().load(path)
        try:
            _check(machine)
            _check_fitted(machine)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no machine ({npz.words(error)}): save it again"
            ) from error
        return machine

    def _usable(self, X, *, reset: bool = False) -> np.ndarray:
        """X as of `_table`; raises ValueError at values that the visible units have not.

        And at parameters that cannot be, or that a fitted machine has not.
        """
        _check(self)
        if not reset:
            validation.check_is_fitted(self)
            _check_unchanged(self)
        X = self._table(X, reset=reset)
        low, high = X.min(), X.max()
        if self.visible == "bernoulli":
            # Scalers round.
            if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
                raise ValueError(
                    f"rows with values from {low:.6g} to {high:.6g}: visible='bernoulli' "
                    f"takes [0, 1]; give {_unit_interval(low, high)}, scale them with "
                    "MinMaxScaler(clip=True), or choose visible='gaussian'"
                )
        elif max(-low, high) > _LARGEST:
            raise ValueError(
                f"rows with values from {low:.6g} to {high:.6g}: float32 has {_LARGEST:.3g} "
                "at most; scale the columns to variance 1"
            )
        return X

    def _rows(self, X) -> np.ndarray:
        return self._usable(X).astype(np.float32)

    def _dtype(self, X) -> np.dtype:
        dtype = getattr(X, "dtype", None)
        return np.dtype(np.float32 if dtype == np.float32 else np.float64)

    def _chunked(self, function, rows: np.ndarray) -> np.ndarray:
        """function(machine, params, rows), in chunks."""
        bound = functools.partial(function, self._machine, self._params())
        return base.chunked(bound, rows)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Machine(NamedTuple):
    """All that compiled training depends on but the rows, hence hashable."""

    num_features: int
    n_components: int
    visible: str
    learning_rate: float
    batch_size: int
    num_sweeps: int
    persistent: bool
    l1: float
    l2: float
    learned_precision: bool


# Equal machines share their programs: folds, seeds and repetitions compile once.
@functools.lru_cache(maxsize=32)
def _learner(machine: _Machine) -> Learner:
    optimizer = proximal.sgd(machine.learning_rate, l1=machine.l1, l2=machine.l2)
    return contrastive.contrastive(
        contrastive.Spec(
            family=_family(machine),
            num_chains=machine.batch_size,
            num_sweeps=machine.num_sweeps,
            persistent=machine.persistent,
            optimizer=optimizer,
        )
    )


def _family(machine: _Machine) -> Family:
    return rbm.family(
        machine.num_features,
        machine.n_components,
        visible=_VISIBLE[machine.visible],
        learned_precision=machine.learned_precision,
    )


@functools.partial(jax.jit, static_argnums=0)
def _hidden(machine: _Machine, params: PyTree, v: Array) -> Array:
    return _family(machine).posterior(params, v)[1]


@functools.partial(jax.jit, static_argnums=0)
def _score(machine: _Machine, params: PyTree, v: Array) -> Array:
    return -_family(machine).energy(params, v)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruction(machine: _Machine, params: PyTree, v: Array) -> Array:
    family = _family(machine)
    return family.mean(params, family.posterior(params, v))


@functools.partial(jax.jit, static_argnums=0)
def _pseudo_likelihood(machine: _Machine, params: PyTree, v: Array) -> Array:
    """The free energy with one bit flipped moves every hidden input by one weight."""
    inputs = v @ params["weights"] + params["hidden_bias"]
    before = jnp.sum(jax.nn.softplus(inputs), -1)

    def one(site):
        weights, bias, column = site
        change = 1 - 2 * column
        after = jnp.sum(jax.nn.softplus(inputs + change[:, None] * weights), -1)
        return -jax.nn.softplus(after - before + change * bias)

    sites = params["weights"], params["visible_bias"], v.T
    return jnp.sum(jax.lax.map(one, sites), 0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _swept(
    machine: _Machine, num_sweeps: int, key: Key, params: PyTree, v: Array
) -> Array:
    """Visible units after so many sweeps from v [N, F]."""
    family = _family(machine)
    key_start, key_sweeps = jax.random.split(key)
    chain = family.start(key_start, params, v)
    return contrastive.sweeps(family, key_sweeps, params, chain, 1.0, num_sweeps)[0]


def _unit_interval(low: float, high: float) -> str:
    """How rows of a range are usually brought to [0, 1]."""
    if low >= 0:
        return "X / 255" if 16 < high <= 255 else f"X / {high:.6g}, or X > 0 of counts"
    return "(X + 1) / 2" if low >= -1 and high <= 1 else "(X - low) / (high - low)"


def _check_fitted(machine: RBM) -> None:
    """ValueError where the arrays of a machine do not fit each other."""
    hidden, features = len(machine.components_), machine.n_features_in_
    chains = len(machine.v_samples_)
    shapes = {
        "components_": (hidden, features),
        "intercept_hidden_": (hidden,),
        "intercept_visible_": (features,),
        "v_samples_": (chains, features),
        "h_samples_": (chains, hidden),
    }
    if machine.visible == "gaussian":
        shapes["precision_"] = (features,)
    for name, shape in shapes.items():
        value = np.asarray(getattr(machine, name))
        if value.shape != shape or value.dtype.kind != "f":
            raise ValueError(f"{name} is {value.dtype} {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} is not finite")


def _check_unchanged(machine: RBM) -> None:
    """ValueError where the form of a fitted machine is not what its parameters say."""
    is_gaussian = hasattr(machine, "precision_")
    for name, is_same in (
        ("visible", is_gaussian == (machine.visible == "gaussian")),
        ("n_components", len(machine.components_) == machine.n_components),
        (
            "learned_precision",
            machine.learned_precision
            or not is_gaussian
            or np.all(machine.precision_ == 1),
        ),
    ):
        if not is_same:
            value = getattr(machine, name)
            raise ValueError(f"{name}={value!r} was set after the fit: fit again")


def _check(estimator: RBM) -> None:
    """ValueError naming the first unusable parameter, its value and what it may be."""
    base.check_common(estimator.get_params())
    base.check(
        estimator.get_params(),
        persistent=(True, False),
        learned_precision=(True, False),
        visible=("bernoulli", "gaussian"),
        n_components=1,
        batch_size=1,
        n_iter=1,
        num_sweeps=1,
        learning_rate="[0, inf)",
        l1="[0, inf)",
        l2="[0, inf)",
    )
    if estimator.learned_precision and estimator.visible != "gaussian":
        raise ValueError(
            "learned_precision=True: only visible='gaussian' has a precision"
        )
