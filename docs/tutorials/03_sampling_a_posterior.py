# %% [markdown]
# # Sampling a posterior
#
# Bayesian statistics needs one thing from an energy-based library: draws from
# $p(\theta \mid y) \propto p(y \mid \theta)\,p(\theta)$, which is $e^{-E(\theta)}/Z$ with
# $E(\theta) = -\log p(y \mid \theta) - \log p(\theta)$ and an unknown $Z$. This tutorial
# writes a regression in a few lines, samples it with NUTS, reads the diagnostics, mends a
# posterior whose shape defeats the sampler, finds all modes of another together with its
# evidence, keeps long chains on disk, and trains a sampler. It takes about a minute and a
# half on two cores and needs `pip install "megjax[sampling,plot]"`.

# %%
import pathlib
import tempfile
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy import stats

import megjax
from megjax.recipes import proposal
from megjax.samplers import tempering

# %% [markdown]
# ## A regression of one's own
#
# Forty measurements of a line, a few of which went wrong. We know the truth, since we
# make the data: intercept 1, slope 2, standard deviation 0.3, one in seven wrong.

# %%
rng = np.random.default_rng(3)
x = np.sort(rng.uniform(-1, 2, 42))
wrong = np.arange(42) % 7 == 6
y = 1 + 2 * x + 0.3 * rng.normal(size=42) + wrong * rng.normal(-3, 2, 42)


# %% [markdown]
# The model says that a measurement is on the line with normal noise, or with probability
# $\pi$ anywhere near it:
#
# $$ p(y_i \mid \theta) = (1 - \pi)\,N(y_i;\, a + b x_i,\, \sigma^2)
#    + \pi\,N(y_i;\, a + b x_i,\, 5^2) . $$
#
# The function gets one position, a dictionary of parameters, and returns one number, the
# logarithm of posterior density up to a constant. Priors: $a, b \sim N(0, 5^2)$,
# $\sigma$ half normal, $\pi$ uniform on $(0, 1)$.


# %%
def log_posterior(position):
    line = position["intercept"] + position["slope"] * x
    share = position["share"]
    good = jnp.log1p(-share) + stats.norm.logpdf(y, line, position["scale"])
    bad = jnp.log(share) + stats.norm.logpdf(y, line, 5.0)
    prior = stats.norm.logpdf(position["intercept"], 0, 5)
    prior += stats.norm.logpdf(position["slope"], 0, 5)
    prior += stats.norm.logpdf(position["scale"], 0, 1)
    return prior + jnp.sum(jnp.logaddexp(good, bad))


# %% [markdown]
# `init` has the form of a position with an axis of chains in front; four chains start at
# different places. $\sigma$ and $\pi$ have bounds. Chains move in all of $\mathbb{R}^4$,
# so `bijector=` names for each bounded variable the map from an unbounded value $u$ to it,
# and `sample` adds the logarithm of the Jacobian, $\log |d\theta / du|$, to the density:
# forgotten, it would silently change the posterior.

# %%
init = {
    "intercept": jnp.array([-2.0, 0.0, 2.0, 4.0]),
    "slope": jnp.array([3.0, 0.0, 1.0, -1.0]),
    "scale": jnp.array([0.2, 0.5, 1.0, 2.0]),
    "share": jnp.array([0.1, 0.3, 0.5, 0.7]),
}
bijector = {"scale": megjax.positive(), "share": megjax.interval(0.0, 1.0)}
draws = megjax.sample(
    log_posterior, init, key=jax.random.key(0), bijector=bijector, num_samples=1000
)
az.summary(draws, kind="all", round_to=3)

# %% [markdown]
# The table is ArviZ's: mean and standard deviation of each parameter, an interval that
# has 94 % of the draws, the Monte Carlo error of the mean, how many independent draws
# would be worth the same (`ess_bulk`, `ess_tail`), and $\hat R$, which compares the
# variance between chains with that within them and is 1 where they agree. Beyond 1.01
# `megjax.sample` warns.

# %%
posterior = az.extract(draws)
grid = np.linspace(-1.1, 2.1, 50)
slope, intercept = np.polyfit(x, y, 1)
plt.figure(figsize=(6.5, 4))
plt.plot(x[~wrong], y[~wrong], "k.", label="right")
plt.plot(x[wrong], y[wrong], "rx", label="wrong")
some = posterior.isel(sample=slice(0, None, 40))
for a, b in zip(some["intercept"].values, some["slope"].values):
    plt.plot(grid, a + b * grid, color="tab:blue", alpha=0.08)
