"""The learned proposal against MALA, Jacobians, its own inverse, and its mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ranks
from scipy import stats

from megjax.densities import targets
from megjax.networks import proposal
from megjax.samplers import kernel, mala, neural, preconditioner

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIM = 3
COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.5], [0.0, -0.5, 0.5]])
PRECISION = np.linalg.inv(COVARIANCE)
GRADIENTS = proposal.GRADIENTS


def gaussian(x):
    return -0.5 * x @ jnp.asarray(PRECISION, x.dtype) @ x


def skewed(x):
    """Correlated and curved, with fourth-order tails."""
    return -0.5 * jnp.sum(x**2) - (x[1] - 0.3 * x[0] ** 2) ** 2 - 0.05 * x[2] ** 4


def perturbed(module, scale=0.3, seed=0):
    """Variables of a module with noise on every parameter: no output is zero."""
    shape = module.shape
    variables = module.init(jax.random.key(seed), jnp.zeros(shape))
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [p + scale * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)]
    return variables | {"params": jax.tree.unflatten(tree, noisy)}


def vectors(gradient="displaced", num_steps=2, **fields):
    fields = {"shape": (DIM,), "width": 8} | fields
    return proposal.Vectors(num_steps=num_steps, gradient=gradient, **fields)


def images(gradient="displaced", num_steps=1, **fields):
    fields = {"shape": (4, 4, 2), "width": 4, "num_steps": num_steps} | fields
    return proposal.Images(gradient=gradient, **fields)


def random_flow(gradient="displaced", **fields):
    """Moves of moderate size, some of which are accepted."""
    module = vectors(gradient, **({"initial_log_scale": -0.5} | fields))
    return neural.flow(module, perturbed(module, scale=0.15))


def log_density(x):
    return skewed(x) if x.ndim == 1 else -jnp.sum(jnp.log(jnp.cosh(x)))


def slopes(flow, x):
    """What `neural.move` hands to the flow, written out: (n, kept) -> dU."""

    def slope(n, kept):
        at = {
            "displaced": lambda: x + flow.displacement(n, x, kept),
            "position": lambda: x,
        }
        if flow.gradient == "none":
            return jnp.zeros_like(x)
        return -jax.grad(log_density)(at[flow.gradient]())

    return slope


def round_trip(flow, x, noise):
    """z, its noise again, both log-determinants, and dz / dnoise."""
    slope_fn = slopes(flow, x)
    z, log_det = neural.forward(flow, x, noise, slope_fn)
    back, log_det_back = neural.inverse(flow, x, z, slope_fn)
    jacobian = jax.jacfwd(lambda noise: neural.forward(flow, x, noise, slope_fn)[0])
    return z, back, log_det, log_det_back, jacobian(noise)


@pytest.mark.parametrize(
    "module, double",
    [
        (vectors("displaced"), False),
        (vectors("displaced"), True),
        (vectors("position"), True),
        (vectors("none"), False),
        (images("position"), True),
        (vectors("displaced", learned_shrinkage=True), True),
        (images("none", learned_shrinkage=True), True),
    ],
    ids=[
        "displaced",
        "displaced in float64",
        "position",
        "none",
        "images",
        "far",
        "far images",
    ],
)
def test_inverse_and_log_determinant(module, double):
    with jax.enable_x64(double):
        flow = neural.flow(module, perturbed(module))
        x, noise = jax.random.normal(jax.random.key(2), (2, *module.shape))
        found = jax.jit(functools.partial(round_trip, flow))(x, noise)
        z, back, log_det, log_det_back, jacobian = found
        tolerance = 1e-10 if double else 1e-5
        assert np.max(np.abs(z - noise)) > 0.1 and abs(log_det) > 0.1
        np.testing.assert_allclose(back, noise, rtol=0, atol=tolerance)
        np.testing.assert_allclose(log_det_back, log_det, atol=tolerance)
        matrix = np.reshape(jacobian, (noise.size, noise.size))
        expected = np.linalg.slogdet(matrix)[1]
        np.testing.assert_allclose(log_det, expected, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("gradient", "learned_shrinkage"),
    [("displaced", False), ("position", False), ("position", True)],
)
def test_it_starts_as_mala(gradient, learned_shrinkage):
    a = 0.3
    fields = {
        "initial_log_scale": 0.5 * np.log(2 * a),
        "learned_shrinkage": learned_shrinkage,
    }
    module = vectors(gradient, **fields)
    variables = module.init(jax.random.key(0), jnp.zeros(DIM))
    flow = neural.flow(module, variables)
    learned = neural.neural(skewed, flow)
    langevin = mala.mala(skewed, step_size=a)
    for x in jax.random.normal(jax.random.key(1), (5, DIM)):
        noise = jax.random.normal(jax.random.key(2), (DIM,))
        move = neural.move(noise, learned.init(x), log_density_fn=skewed, flow=flow)
        state = langevin.init(x)
        expected = langevin.init(x + a * state.gradient + np.sqrt(2 * a) * noise)
        np.testing.assert_allclose(
            move.state.position, expected.position, rtol=1e-6, atol=1e-6
        )
        ratio = mala.log_ratio(state, expected, step_size=a)
        np.testing.assert_allclose(move.log_ratio, ratio, atol=2e-5)
        np.testing.assert_allclose(
            move.log_det, DIM * np.log(np.sqrt(2 * a)), rtol=1e-6
        )


def test_shares_of_a_position_add_up_until_it_is_forgotten():
    module = vectors("none", learned_shrinkage=True, initial_log_scale=-0.5)
    variables = module.init(jax.random.key(0), jnp.zeros(DIM))
    shares = jnp.array([[0.25] * DIM, [0.75] * DIM])
    variables = variables | {"params": variables["params"] | {"shares": shares}}
    flow = neural.flow(module, variables)
    noise = jnp.arange(3.0)
    for size in (1.0, 100.0):
        x = size * jnp.array([1.0, -2.0, 3.0])
        state = neural.neural(gaussian, flow).init(x)
        move = neural.move(noise, state, log_density_fn=gaussian, flow=flow)
        np.testing.assert_allclose(
            move.state.position, np.exp(-0.5) * noise, atol=1e-6 * size
        )


@pytest.mark.parametrize(
    ("method", "num_inputs"), [("coefficients", 3), ("displacement", 2)]
)
def test_far_moves_show_networks_inverse_hyperbolic_sines(method, num_inputs):
    far = perturbed(vectors(learned_shrinkage=True))
    far["params"]["shares"] = jnp.zeros((2, DIM))
    plain = {"params": dict(far["params"]), "masks": far["masks"]}
    del plain["params"]["shares"]
    inputs = 100 * jax.random.normal(jax.random.key(2), (num_inputs, DIM))
    found = vectors(learned_shrinkage=True).apply(far, 1, *inputs, method=method)
    seen = jnp.arcsinh(inputs)
    expected = np.asarray(vectors().apply(plain, 1, *seen, method=method))
    assert np.all(expected != 0)
    assert np.array_equal(found, expected)


def test_without_gradients_it_starts_as_a_random_walk():
    module = vectors("none")
    flow = neural.flow(module, module.init(jax.random.key(0), jnp.zeros(DIM)))
    state = neural.neural(skewed, flow).init(jnp.ones(DIM))
    noise = jnp.arange(3.0)
    move = neural.move(noise, state, log_density_fn=skewed, flow=flow)
    np.testing.assert_allclose(move.state.position, 1 + noise, rtol=1e-6)
    expected = skewed(1 + noise) - skewed(jnp.ones(DIM))
    np.testing.assert_allclose(move.log_ratio, expected, rtol=1e-6)
    assert move.state.gradient is None and module.num_gradients == 0


def test_a_step_by_hand():
    """One step in two dimensions with constant S, Q, T and a flat energy of slope 1."""
    flow = neural.Flow(
        masks=jnp.array([[1.0, 0.0]]),
        log_scale=jnp.log(2.0),
        coefficients=lambda *_: (jnp.full(2, 0.5), jnp.zeros(2), jnp.full(2, 3.0)),
        displacement=lambda *_: jnp.zeros(2),
    )
    # eps' = 2 / 2 = 1: z = (1, 1) exp(1/2) - (1 + 3), and x' = x + 2 z.
    z, log_det = neural.forward(flow, jnp.zeros(2), jnp.ones(2), lambda n, kept: 1.0)
    np.testing.assert_allclose(z, np.exp(0.5) - 4, rtol=1e-6)
    np.testing.assert_allclose(log_det, 1.0, rtol=1e-6)
    state = neural.neural(lambda x: -jnp.sum(x), flow).init(jnp.zeros(2))
    move = neural.move(
        jnp.ones(2), state, log_density_fn=lambda x: -jnp.sum(x), flow=flow
    )
    np.testing.assert_allclose(move.state.position, 2 * (np.exp(0.5) - 4), rtol=1e-6)
    np.testing.assert_allclose(move.log_det, 1 + 2 * np.log(2), rtol=1e-6)
    # The way back needs (-z + 4) exp(-1/2); log-determinants are equal.
    back = (8 - np.exp(0.5)) * np.exp(-0.5)
    expected = -4 * (np.exp(0.5) - 4) + 1 - back**2
    np.testing.assert_allclose(move.log_ratio, expected, rtol=1e-5)


@pytest.mark.parametrize("learned_shrinkage", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_detailed_balance_the_log_ratio_is_antisymmetric(gradient, learned_shrinkage):
    """From x' the noise of the way back proposes x, with minus the log-ratio."""

    def pair(flow, key):
        learned = neural.neural(skewed, flow)
        x, noise = jax.random.normal(key, (2, DIM))
        there = neural.move(noise, learned.init(x), log_density_fn=skewed, flow=flow)
        y = there.state.position
        z = (x - y) / jnp.exp(flow.log_scale)
        noise, _ = neural.inverse(flow, y, z, slopes(flow, y))
        back = neural.move(noise, there.state, log_density_fn=skewed, flow=flow)
        return x, back.state.position, there.log_ratio, back.log_ratio

    with jax.enable_x64(True):
        flow = random_flow(gradient, learned_shrinkage=learned_shrinkage)
        keys = jax.random.split(jax.random.key(3), 50)
        found = jax.jit(jax.vmap(functools.partial(pair, flow)))(keys)
    x, again, there, back = found
    np.testing.assert_allclose(again, x, atol=1e-10)
    np.testing.assert_allclose(back, -there, rtol=1e-9, atol=1e-9)
    assert np.std(np.asarray(there)) > 0.5


