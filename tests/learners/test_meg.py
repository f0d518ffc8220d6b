"""MEG's update against Algorithm 1 written out plainly, and the limits it must obey.

SGD everywhere: Adam forgives a gradient of the wrong scale.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import close, furthest

from megjax import losses
from megjax.learners import adversarial, meg

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

RATE = 0.1


class Net(nn.Module):
    """Two layers on the concatenated inputs."""

    out: int
    activation: Callable = jnp.tanh

    @nn.compact
    def __call__(self, *inputs):
        x = jnp.concatenate(inputs, axis=-1)
        x = self.activation(nn.Dense(8, name="hidden", param_dtype=jnp.float64)(x))
        return nn.Dense(self.out, name="out", param_dtype=jnp.float64)(x)


class Energy(nn.Module):
    activation: Callable = jnp.tanh
    piecewise_linear = False

    @nn.compact
    def __call__(self, x):
        return Net(1, self.activation, name="net")(x)[..., 0]


class Generator(nn.Module):
    normalise: bool = False

    @nn.compact
    def __call__(self, z, train):
        x = Net(2, name="net")(z)
        if self.normalise:
            x = nn.BatchNorm(not train, momentum=0.9, name="norm")(x)
        return x


class Statistics(nn.Module):
    @nn.compact
    def __call__(self, x, z):
        x = jnp.broadcast_to(x, (*z.shape[:-1], x.shape[-1]))
        return Net(1, name="net")(x, z)[..., 0]


def spec(**changes):
    sgd = optax.sgd(RATE)
    return meg.Spec(
        energy=Energy(),
        generator=Generator(),
        statistics=Statistics(),
        latent_dim=3,
        energy_optimizer=sgd,
        generator_optimizer=sgd,
        statistics_optimizer=sgd,
    )._replace(**changes)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(5), (2, 16, 2))


def trained(spec, x, seed=0):
    learner = meg.meg(spec)
    state = jax.jit(learner.init)(jax.random.key(seed), x[0])
    return state, *jax.jit(learner.step)(jax.random.key(seed + 1), state, x)


def algorithm_1(spec, key, state, x):
    """One iteration as the paper prints it (signs corrected), generator first.

    Shares with the code under test only the way keys are split.
    """
    theta, w, phi = (
        getattr(state, name).params for name in ("energy", "generator", "statistics")
    )
    energy = lambda theta, x: spec.energy.apply({"params": theta}, x)
    generator = lambda w, z: spec.generator.apply({"params": w}, z, train=True)
    statistics = lambda phi, x, z: spec.statistics.apply({"params": phi}, x, z)
    descend = functools.partial(jax.tree.map, lambda p, g: p - RATE * g)
    key_energy, key_generator = jax.random.split(key)

    key_z, key_pairs = jax.random.split(key_generator)
    z = jax.random.normal(key_z, (x.shape[1], 3))
    z_bar = spec.pairing(jax.random.split(key_pairs, 1)[0], z)

    def entropy_loss(w, phi):
        fake = generator(w, z)
        joint = jnp.logaddexp(0, -statistics(phi, fake, z))
        marginal = jnp.logaddexp(0, statistics(phi, fake, z_bar))
        return spec.information_weight * jnp.mean(joint + marginal)

    def generator_loss(w, phi):
        return jnp.mean(energy(theta, generator(w, z))) + entropy_loss(w, phi)

    w, phi = (
        descend(w, jax.grad(generator_loss)(w, phi)),
        descend(phi, jax.grad(entropy_loss, argnums=1)(w, phi)),
    )
    for key_update, batch in zip(jax.random.split(key_energy, len(x)), x):
        z = jax.random.normal(jax.random.split(key_update)[0], (x.shape[1], 3))
        fake = generator(w, z)

        def energy_loss(theta, batch=batch, fake=fake):
            score = jax.vmap(jax.grad(lambda x: energy(theta, x)))(batch)
            penalty = jnp.mean(jnp.sum(score**2, axis=1))
            contrast = jnp.mean(energy(theta, batch)) - jnp.mean(energy(theta, fake))
            return contrast + spec.score_weight * penalty

        theta = descend(theta, jax.grad(energy_loss)(theta))
    return theta, w, phi


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"information_weight": 0.5, "score_weight": 3.0},
        {"pairing": meg.shuffle_rows},
        {"pairing": meg.roll_rows},
        {"pairing": meg.fresh},
    ],
)
def test_step_is_algorithm_1(x, changes):
    chosen = spec(**changes)
    state, after, _ = trained(chosen, x)
    theta, w, phi = jax.jit(functools.partial(algorithm_1, chosen))(
        jax.random.key(1), state, x
    )
    for player, expected in zip(("energy", "generator", "statistics"), (theta, w, phi)):
        assert furthest(getattr(state, player).params, expected) > 1e-4
        close(getattr(after, player).params, expected)


@pytest.mark.slow
def test_printed_order_updates_the_energy_first(x):
    first, second = spec(), spec(generator_first=False)
    state, after, _ = trained(second, x)
    # With the energy updated first the negatives come from the old generator.
    key_energy, key_generator = jax.random.split(jax.random.key(1))
    updates = functools.partial(adversarial.energy_updates, meg.energy_update, first)
    expected, _ = jax.jit(updates)(key_energy, state, x)
    expected, _ = jax.jit(functools.partial(meg.generator_update, first, num=16))(
        key_generator, expected
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-12), after, expected
    )
    _, other, _ = trained(first, x)
    assert not np.allclose(
        other.generator.params["net"]["out"]["bias"],
        after.generator.params["net"]["out"]["bias"],
        rtol=1e-9,
    )


@pytest.mark.slow
def test_metrics_describe_the_last_update(x):
    _, after, metrics = trained(spec(num_energy_updates=1), x[:1])
    assert metrics["energy_gap"] == metrics["energy_fake"] - metrics["energy_real"]
    norm = np.sqrt(sum(np.sum(p**2) for p in jax.tree.leaves(after.energy.params)))
    np.testing.assert_allclose(metrics["energy_weight_norm"], norm, rtol=1e-12)
    state, _, metrics = trained(spec(), x)
    energy_fn = lambda x: adversarial.energy(spec(), state, x)
    _, metrics = meg.energy_update(spec(), jax.random.key(0), state, x[0])
    squared = jnp.mean(losses.squared_score(energy_fn, x[0]))
    np.testing.assert_allclose(metrics["squared_score"], squared, rtol=1e-9)
    np.testing.assert_allclose(metrics["energy_real"], jnp.mean(energy_fn(x[0])))


def test_every_forward_pass_moves_the_batch_statistics(x):
    chosen = spec(generator=Generator(normalise=True))
    state, after, _ = trained(chosen, x)
    # Running mean after K + 1 = 3 passes at momentum .9 from zero, means replayed.
    key_energy, key_generator = jax.random.split(jax.random.key(1))
    mean = np.zeros(2)
    z = jax.random.normal(jax.random.split(key_generator)[0], (16, 3))
    mean = 0.9 * mean + 0.1 * hidden_mean(state.generator.params, z)
    for key in jax.random.split(key_energy, 2):
        z = jax.random.normal(jax.random.split(key)[0], (16, 3))
        mean = 0.9 * mean + 0.1 * hidden_mean(after.generator.params, z)
    statistics = after.generator.variables["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(statistics, mean, rtol=1e-6)


def hidden_mean(params, z):
    return np.mean(Net(2).apply({"params": params["net"]}, z), axis=0)


def test_samples_use_running_statistics(x):
    chosen = spec(generator=Generator(normalise=True))
    _, after, _ = trained(chosen, x)
    z = jax.random.normal(jax.random.key(3), (6, 3))
    together = adversarial.generate(chosen, after, z)
    alone = jnp.concatenate(
        [adversarial.generate(chosen, after, row[None]) for row in z]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-10)


@pytest.mark.parametrize(
    "pairing", [meg.shuffle_dimensions, meg.shuffle_rows, meg.roll_rows, meg.fresh]
)
def test_pairings_leave_the_marginals_and_break_the_pairs(pairing):
    z = jax.random.normal(jax.random.key(0), (4000, 2))
    z_bar = pairing(jax.random.key(1), z)
    if pairing is not meg.fresh:
        np.testing.assert_array_equal(np.sort(z, axis=0), np.sort(z_bar, axis=0))
    # Correlation of independent pairs: standard error 1/sqrt(4000) = .016.
    for dim in range(2):
        assert abs(np.corrcoef(z[:, dim], z_bar[:, dim])[0, 1]) < 5 * 0.016
    assert abs(np.corrcoef(z_bar.T)[0, 1]) < 5 * 0.016


def test_rolled_pairs_never_meet():
    z = jnp.arange(5.0)[:, None]
    for seed in range(20):
        assert not np.any(meg.roll_rows(jax.random.key(seed), z) == z)


def test_information_gradient_moves_generator_and_statistics_together(x):
    # Without the bound the statistics network stands still, the generator does not.
    state, after, metrics = trained(spec(information_weight=0.0), x)
    jax.tree.map(
        np.testing.assert_array_equal, state.statistics.params, after.statistics.params
    )
    assert metrics["statistics_gradient_norm"] == 0
    assert metrics["generator_gradient_norm"] > 0


def test_many_marginals_with_info_nce(x):
    chosen = spec(bound=losses.info_nce, num_marginals=15)
    _, _, metrics = trained(chosen, x)
    assert -1 < metrics["information"] <= np.log(16)


@pytest.mark.parametrize(
    ("decay", "rates"), [(0.9, (1, 10 / 11, 10 / 12)), (0.05, (1, 0.95, 0.95))]
)
def test_running_averages_are_what_the_model_uses(decay, rates, x):
    # Those of the first iteration forget the initial weights; batch statistics included.
    chosen = spec(average_decay=decay)
    learner = meg.meg(chosen)
    state = learner.init(jax.random.key(0), x[0])
    expected = jax.tree.map(jnp.zeros_like, adversarial.weights(state))
    for key, rate in zip(jax.random.split(jax.random.key(1), 3), rates):
        state, _ = jax.jit(learner.step)(key, state, x)
        expected = jax.tree.map(
            lambda a, b, rate=rate: (1 - rate) * a + rate * b,
            expected,
            adversarial.weights(state),
        )
    average = dict(state.average)
    assert average.pop("count") == 3
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    jax.tree.map(close, average, expected)
    z = jnp.ones((1, 3))
    generated = chosen.generator.apply(expected["generator"], z, train=False)
    close(adversarial.generate(chosen, state, z), generated)
    energies = chosen.energy.apply({"params": expected["energy"]}, x[0])
    close(adversarial.energy(chosen, state, x[0]), energies)


@pytest.mark.slow
def test_refined_negatives_have_lower_energy(x):
    chosen = spec(refinement=meg.Refinement(5, step_size=0.05, inverse_temperature=20))
    state = meg.init(chosen, jax.random.key(0), x[0])
    step = jax.jit(meg.meg(chosen).step)
    state, metrics = step(jax.random.key(1), state, x)
    z = jax.random.normal(jax.random.key(0), (256, 3))
    moved = jax.jit(functools.partial(meg.refined, chosen))(jax.random.key(1), state, z)
    energies = [
        adversarial.energy(chosen, state, adversarial.generate(chosen, state, v))
        for v in (z, moved)
    ]
    assert jnp.mean(energies[1]) < jnp.mean(energies[0])
    assert np.all(np.isfinite(list(metrics.values())))


def test_score_weight_bounds_the_energy_scale():
    """Without the penalty the energy gap grows without limit, with it it settles.

    The energy has no flat parts: one that saturates at the data escapes the penalty.
    """

    def gaps(score_weight):
        chosen = spec(
            score_weight=score_weight,
            energy=Energy(nn.leaky_relu),
            energy_optimizer=optax.sgd(0.01),
        )
        real = 2 + 0.1 * jax.random.normal(jax.random.key(0), (64, 2))
        state = meg.meg(chosen).init(jax.random.key(0), real)

        # The generator stands still, so that only the energy's scale moves.
        def update(state, key):
            state, metrics = meg.energy_update(chosen, key, state, real)
            return state, metrics["energy_gap"]

        found = jax.lax.scan(update, state, jax.random.split(jax.random.key(1), 600))[1]
        return np.mean(found[250:300]), np.mean(found[550:])

    early, late = gaps(0.0)
    assert late > 1.5 * early
    early, late = gaps(1.0)
    assert late < 1.05 * early


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pairing": meg.roll_rows, "num_marginals": 3, "bound": losses.info_nce},
    ],
)
def test_micro_batches_change_nothing_but_memory(x, changes):
    """With bounds that are means over examples, and without batch normalisation."""
    start, *whole = trained(spec(**changes), x)
    _, *parts = trained(spec(num_microbatches=4, **changes), x)
    assert furthest(start.statistics.params, whole[0].statistics.params) > 1e-4
    close(parts, whole)


@pytest.mark.slow
def test_micro_batches_of_the_energy_see_the_whole_batch_normalised(x):
    chosen = spec(generator=Generator(normalise=True))
    state = meg.init(chosen, jax.random.key(0), x[0])

    def updated(num):
        own = chosen._replace(num_microbatches=num)
        energy = jax.jit(functools.partial(meg.energy_update, own))
        generator = jax.jit(functools.partial(meg.generator_update, own, num=16))
        key = jax.random.key(1)
        return energy(key, state, x[0])[0], generator(key, state)[0]

    (energy, generator), (energy_parts, generator_parts) = updated(1), updated(4)
    close(energy_parts, energy)
    # Moved on once, to the mean of the parts' means: that of the batch.
    norm, norm_parts = (
        one.generator.variables["batch_stats"]["norm"]
        for one in (generator, generator_parts)
    )
    close(norm_parts["mean"], norm["mean"], rtol=1e-6)
    assert not np.allclose(norm_parts["var"], norm["var"], rtol=1e-3)


def test_without_statistics_the_generator_descends_the_energy_alone():
    """Two players; the energy's update is that of the game of three."""
    two = spec(statistics=None)
    learner = meg.meg(two)
    x = jax.random.normal(jax.random.key(0), (two.num_energy_updates, 4, 2))
    state = learner.init(jax.random.key(1), x[0])
    assert state.statistics is None
    key = jax.random.key(2)
    moved, metrics = meg.generator_update(two, key, state, 4)
    z = adversarial.latents(two, jax.random.split(key)[0], 4)

    def loss(params):
        x, _ = adversarial.generated(two, state.generator, params, z)
        return jnp.mean(two.energy.apply({"params": state.energy.params}, x))

    gradient = jax.grad(loss)(state.generator.params)
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.generator.params, gradient)
    close(moved.generator.params, expected)
    assert "information" not in metrics
    assert jnp.isfinite(learner.step(key, state, x)[1]["sample_variance"])


def test_the_variational_bound_needs_no_marginals():
    none = spec(bound=losses.variational, num_marginals=0)
    learner = meg.meg(none)
    x = jax.random.normal(jax.random.key(0), (none.num_energy_updates, 4, 2))
    state = learner.init(jax.random.key(1), x[0])
    with_some = meg.meg(none._replace(num_marginals=2))
    key = jax.random.key(2)
    found, other = learner.step(key, state, x), with_some.step(key, state, x)
    close(found[0].generator.params, other[0].generator.params)
    with pytest.raises(
        ValueError, match="meg.num_marginals=0: give a whole number from 1"
    ):
        meg.meg(none._replace(bound=losses.info_nce))
