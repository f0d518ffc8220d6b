# %% [markdown]
# # The Ising model and Boltzmann machines
#
# Energy-based models began in physics. A configuration $s$ of $n$ spins, each up ($+1$) or down ($-1$), has an energy
#
# $$E(s) = -\sum_i h_i s_i - \sum_{i<j} J_{ij}\, s_i s_j, \qquad p(s) = \frac{e^{-\beta E(s)}}{Z(\beta)}, \qquad
#   Z(\beta) = \sum_s e^{-\beta E(s)},$$
#
# at the inverse temperature $\beta = 1/T$ (Boltzmann's constant is 1). Neighbours with $J > 0$ like to agree; temperature stirs.
# This tutorial follows one idea from there to machines that draw digits:
#
# 1. the square lattice: sums over all states against Markov chains, and the phase transition;
# 2. the inverse problem: couplings from observed spins;
# 3. Hopfield's memory: couplings chosen so that given patterns are minima of the energy;
# 4. restricted Boltzmann machines: couplings *learned*, with hidden units; their likelihood, exactly and by annealing.
#
# Everything is small enough for a laptop: about a minute and a half.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn import datasets, model_selection

import megjax
from megjax.data import ising as lattices
from megjax.energies import exact, hopfield, ising, rbm, units
from megjax.evaluation import couplings, likelihood
from megjax.evaluation import ising as observables

# %% [markdown]
# ## Sixteen spins, exactly
#
# A $4 \times 4$ lattice with periodic boundaries has 16 spins, 32 bonds and $2^{16} = 65536$ states. That is few enough to write
# them all down. A *family* of `megjax.energies` is an energy with free parameters; here every bond has $J = 1$, and as only
# $\beta J$ enters, we give $\beta$ as the coupling.

# %%
edges = ising.square_lattice(4)
small = ising.family(16, edges=edges)


def at(beta, edges, num):
    """Parameters of a lattice: the same coupling on every bond, no field."""
    return {"bias": jnp.zeros(num), "couplings": jnp.full((len(edges), 1, 1), beta)}


beta = 0.4
params = at(beta, edges, 16)
everything = exact.distribution(functools.partial(small.energy, params), units.SPIN, 16)
energies = small.energy(params, everything.states) / beta
mean = exact.expectation(everything, energies) / 16
spread = exact.expectation(everything, energies**2) / 16 - 16 * mean**2
print(f"log Z {everything.log_partition:.4f}")
print(f"energy per spin {mean:.4f}, specific heat {beta**2 * spread:.4f}")
print(f"entropy {exact.entropy(everything):.4f} nats of {16 * np.log(2):.4f}")

# %% [markdown]
# The specific heat is the derivative of the mean energy, $c = \mathrm{d}u/\mathrm{d}T$, and equals the variance of the energy,
# $c = \beta^2 \left(\langle E^2 \rangle - \langle E \rangle^2\right) / n$: how much the energy fluctuates tells how much heat it takes up.
#
# For the square lattice there is a formula, Kaufman's of 1949, of any size. A sum over 65536 states and a formula that has
# nothing to do with it should agree:

# %%
formula = observables.kaufman(beta, 4)
print("formula: energy {:.4f}, specific heat {:.4f}".format(*formula))
assert np.allclose(formula, [mean, beta**2 * spread], atol=1e-3)

# %% [markdown]
# ## The same by a Markov chain
#
# Twenty more spins and no computer can list the states. A *Gibbs sweep* draws every spin anew, given its neighbours:
#
# $$p(s_i = +1 \mid \text{others}) = \frac{1}{1 + e^{-2 \beta \sum_j J_{ij} s_j}} .$$
#
# It leaves $p(s)$ as it is, so a chain of sweeps ends in $p(s)$ from wherever it starts. Spins without a bond
# between them can be drawn together: on a lattice, all black fields of the checkerboard, then all white ones.


# %%
@functools.partial(jax.jit, static_argnums=(0, 3))
def gibbs(family, key, params, num_sweeps, spins):
    """Spins after every sweep: [num_sweeps, chains, n]."""

    def sweep(chain, key):
        chain = family.sweep(key, params, chain)
        return chain, chain[0].astype(jnp.int8)

    keys = jax.random.split(key, num_sweeps)
    return jax.lax.scan(sweep, (spins,), keys)[1]