@pytest.mark.parametrize(
    ("gradient", "preconditioned"),
    [
        ("displaced", True),
        pytest.param("displaced", False, marks=pytest.mark.slow),
        pytest.param("position", True, marks=pytest.mark.slow),
        pytest.param("none", False, marks=pytest.mark.slow),
    ],
)
def test_log_density_of_proposals(gradient, preconditioned):
    """By the inverse at x' it is that of the noise, and makes the log-ratio."""

    def pair(flow, key):
        settings = {"log_density_fn": skewed, "flow": flow}
        x, noise = jax.random.normal(key, (2, DIM))
        start = neural.neural(**settings).init(x)
        move = neural.move(noise, start, **settings)
        there = neural.log_density(move.state.position, start, **settings)
        back = neural.log_density(x, move.state, **settings)
        change = move.state.log_density - start.log_density
        made = -0.5 * jnp.sum(noise**2) - move.log_det
        return there, made, change + back - there, move.log_ratio

    with jax.enable_x64(True):
        flow = random_flow(gradient)
        if preconditioned:
            factor = jnp.linalg.cholesky(jnp.asarray(COVARIANCE))
            flow = flow._replace(
                preconditioner=neural.Preconditioner(jnp.ones(DIM), factor)
            )
        keys = jax.random.split(jax.random.key(3), 50)
        found = jax.jit(jax.vmap(functools.partial(pair, flow)))(keys)
    there, made, ratio, right = found
    np.testing.assert_allclose(there, made, rtol=1e-9)
    np.testing.assert_allclose(ratio, right, rtol=1e-8, atol=1e-8)