plt.plot(grid, intercept + slope * grid, "r--", label="least squares")
plt.plot(grid, 1 + 2 * grid, "k:", label="truth")
plt.legend()
plt.title("draws of the line (blue)")
plt.show()
print(f"least squares: intercept {intercept:.2f}, slope {slope:.2f}")
for name in ("intercept", "slope"):
    print(
        f"posterior {name}: {float(posterior[name].mean()):.2f} "
        f"+- {float(posterior[name].std()):.2f}"
    )

# %% [markdown]
# The wrong measurements pull the line of least squares down on the left; the posterior
# allows for wrong ones without being told which they are. Now the chains themselves.

# %%
az.plot_trace(draws, var_names=["slope", "share"], figsize=(10, 4.5))
plt.tight_layout()
plt.show()

# %%
az.plot_rank(draws, var_names=["slope", "share"], figsize=(10, 3))
plt.tight_layout()
plt.show()

# %% [markdown]
# Trace plots of chains that mix look like grass: no drift, and no chain apart. Rank plots
# say the same more sharply (Vehtari et al. 2021): rank all draws together, and each
# chain's ranks must be uniform, bars of equal height up to noise.
#
# ## Divergences: a funnel, and its cure
#
# Eight schools (Rubin 1981): each reports the effect of a coaching programme with a
# standard error $s_j$. The effects $\theta_j \sim N(\mu, \tau^2)$ share a mean and a
# spread.

# %%
effect = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def priors(position):
    return stats.norm.logpdf(position["mu"], 0, 5) - jnp.log1p(
        (position["tau"] / 5) ** 2
    )


def centred(position):
    """Of mu, tau and the eight effects themselves."""
    theta = position["theta"]
    log_density = jnp.sum(stats.norm.logpdf(theta, position["mu"], position["tau"]))
    return (
        priors(position)
        + log_density
        + jnp.sum(stats.norm.logpdf(effect, theta, error))
    )


def chains(log_density, name, **options):
    """Draws, and the warnings of `megjax.sample` as text."""
    normal = jax.random.normal(jax.random.key(1), (4, 8))
    start = {"mu": jnp.zeros(4), "tau": jnp.full(4, 3.0), name: normal}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = megjax.sample(
            log_density,
            start,
            key=jax.random.key(2),
            bijector={"tau": megjax.positive()},
            **options,
        )
    for warning in caught:
        print("warning:", warning.message)
    return found


first = chains(centred, "theta")
az.summary(first, var_names=["mu", "tau"], round_to=2)

# %% [markdown]
# `megjax.sample` warns, and it is right to. Where $\tau$ is small all $\theta_j$ must be
# within $\tau$ of $\mu$: the posterior is a funnel, with a neck in which any step size
# that suits its mouth is too large. A trajectory whose energy error explodes there is
# called divergent; the chain does not enter the neck, and whatever lives there is
# missing from every average.
#
# The cure is not a better sampler but better coordinates. Write
# $\theta_j = \mu + \tau z_j$ with $z_j \sim N(0, 1)$: a priori $z$ and $\tau$ are
# independent, and there is no funnel ("non-centred"; Papaspiliopoulos et al. 2007).


# %%
def non_centred(position):
    """The same posterior, of mu, tau and z = (theta - mu) / tau."""
    theta = position["mu"] + position["tau"] * position["z"]
    log_density = jnp.sum(stats.norm.logpdf(position["z"]))
    return (
        priors(position)
        + log_density
        + jnp.sum(stats.norm.logpdf(effect, theta, error))
    )


second = chains(non_centred, "z", target_acceptance=0.95)
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True)
for panel, found, title in zip(axes, (first, second), ("centred", "non-centred")):
    mu, tau = found.posterior["mu"].values, found.posterior["tau"].values
    if "theta" in found.posterior:
        theta = found.posterior["theta"].values[..., 0]
    else:
        theta = mu + tau * found.posterior["z"].values[..., 0]
    bad = found.sample_stats["diverging"].values
    panel.plot(theta.ravel(), np.log(tau).ravel(), ".", ms=2, alpha=0.4)
    panel.plot(theta[bad], np.log(tau)[bad], "r.", ms=6, label=f"{bad.sum()} divergent")
    panel.set_title(title)
    panel.set_xlabel("effect of the first school")
    panel.legend(loc="lower right")
    print(
        f"{title}: {bad.sum()} divergent, smallest tau {tau.min():.3f}, share of draws "
        f"with tau < 0.3: {np.mean(tau < 0.3):.3f}, mean tau {tau.mean():.2f}"
    )