chains = gibbs(small, jax.random.key(0), params, 1000, jnp.ones((50, 16)))
drawn = np.swapaxes(np.asarray(chains[200:]), 0, 1).reshape(50, 800, 4, 4)
measured = observables.observables(drawn, beta)
for name in ("energy", "specific_heat"):
    print(f"{name}: {measured[name].value:.4f} +- {measured[name].error:.4f}")

# %% [markdown]
# 50 chains of 800 sweeps, after 200 that are thrown away, meet the exact numbers within twice their errors. These come from
# leaving out one chain at a time: chains are independent, successive draws of one chain are not.
#
# ## A phase transition
#
# In two dimensions there is a temperature below which the spins agree on a direction, by themselves. Onsager found it in 1944:
# $T_c = 2 / \ln(1 + \sqrt 2) \approx 2.269$. We look at $16 \times 16$ spins, from cold to hot. `data.ising` moves whole *clusters* of
# spins (Swendsen and Wang 1987); why, we see in a moment. Beside the points goes Kaufman's $\ln Z$ of this lattice, by its
# derivatives: $u = -\partial \ln Z / \partial \beta \,/\, n$ and $c = \beta^2\, \partial^2 \ln Z / \partial \beta^2 \,/\, n$.


# %%
def exactly(temperatures):
    """Energy per spin and specific heat of 16 x 16 spins: [N, 2]."""
    log_z = functools.partial(observables.kaufman_log_partition, size=16)
    with jax.enable_x64(True):
        betas = jnp.asarray(1 / temperatures)
        slope = jax.jit(jax.vmap(jax.grad(log_z)))(betas)
        curvature = jax.jit(jax.vmap(jax.grad(jax.grad(log_z))))(betas)
        return np.stack([-slope / 256, betas**2 * curvature / 256], axis=1)


critical = 1 / observables.CRITICAL_INVERSE_TEMPERATURE
temperatures = np.linspace(1.6, 3.4, 13)
draw = functools.partial(
    lattices.configurations,
    size=16,
    num_chains=20,
    num_draws=40,
    num_burn_in=60,
    thin=3,
)
found = []
for i, temperature in enumerate(temperatures):
    spins = np.asarray(draw(jax.random.key(i), 1 / temperature))
    found.append(observables.observables(spins, 1 / temperature))
fine = np.linspace(1.55, 3.5, 60)
curves = exactly(fine)
infinite = [observables.yang_magnetisation(1 / t) for t in fine]
print("T_c", round(critical, 4))
for temperature, one, (energy, heat) in zip(
    temperatures[::3], found[::3], exactly(temperatures[::3])
):
    print(
        f"T {temperature:.2f}  energy {one['energy'].value:.3f} +- "
        f"{one['energy'].error:.3f}, exact {energy:.3f}; specific heat "
        f"{one['specific_heat'].value:.2f} +- {one['specific_heat'].error:.2f}, "
        f"exact {heat:.2f}"
    )

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
panels = {
    "energy": ("energy per spin", curves[:, 0], "exact, 16 x 16"),
    "specific_heat": ("specific heat", curves[:, 1], "exact, 16 x 16"),
    "magnetisation": ("mean |m|", infinite, "exact, infinite"),
}
for ax, (name, (label, curve, title)) in zip(axes, panels.items()):
    values, errors = np.array([one[name] for one in found]).T
    ax.plot(fine, curve, color="C1", label=title)
    ax.errorbar(temperatures, values, errors, fmt="o", ms=4, label="chains")
    ax.axvline(critical, color="k", lw=0.8, ls=":")
    ax.set(xlabel="temperature", ylabel=label)
    ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The points lie on the exact curves of this lattice. The specific heat has its peak near $T_c$ (dotted); on larger lattices the
# peak grows, like the logarithm of the side, and moves to $T_c$. The magnetisation of the infinite lattice is 0 above $T_c$; 256
# spins cannot be that sharp.
#
# How does that look? Three lattices of $64 \times 64$ spins:

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, temperature in zip(axes, (1.8, critical, 3.5)):
    spins = lattices.configurations(
        jax.random.key(1), 1 / temperature, size=64, num_chains=1, num_draws=1
    )[0, 0]
    ax.imshow(spins, cmap="gray", vmin=-1, vmax=1)
    ax.set(title=f"T = {temperature:.2f}, m = {np.mean(spins):+.2f}")
    ax.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Below $T_c$ nearly all spins agree, with small islands of the other sign. Far above, they hardly know their neighbours. In between, at $T_c$, there