def moment_scores(learned, *, num_chains=4000, num_steps=20):
    """z-scores of all second moments of chains from exact draws; their acceptance."""
    factor = jnp.linalg.cholesky(jnp.asarray(COVARIANCE, jnp.float32))
    starts = jax.random.normal(jax.random.key(0), (num_chains, DIM)) @ factor.T
    keys = jax.random.split(jax.random.key(1), num_chains)

    @jax.jit
    @jax.vmap
    def ends(key, start):
        state, record = kernel.chain(key, learned, learned.init(start), num_steps)
        return state.position, jnp.mean(record.infos.is_accepted)

    x, accepted = jax.tree.map(np.asarray, ends(keys, starts))
    products = np.float64(x[:, :, None] * x[:, None, :])
    errors = products.std(axis=0) / np.sqrt(num_chains)
    return np.abs(products.mean(axis=0) - COVARIANCE) / errors, np.mean(accepted)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_random_weights_leave_a_gaussian_invariant(gradient):
    learned = neural.neural(gaussian, random_flow(gradient))
    scores, accepted = moment_scores(learned)
    assert 0.05 < accepted < 0.99
    assert np.max(scores) < 4


MEAN, FACTOR = np.array([0.5, -1.0, 2.0]), np.linalg.cholesky(COVARIANCE)
PRECONDITIONER = neural.Preconditioner(jnp.asarray(MEAN), jnp.asarray(FACTOR))