axes[0].set_ylabel("log tau")
plt.show()

# %% [markdown]
# On the left the chains stop above a level of $\tau$, and the red points, where
# trajectories diverged, lie towards it. On the right the same posterior goes on downwards:
# several percent of its mass has $\tau < 0.3$, of which the centred chains have none,
# and the mean of $\tau$ is lower. R-hat and the effective sample size said that something
# was wrong; the divergences said where.
#
# ## Several modes, and the evidence
#
# A signal $\sin(\omega t)$ is measured once per second for eight seconds. Frequencies
# that differ by $2 \pi$ give the same values there (aliasing), so the likelihood has
# equal peaks at $\omega_0 + 2 \pi k$, each about 0.03 wide, and only the prior
# $\omega \sim N(0, 5^2)$ prefers some.

# %%
seconds = np.arange(1, 9)
signal = np.sin(1.3 * seconds) + 0.3 * rng.normal(size=8)


def log_joint(position):
    """log p(y | omega) p(omega), normalised in y: its integral is the evidence p(y)."""
    mean = jnp.sin(position["omega"] * seconds)
    prior = stats.norm.logpdf(position["omega"], 0, 5)
    return prior + jnp.sum(stats.norm.logpdf(signal, mean, 0.3))


axis = np.linspace(-20, 20, 40_001)
log_values = np.asarray(jax.vmap(log_joint)({"omega": jnp.float32(axis)}), np.float64)
evidence = np.log(np.sum(np.exp(log_values)) * (axis[1] - axis[0]))
exact = np.exp(log_values - evidence)

# %% [markdown]
# One parameter can be integrated on a grid, so there is a truth to compare with. Forty
# chains start at draws of the prior: NUTS, and parallel tempering with the prior for its
# reference, so that replicas move between prior and posterior. The differences along that
# path add up to the log evidence, $\log Z = \log \int p(y \mid \omega)\,p(\omega)\,d\omega$
# (`log_z` of the draws' attributes); `"smc"` moves particles along the same path.

# %%
start = {"omega": 5 * jax.random.normal(jax.random.key(5), (40,))}
kernels = {
    "NUTS": "nuts",
    "tempering": tempering.Spec(reference=tempering.normal(0.0, 5.0)),
}
found = {}
for name, kernel in kernels.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found[name] = megjax.sample(
            log_joint, start, key=jax.random.key(6), kernel=kernel, num_samples=1000
        )
    print(f"{name}: R-hat {megjax.r_hat(found[name].posterior['omega'].values):.3f}")

peaks = 1.3 + 2 * np.pi * np.arange(-3, 3)
print("peak     exact  " + "  ".join(f"{name:>9}" for name in found))
for peak in peaks:
    near = np.abs(axis - peak) < 0.5
    shares = [
        np.mean(np.abs(one.posterior["omega"].values - peak) < 0.5)
        for one in found.values()
    ]
    print(f"{peak:6.2f} {np.sum(exact[near]) * 1e-3:7.3f}  ", end="")
    print("  ".join(f"{share:9.3f}" for share in shares))

figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharex=True, sharey=True)
bins = np.arange(-20, 20.1, 0.8)
for panel, (name, one) in zip(axes, found.items()):
    panel.hist(one.posterior["omega"].values.ravel(), bins, density=True, label=name)
    panel.hist(
        axis,
        bins,
        weights=exact * 1e-3 / 0.8,
        histtype="step",
        color="k",
        label="exact",
    )
    panel.set_xlabel("omega")
    panel.legend()
plt.show()
attributes = found["tempering"].attrs
print(
    f"log evidence: exact {evidence:.3f}, tempering {attributes['log_z']:.3f} "
    f"+- {attributes['log_z_error']:.3f}"
)
silence = np.sum(stats.norm.logpdf(signal, 0, 0.3))
print(f"log evidence of no signal at all: {silence:.3f}")

# %% [markdown]
# NUTS moves each chain to the nearest peak and leaves it there: most chains sit on small
# peaks of the likelihood between those of the table, which have next to no mass, and
# R-hat is far from 1. Tempering has every share within a few hundredths of the truth, and
# the evidence within its error or two. Evidences compare models: the signal explains the
# data better than silence by the difference of the two logarithms.
#
# ## Long chains on disk
#
# With `store=` the draws are kept while the chains run. A process that is killed is
# started again with the same call and goes on, to the same bits; the call of a finished
# run reads its draws; and a call with more `num_samples` goes on from the old end.