# are islands of all sizes: no length but the lattice's own.
#
# Those large islands are what makes Markov chains slow. A Gibbs sweep nibbles at their rims; a cluster move turns an island at
# once. How many independent draws of $m^2$ are 500 sweeps worth?

# %%
large = ising.family(256, edges=ising.square_lattice(16))
for temperature in (1.8, critical, 3.5):
    there = at(1 / temperature, ising.square_lattice(16), 256)
    one_by_one = gibbs(large, jax.random.key(2), there, 700, jnp.ones((8, 256)))
    one_by_one = np.swapaxes(np.asarray(one_by_one[200:]), 0, 1)
    clusters = lattices.configurations(
        jax.random.key(3), 1 / temperature, size=16, num_chains=8, num_draws=500, thin=1
    )
    sizes = [
        megjax.effective_sample_size(np.mean(spins.reshape(8, 500, 256), -1) ** 2)
        for spins in (one_by_one, np.asarray(clusters, np.float32))
    ]
    print(
        f"T {temperature:.2f}: of 8 x 500 draws, single spins are worth {sizes[0]:5.0f}, "
        f"clusters {sizes[1]:5.0f}"
    )

# %% [markdown]
# Far from $T_c$ single spins will do. At $T_c$ they are worth a small part of the cluster moves, and it gets worse with size:
# their memory grows like the side squared and more ("critical slowing down").
#
# ## The inverse problem
#
# Now the other way round: spins are observed, couplings are sought. That is how one asks which neurons excite which, or which
# positions of a protein touch. With all pairs allowed, the model of maximum entropy that has the observed means
# $\langle s_i \rangle$ and products $\langle s_i s_j \rangle$ is an Ising model; its parameters are those of maximum likelihood,
#
# $$\frac{\partial}{\partial J_{ij}} \frac1N \log p(\text{data}) = \langle s_i s_j \rangle_\text{data} - \langle s_i s_j \rangle_\text{model},$$
#
# which is zero when the model agrees with the data on every pair. The second average is a sum over all states. Four ways:
# do that sum (up to 16 spins); *pseudo-likelihood*, one logistic regression of each spin on the others; and two mean-field
# formulas, $J \approx -C^{-1}$ with the covariance $C$ of the spins, and its correction by Thouless, Anderson and Palmer.

# %%
num_spins, num_draws = 12, 4000
full = ising.family(num_spins)
methods = {
    "maximum likelihood": couplings.maximum_likelihood,
    "pseudo-likelihood": couplings.pseudo_likelihood,
    "mean field": couplings.mean_field,
    "TAP": couplings.tap,
}


def inverse_problem(strength):
    """Couplings of a random model [n, n], and what each method finds."""
    key_couplings, key_fields, key_draws = jax.random.split(jax.random.key(4), 3)
    num_pairs = num_spins * (num_spins - 1) // 2
    values = jax.random.normal(key_couplings, (num_pairs, 1, 1))
    truth = {
        "bias": 0.3 * jax.random.normal(key_fields, (num_spins,)),
        "couplings": strength / np.sqrt(num_spins) * values,
    }
    model = exact.distribution(
        functools.partial(full.energy, truth), units.SPIN, num_spins
    )
    x = np.asarray(exact.sample(key_draws, model, num_draws))
    matrix = ising.matrix(truth["couplings"], num_spins, net=ising.graph(num_spins))
    return np.asarray(matrix), {name: fn(x) for name, fn in methods.items()}


fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, strength in zip(axes, (0.5, 1.5)):
    truth, estimates = inverse_problem(strength)
    pairs = np.triu_indices(num_spins, 1)
    print(f"strength {strength}: rms error, stated error, truth within two of it")
    for name, estimate in estimates.items():
        one = couplings.recovery(estimate, truth)
        print(
            f"  {name:19} {one['rms_error']:.4f}  {one['mean_standard_error']:.4f}  "
            f"{one['within_two_errors']:.2f}"
        )
        ax.plot(truth[pairs], estimate.couplings[pairs], ".", label=name)
    ends = truth[pairs].min(), truth[pairs].max()
    ax.plot(ends, ends, "k:", lw=1)
    ax.set(xlabel="true coupling", ylabel="estimate", title=f"strength {strength}")
    ax.set(ylim=(2 * ends[0], 2 * ends[1]))
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# At weak coupling (left) all four lie near the diagonal, the mean-field formulas less so at the two strongest couplings, and the
# stated errors are about right. At strong coupling (right) both
# likelihoods still do, with errors that are larger because spins that nearly always agree tell little about *how* strongly they are
# coupled. The mean-field formulas break down there; their worst couplings lie far below the frame, and their stated errors
# say nothing of that bias. Pseudo-likelihood, without any sum over states, is almost as good as the exact maximum.
#
# On a lattice it needs only the neighbours, and turns spins into a thermometer. One coupling for all bonds,
# from configurations at the critical temperature:

# %%
spins = np.asarray(draw(jax.random.key(5), observables.CRITICAL_INVERSE_TEMPERATURE))
reading = couplings.shared_coupling(
    spins.reshape(-1, 256), ising.square_lattice(16), num_groups=20
)
print(
    f"coupling {reading.value:.4f} +- {reading.error:.4f}, "
    f"truth {observables.CRITICAL_INVERSE_TEMPERATURE:.4f}"
)

# %% [markdown]
# ## Memories as minima
#
# Hopfield (1982) chose couplings instead of measuring them. For patterns $\xi^1, \dots, \xi^P$ of $\pm 1$ Hebb's rule says
#
# $$J_{ij} = \frac1n \sum_{\mu=1}^{P} \xi_i^\mu \xi_j^\mu, \qquad J_{ii} = 0 .$$
#
# Then each pattern is near a minimum of $E$, and going downhill, every spin taking the sign of its field, *recalls*
# the pattern from a damaged copy. We store three digits of $8 \times 8$ pixels, black and white.


# %%
def tiles(ax, x, columns, title="", limit=1.0):
    """Rows of 64 numbers as pictures side by side."""
    rows = -(-len(x) // columns)
    canvas = np.full((rows * 9 + 1, columns * 9 + 1), np.nan)
    for i, one in enumerate(x):
        top, left = i // columns * 9 + 1, i % columns * 9 + 1
        canvas[top : top + 8, left : left + 8] = np.reshape(one, (8, 8))
    ax.imshow(canvas, cmap="gray", vmin=-limit, vmax=limit)
    ax.set(title=title, xticks=[], yticks=[])


pixels, labels = datasets.load_digits(return_X_y=True)
black_and_white = np.where(pixels >= 8, 1.0, -1.0)
patterns = jnp.array([black_and_white[labels == digit][0] for digit in (0, 1, 7)])
memory = hopfield.couplings(patterns)
flips = jax.random.bernoulli(jax.random.key(6), 0.2, patterns.shape)
lower_half = jnp.arange(64) >= 32
damaged = jnp.concatenate(
    [jnp.where(flips, -patterns, patterns), jnp.where(lower_half, -1.0, patterns)]
)
recalled, falling = hopfield.recall(jax.random.key(7), memory, damaged, num_sweeps=5)
overlap = hopfield.overlap(jnp.tile(patterns, (2, 1)), recalled)
print("overlap with the stored pattern:", np.round(overlap, 2))
print("energy of the first, sweep by sweep:", np.round(falling[:, 0], 2))

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 1.9), layout="constrained")
tiles(axes[0], damaged, 6, "shown: a fifth flipped; lower half blank")
tiles(axes[1], recalled, 6, "recalled")
plt.show()

# %% [markdown]
# The energy falls and stays; it can never rise, which is why the recall ends. A fifth of flipped pixels is repaired completely
# (overlap 1). A blank half is not: it is no noise but 32 pixels that all say "black", and recall ends in another
# minimum, that of a mixture of the three. How many patterns fit in? Random ones, by theory, up to
# $0.138\, n$ (Amit, Gutfreund and Sompolinsky 1985); beyond, the memory fails all at once, not gradually.

# %%
loads = (0.04, 0.11, 0.14, 0.17, 0.25)
found = hopfield.capacity(
    jax.random.key(8), 300, loads, num_probes=40, flipped=0.1, num_sweeps=8
)
print("300 units:", ", ".join(f"{a}: {b:.2f}" for a, b in zip(loads, found)))
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(loads, found, "o-")
ax.axvline(hopfield.CRITICAL_LOAD, color="k", lw=0.8, ls=":")
ax.set(xlabel="patterns per unit", ylabel="overlap after recall")
plt.show()