@pytest.mark.slow
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_frame_is_a_similarity(gradient):
    """Proposals for N(m, L L^T) under its preconditioner are m + L y of those for N(0, I)."""
    with jax.enable_x64(True):
        flow = random_flow(gradient)
        inside = flow._replace(
            preconditioner=neural.Preconditioner(jnp.asarray(MEAN), FACTOR)
        )

        def standard(y):
            return -0.5 * y @ y

        def target(x):
            return gaussian(x - MEAN) + 3.0

        noises, starts = jax.random.normal(jax.random.key(2), (2, 20, DIM))

        def pair(noise, y):
            plain = neural.neural(standard, flow).init(y)
            there = neural.neural(target, inside).init(MEAN + FACTOR @ y)
            return (
                neural.move(noise, plain, log_density_fn=standard, flow=flow),
                neural.move(noise, there, log_density_fn=target, flow=inside),
            )

        plain, there = jax.jit(jax.vmap(pair))(noises, starts)
        assert np.std(plain.log_ratio) > 0.1
        np.testing.assert_allclose(there.log_ratio, plain.log_ratio, atol=1e-10)
        positions = MEAN + plain.state.position @ FACTOR.T
        np.testing.assert_allclose(there.state.position, positions, atol=1e-10)
        # The map's determinant is the entropy's, and no part of the ratio.
        volume = 0.5 * np.linalg.slogdet(COVARIANCE)[1]
        np.testing.assert_allclose(there.log_det - plain.log_det, volume, atol=1e-10)


def test_in_a_frame_it_starts_as_preconditioned_mala():
    a = 0.3
    module = vectors(initial_log_scale=float(np.log(np.sqrt(2 * a))))
    variables = module.init(jax.random.key(0), jnp.zeros(DIM))
    flow = neural.flow(module, variables | {"preconditioner": PRECONDITIONER._asdict()})
    langevin = mala.mala(skewed, step_size=a, factor=PRECONDITIONER.factor)
    x, noise = jax.random.normal(jax.random.key(1), (2, DIM))
    state = langevin.init(x)
    learned = neural.neural(skewed, flow)
    move = neural.move(noise, learned.init(x), log_density_fn=skewed, flow=flow)
    drift = a * COVARIANCE @ state.gradient
    expected = x + drift + np.sqrt(2 * a) * PRECONDITIONER.factor @ noise
    np.testing.assert_allclose(move.state.position, expected, rtol=1e-5, atol=1e-5)
    ratio = mala.log_ratio(
        state, langevin.init(expected), step_size=a, factor=PRECONDITIONER.factor
    )
    np.testing.assert_allclose(move.log_ratio, ratio, atol=5e-5)