# %%
with tempfile.TemporaryDirectory() as folder:

    def stored(num_samples):
        found = megjax.sample(
            log_posterior,
            init,
            key=jax.random.key(0),
            bijector=bijector,
            num_samples=num_samples,
            store=pathlib.Path(folder) / "regression",
        )
        return found.posterior["slope"].values

    first_run = stored(1000)
    again = stored(1000)
    longer = stored(2000)
print(
    "the same bits as without a store:",
    np.all(first_run == draws.posterior["slope"].values),
)
print("read back:", np.all(again == first_run))
print("continued:", np.all(longer[:, :1000] == first_run), longer.shape)

# %% [markdown]
# ## A proposal that is learned
#
# Where one density is sampled again and again, a network can learn how to propose (Li,
# Chen and Sommer 2021). `megjax.train` trains it on a density of one's own, through a
# config of the recipe `proposal`; `megjax.sample` takes the trained model for a kernel,
# and the accept step keeps it exact. The density is a banana,
# $x_1 \sim N(0, 1)$, $x_2 \mid x_1 \sim N(x_1^2, 1)$.


# %%
def banana(x):
    return -0.5 * x[0] ** 2 - 0.5 * (x[1] - x[0] ** 2) ** 2


config = proposal.posterior_config()
config.recipe = proposal.density(lambda config: megjax.Target("banana", 2, banana))
config.width, config.train.num_steps = 32, 1500
with tempfile.TemporaryDirectory() as folder:
    learned = megjax.train(config, workdir=folder)

start = jax.random.normal(jax.random.key(0), (4, 2))
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True)
kernels = {"learned proposal": learned, "MALA": "mala"}
for panel, (name, kernel) in zip(axes, kernels.items()):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = megjax.sample(
            banana, start, key=jax.random.key(1), kernel=kernel, num_samples=2000
        )
    x2 = one.posterior["x"].values[..., 1]
    panel.plot(x2[0, :300], lw=0.8)
    panel.set_title(name)
    panel.set_xlabel("draw")
    style = {"density": True, "histtype": "step", "orientation": "horizontal"}
    axes[2].hist(x2.ravel(), np.linspace(-4, 10, 60), label=name, **style)
    print(
        f"{name}: acceptance {float(one.sample_stats['acceptance_rate'].mean()):.2f}, "
        f"effective sample size of 8000 draws: {megjax.effective_sample_size(x2):.0f}, "
        f"mean of x2 {x2.mean():.3f} (exact 1)"
    )
axes[0].set_ylabel("x2")
axes[2].legend()
plt.show()

# %% [markdown]
# Draws of the learned proposal are nearly independent; MALA's, with one gradient per step,
# are not. The price is the training, far more than this density is worth: results and
# costs on harder ones are on the page Learned proposals. `kernel="learned"` weighs the two
# by itself: it trains inside the call for `budget` seconds (without one, only where NUTS
# would take minutes), measures both, and takes NUTS where that is the faster one.
#
# ## Exercises
#
# 1. Leave `bijector=` out of the regression. What does the warning say, and what has
#    become of the chains? Then put it back and ask for `mass_matrix="dense"`: how do step
#    size and effective sample size change?
# 2. Raise `target_acceptance` of the centred eight schools to 0.99. Do the divergences
#    go, and does the smallest $\tau$ reach that of the other coordinates?
# 3. Give the signal a ninth measurement at $t = 0.5$. Which of the modes should be left?
#    Sample it with `kernel="smc"` and 2000 particles, five draws each, and compare `log_z`.
#
# ## References
#
# - M. Hoffman, A. Gelman: The No-U-Turn Sampler, JMLR 15, 2014.
# - A. Vehtari et al.: Rank-normalization, folding, and localization: an improved R-hat,
#   Bayesian Analysis 16, 2021.
# - D. Rubin: Estimation in parallel randomized experiments, Journal of Educational
#   Statistics 6, 1981.
# - O. Papaspiliopoulos, G. Roberts, M. Skold: A general framework for the parametrization
#   of hierarchical models, Statistical Science 22, 2007.
# - S. Syed, A. Bouchard-Cote, G. Deligiannidis, A. Doucet: Non-reversible parallel
#   tempering, JRSS B 84, 2022.
# - Z. Li, Y. Chen, F. Sommer: A neural network MCMC sampler that maximizes proposal
#   entropy, Entropy 23, 2021.