# %% [markdown]
# With a tenth of the spins flipped, 300 units recall nearly perfectly up to about a tenth of a pattern per unit. Past the
# dotted line the overlap drops; with more units the drop is steeper.
#
# ## Hidden units
#
# Pairs of pixels are not enough to draw digits. A *restricted Boltzmann machine* adds hidden units $h$, here zeros and ones like the
# pixels $v$, coupled to pixels but not to each other:
#
# $$E(v, h) = -a \cdot v - b \cdot h - v^\top W h .$$
#
# Summed over $h$, a closed form remains: the *free energy*, which couples pixels in all orders,
#
# $$F(v) = -\log \sum_h e^{-E(v, h)} = -a \cdot v - \sum_j \log\left(1 + e^{\,b_j + (v^\top W)_j}\right), \qquad
#   p(v) = \frac{e^{-F(v)}}{Z} .$$
#
# Given $v$ the hidden units are independent, and the other way round: a Gibbs sweep is two matrix products. The
# gradient of the log-likelihood is the difference that we know from the inverse Ising problem,
#
# $$\frac{\partial \log p}{\partial W_{ij}} = \langle v_i h_j \rangle_\text{data} - \langle v_i h_j \rangle_\text{model},$$
#
# and the second average is taken from Markov chains that go on from update to update (persistent contrastive divergence,
# Tieleman 2008). `megjax.RBM` has the methods of scikit-learn's `BernoulliRBM`.

# %%
binary = (pixels >= 8).astype(np.float32)
train, test = model_selection.train_test_split(binary, test_size=0.2, random_state=0)
machine = megjax.RBM(
    n_components=16, batch_size=100, learning_rate=0.05, random_state=0
)
history = []
for epoch in range(150):
    machine.partial_fit(train)
    if epoch % 15 == 14:
        history.append(
            (epoch + 1, *(machine.pseudo_likelihood(x).mean() for x in (train, test)))
        )
print("epoch, pseudo-likelihood of training and test rows")
for row in history[::3]:
    print("{:5} {:8.2f} {:8.2f}".format(*row))

# %% [markdown]
# The likelihood itself needs $\log Z$. With 16 hidden units there are $2^{16}$ states of $h$, and for each the sum over $v$ is a product:
# exact in a moment. That machine is our test bench for what larger ones need, *annealed importance sampling* (Neal
# 2001): chains start at a machine without weights, whose $Z$ is known, and cool down to ours through many intermediate ones.
# With the weight $w = \prod_t p^*_t(v_t) / p^*_{t-1}(v_t)$ of each chain, $Z / Z_0 = \langle w \rangle$ exactly, for any number of steps;
# with few steps the weights vary wildly, and their mean is dominated by chains that did not come.


# %%
def parameters(machine):
    return {
        "weights": jnp.asarray(machine.components_.T),
        "visible_bias": jnp.asarray(machine.intercept_visible_),
        "hidden_bias": jnp.asarray(machine.intercept_hidden_),
    }


def annealed(machine, num_steps, num_sweeps=0):
    """log Z with 100 chains; num_sweeps: backwards, from the data."""
    params = parameters(machine)
    base = jax.tree.map(jnp.zeros_like, params)
    base["visible_bias"] = rbm.visible_bias(jnp.asarray(train.mean(axis=0)))
    return likelihood.log_partition(
        jax.random.key(9),
        rbm.family(64, len(machine.components_)),
        params,
        jnp.asarray(train[:100]),
        base=base,
        num_steps=num_steps,
        num_sweeps=num_sweeps,
    )


log_z = float(rbm.log_partition(parameters(machine)))
print(f"log Z, sum over 2^16 states: {log_z:.3f}")
steps = (10, 30, 100, 300, 1000)
estimates = [annealed(machine, num) for num in steps]
for num, one in zip(steps, estimates):
    print(
        f"{num:5} steps: {one.log_z:.3f} in [{one.low:.3f}, {one.high:.3f}], "
        f"effective chains {one.effective_sample_size:.0f} of 100"
    )

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
epochs, on_train, on_test = np.transpose(history)
axes[0].plot(epochs, on_train, label="training")
axes[0].plot(epochs, on_test, label="test")
axes[0].set(xlabel="epoch", ylabel="pseudo-likelihood (nats)")
axes[0].legend(frameon=False)
values = np.array([one.log_z for one in estimates])
ends = np.abs(np.array([(one.low, one.high) for one in estimates]).T - values)
axes[1].errorbar(steps, values, ends, fmt="o", label="annealing, 95 %")
axes[1].axhline(log_z, color="C1", label="exact")
axes[1].set(xscale="log", xlabel="annealing steps", ylabel="log Z (nats)")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# The pseudo-likelihood rises, and the test rows follow the training rows at a distance of about a nat: little overfitting, with 16
# units for 64 pixels. On the right, annealing: with ten steps it is half a nat too low, and its interval, which only knows the
# chains that came, does not reach the truth. With a thousand steps it is within a few hundredths.
#
# Where no exact sum is there to check, go the way *back* too: chains that start at the data, move under the machine for a
# while and are then heated up. Their estimate tends to be too large, so that the two enclose the truth.