def test_random_weights_in_a_frame_leave_a_gaussian_invariant():
    learned = neural.neural(
        gaussian, random_flow()._replace(preconditioner=PRECONDITIONER)
    )
    scores, accepted = moment_scores(learned)
    assert 0.05 < accepted < 0.99
    assert np.max(scores) < 4


@pytest.mark.parametrize("mistake", [False, True])
def test_detailed_balance_in_a_frame(mistake, monkeypatch):
    """And if L^T moves the position where L should, the way back leads elsewhere."""
    if mistake:
        monkeypatch.setattr(neural.preconditioner, "scaled", preconditioner.transposed)

    def coordinates(x):
        return jnp.linalg.solve(FACTOR, x - MEAN)

    def pair(flow, key):
        functions = {"log_density_fn": skewed, "flow": flow}
        x, noise = jax.random.normal(key, (2, DIM))
        start = neural.neural(**functions).init(x)
        there = neural.move(noise, start, **functions)
        y = coordinates(there.state.position)
        slope_fn = neural._slopes(
            flow, skewed, there.state, has_aux=False, stop_gradient=False
        )
        z = (coordinates(x) - y) / jnp.exp(flow.log_scale)
        noise, _ = neural.inverse(flow, y, z, slope_fn)
        back = neural.move(noise, there.state, **functions)
        return x, back.state.position, there.log_ratio, back.log_ratio

    with jax.enable_x64(True):
        flow = random_flow()._replace(
            preconditioner=neural.Preconditioner(jnp.asarray(MEAN), FACTOR)
        )
        keys = jax.random.split(jax.random.key(3), 20)
        found = jax.jit(jax.vmap(functools.partial(pair, flow)))(keys)
    x, again, there, back = map(np.asarray, found)
    errors = np.max(np.abs(again - x)), np.max(np.abs(there + back))
    assert np.std(there) > 0.1
    assert min(errors) > 0.1 if mistake else max(errors) < 1e-9


def test_aux_is_carried_and_caches_are_of_the_position():
    flow = random_flow("position")
    learned = neural.neural(lambda x: (gaussian(x), x[0]), flow, has_aux=True)
    state, record = kernel.chain(
        jax.random.key(0), learned, learned.init(jnp.ones(DIM)), 50
    )
    assert 0 < np.sum(record.infos.is_accepted) < 50
    x = state.position
    np.testing.assert_allclose(state.log_density, gaussian(x), rtol=1e-5)
    np.testing.assert_allclose(state.gradient, jax.grad(gaussian)(x), rtol=1e-5)
    assert state.aux == x[0]


def winding(gradient="displaced"):
    """A flow in the plane whose scales differ between coordinates and with x."""

    def coefficients(n, x, kept, gradient):
        signs = jnp.array([1.0, -1.0])
        scale = 0.5 * jnp.tanh(signs * x[::-1] + jnp.sum(kept) + signs)
        return scale, 0.3 * jnp.tanh(x), jnp.sin(x[::-1] + n + jnp.sum(kept))

    def displacement(n, x, kept):
        return 0.5 * jnp.cos(x + jnp.sum(kept))

    masks = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    return neural.Flow(masks, jnp.log(0.8), coefficients, displacement, gradient)


def scales_of_kept(flow, x, normal, slope_fn):
    """The log-determinant with the masks as they print, m for both m and 1 - m."""
    z, total = normal, 0.0
    for n, kept in neural._coupling_masks(flow):
        scale, shift = neural._coefficients(flow, n, x, kept * z, slope_fn)
        z = kept * z + (1 - kept) * (z * jnp.exp(scale) - shift)
        total += jnp.sum(kept * scale)
    return total


def mutant(mistake, target):
    """The learned kernel with one mistake."""
    flow = winding("position" if mistake == "stale gradient" else "displaced")
    right = neural.neural(target.log_density, flow)

    def slope_fn(state):
        x = state.position
        if mistake == "stale gradient":
            return lambda n, kept: -state.gradient
        gradient = jax.grad(target.log_density)
        return lambda n, kept: -gradient(x + flow.displacement(n, x, kept))

    def step(key, state):
        normal, log_uniform = kernel.noise(key, state.position)
        x, slopes = state.position, slope_fn(state)
        z, log_det = neural.forward(flow, x, normal, slopes)
        end = right.init(x + jnp.exp(flow.log_scale) * z)
        y, slopes_back = end.position, slope_fn(end)
        back, log_det_back = neural.inverse(flow, y, -z, slopes_back)
        if mistake == "wrong mask":
            log_det = scales_of_kept(flow, x, normal, slopes)
            log_det_back = scales_of_kept(flow, y, back, slopes_back)
        if mistake == "no log-determinant":
            log_det = log_det_back = 0.0
        if mistake == "reused key":
            log_uniform = jnp.log(jax.scipy.stats.norm.cdf(normal[0]))
        ratio = end.log_density - state.log_density + log_det - log_det_back
        ratio += 0.5 * jnp.sum(normal**2 - back**2)
        moved, info = kernel.accepted_move(log_uniform, ratio, state, end)
        if mistake == "stale gradient":
            moved = moved._replace(gradient=state.gradient)
        return moved, info

    return kernel.Kernel(right.init, step)


MISTAKES = ("no log-determinant", "wrong mask", "stale gradient", "reused key")


@pytest.mark.slow
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_ranks_of_random_weights(gradient):
    moon = targets.moon()
    module = vectors(gradient, shape=(2,), initial_log_scale=-1.0)
    flow = neural.flow(module, perturbed(module, scale=0.2, seed=3))
    learned = neural.neural(moon.log_density, flow)
    assert ranks.p_value(jax.random.key(0), learned, moon) > 1e-4


@pytest.mark.parametrize("mistake", ["", "the flow's correction", "scale by position"])
def test_ranks_with_local_moves(mistake, monkeypatch):
    moon = targets.moon()
    local = neural.LocalMoves(rate=0.9, scale_min=0.03, scale_max=3.0)
    if mistake == "the flow's correction":
        monkeypatch.setattr(jnp, "where", keep_correction(jnp.where))
    learned = neural.neural(moon.log_density, winding(), local=local)
    if mistake == "scale by position":
        learned = neural.neural(moon.log_density, winding())
        learned = learned._replace(step=functools.partial(walk_by_position, moon))
    found = ranks.p_value(jax.random.key(0), learned, moon, num_replicates=4000)
    assert found < 1e-6 if mistake else found > 1e-4


def keep_correction(where):
    """`jnp.where` that leaves the flow's correction to local moves as well."""

    def replaced(condition, x, y):
        return y if isinstance(x, int) and x == 0 else where(condition, x, y)

    return replaced


def walk_by_position(target, key, state):
    """A random walk whose scale depends on where it is, as if it did not."""
    flow = winding()
    normal, log_uniform = kernel.noise(key, state.position)
    scale = jnp.minimum(3.0, 0.03 + jnp.abs(state.position[0]))
    moved = neural.move(
        normal,
        state,
        log_density_fn=target.log_density,
        flow=flow,
        local_scale=scale,
    )
    return kernel.accepted_move(log_uniform, moved.log_ratio, state, moved.state)


def test_local_moves_lead_out_of_where_the_flow_stands_still():
    """A flow whose moves are a hundred times too long."""
    module = vectors("position", initial_log_scale=np.log(100.0))
    flow = neural.flow(module, module.init(jax.random.key(0), jnp.zeros(DIM)))

    def accepted(local):
        one = neural.neural(gaussian, flow, local=local)
        run = lambda key: kernel.chain(key, one, one.init(jnp.zeros(DIM)), 500)[1]
        return np.asarray(run(jax.random.key(0)).infos.is_accepted)

    assert not np.any(accepted(None))
    rate = np.mean(accepted(neural.LocalMoves(0.2, 0.01, 10.0)))
    assert 0.05 < rate < 0.2


def test_p_values_of_twenty_seeds_are_not_small_together():
    moon = targets.moon()
    right = neural.neural(moon.log_density, winding())
    found = [
        ranks.p_value(jax.random.key(i), right, moon, num_replicates=1000)
        for i in range(20)
    ]
    assert stats.kstest(found, "uniform", alternative="greater").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["", *MISTAKES])