# %%
backwards = annealed(machine, 1000, num_sweeps=1000)
print(f"forwards {estimates[-1].log_z:.3f}, backwards {backwards.log_z:.3f}")


def nats(x):
    """Mean log-likelihood of rows under the machine."""
    return machine.score_samples(x).mean() - log_z


rates = 0.99 * train.mean(axis=0) + 0.005
independent = np.sum(test * np.log(rates) + (1 - test) * np.log(1 - rates), axis=1)
print(f"independent pixels, test {independent.mean():7.2f} nats")
print(f"machine, test            {nats(test):7.2f} nats")
print(f"machine, training        {nats(train):7.2f} nats")

# %% [markdown]
# The two enclose the exact 59.6, and the machine gives a test image five nats more than independent pixels do. Pictures say
# what numbers do not: its weights, one square for each hidden unit, and digits that it makes up, from chains of 500 sweeps.

# %%
fantasies = machine.sample(32, num_sweeps=500)
fig, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
tiles(axes[0], machine.components_, 4, "weights of 16 hidden units", limit=3)
tiles(axes[1], 2 * test[:32] - 1, 8, "test images")
tiles(axes[2], 2 * fantasies - 1, 8, "samples")
plt.show()
print("share of white pixels: test", test.mean().round(3), "samples", fantasies.mean())

# %% [markdown]
# Hidden units look at strokes and at where the ink is not. The samples look like digits, ragged ones; sixteen
# binary units cannot say much. More units draw better, and their $\log Z$ can then only be annealed.
#
# ## Exercises
#
# 1. Start Gibbs chains of a $32 \times 32$ lattice at $T = 1.5$ from random spins instead of all up. Why do some of
#    them end in stripes, and what does `observables.observables` then say of the energy and its error?
# 2. Store 3 and 8, or ten digits instead of three, in the Hopfield memory. What is recalled, and which assumption of the
#    theory of its capacity do digits break? Compare with random patterns of 64 spins.
# 3. Train `megjax.RBM(n_components=64)`. How far apart are forward and backward annealing with 300 and with 3000 steps? Is the
#    test likelihood better than that of 16 units, by more than that gap?
# 4. The lattice is a machine, too: `hopfield.machine_of` turns any pairwise model into one with Gaussian hidden units. Check that
#    `rbm.energy` of it and `ising.energy` differ by the same constant on all 65536 states of the $4 \times 4$ lattice.
#
# ## References
#
# - L. Onsager, *Crystal statistics I*, Physical Review 1944; B. Kaufman, *Crystal statistics II*, 1949; R. Swendsen, J.-S. Wang,
#   *Nonuniversal critical dynamics in Monte Carlo simulations*, PRL 1987.
# - H. C. Nguyen, R. Zecchina, J. Berg, *Inverse statistical problems: from the inverse Ising problem to data science*, 2017.
# - J. Hopfield, *Neural networks and physical systems with emergent collective computational abilities*, PNAS 1982; D. Amit,
#   H. Gutfreund, H. Sompolinsky, *Storing infinite numbers of patterns in a spin-glass model of neural networks*, PRL 1985.
# - G. Hinton, *Training products of experts by minimizing contrastive divergence*, 2002; T. Tieleman, *Training restricted
#   Boltzmann machines using approximations to the likelihood gradient*, ICML 2008.
# - R. Neal, *Annealed importance sampling*, 2001; R. Salakhutdinov, I. Murray, *On the quantitative analysis of deep belief
#   networks*, ICML 2008; Y. Burda, R. Grosse, R. Salakhutdinov, *Accurate and conservative estimates of MRF log-likelihood using
#   reverse annealing*, AISTATS 2015.
# - P. Mehta et al., *A high-bias, low-variance introduction to machine learning for physicists*, Physics Reports 2019.