def test_mutants_fail_the_rank_test(mistake):
    moon = targets.moon()
    learned = mutant(mistake, moon)
    found = ranks.p_value(jax.random.key(1), learned, moon, num_replicates=4000)
    assert found > 1e-4 if mistake == "" else found < 1e-6


def test_proposals_outside_the_support_are_rejected():
    flow = random_flow()
    walled = neural.neural(lambda x: jnp.log(x[0]) - jnp.sum(x**2), flow)
    state = walled.init(jnp.full(DIM, 0.1))
    keys = jax.random.split(jax.random.key(0), 200)
    after, infos = jax.vmap(walled.step, (0, None))(keys, state)
    assert 0 < np.mean(infos.is_divergent) < 1
    assert not np.any(infos.is_accepted & infos.is_divergent)
    assert np.all(after.position[:, 0] > 0)


def test_masks_keep_half_and_differ():
    odd = vectors(num_steps=6, shape=(5,))
    masks = odd.init(jax.random.key(0), jnp.zeros(5))["masks"]["kept"]
    np.testing.assert_array_equal(np.sum(masks, axis=1), 2)
    assert len(np.unique(masks, axis=0)) > 1
    board = images(num_steps=2).init(jax.random.key(0), jnp.zeros((4, 4, 2)))["masks"][
        "kept"
    ]
    np.testing.assert_array_equal(board[0], board[1])
    np.testing.assert_array_equal(board[0, :, :, 0], ~board[0, :, :, 1])
    np.testing.assert_array_equal(board[0, 0, :, 0], [True, False, True, False])


@pytest.mark.parametrize("dim", [2, 5, 20])
def test_separating_masks_part_every_two(dim):
    num_steps = int(np.ceil(np.log2(dim)))
    module = vectors(num_steps=2 * num_steps, shape=(dim,), coupling_masks="bisecting")
    for seed in range(3):
        variables = module.init(jax.random.key(seed), jnp.zeros(dim))
        masks = variables["masks"]["kept"]
        np.testing.assert_array_equal(np.sum(masks, axis=1), dim // 2)
        for part in (masks[:num_steps], masks[num_steps:]):
            assert len(np.unique(part, axis=1).T) == dim
    assert dim == 2 or np.any(masks[:num_steps] != masks[num_steps:])
    with pytest.raises(
        ValueError, match="coupling_masks='nope': choose one of random, bi"
    ):
        vectors(coupling_masks="nope").init(jax.random.key(0), jnp.zeros(DIM))


@pytest.mark.parametrize("gradient", proposal.GRADIENTS)
def test_gradients_are_counted(gradient):
    """As many as a transition makes; the value at the proposal comes with one or alone."""
    made = {"gradients": 0, "values": 0}

    def counted(name):
        made[name] += 1

    @jax.custom_jvp
    def density(x):
        jax.debug.callback(counted, "values")
        return gaussian(x)

    @density.defjvp
    def derivative(primals, tangents):
        jax.debug.callback(counted, "gradients")
        return jax.jvp(gaussian, primals, tangents)

    module = vectors(gradient, num_steps=3)
    sampler = neural.neural(density, neural.flow(module, perturbed(module)))
    state = sampler.init(jnp.ones(DIM))
    jax.effects_barrier()
    made.update(gradients=0, values=0)
    jax.jit(sampler.step)(jax.random.key(0), state)
    jax.effects_barrier()
    assert made["gradients"] == module.num_gradients
    assert made["values"] == (0 if gradient == "position" else 1)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="gradient='half': choose one of displaced"):
        vectors("half").init(jax.random.key(0), jnp.zeros(DIM))
    with pytest.raises(ValueError, match="needs two dimensions"):
        vectors(shape=(1,)).init(jax.random.key(0), jnp.zeros(1))
    odd = images().clone(shape=(4, 5, 2))
    with pytest.raises(ValueError, match="even sides"):
        odd.init(jax.random.key(0), jnp.zeros(odd.shape))
