# %% [markdown]
# # Anomaly detection on a table
#
# A table of normal rows is at hand: patients without a finding, machines that run, connections that nobody complained about.
# Which rows of a new table do not belong? No anomaly is labelled, and the next one may be of a kind that nobody has seen. So
# we ask how *usual* a row is, and call the least usual ones anomalies.
#
# In this tutorial you
#
# 1. give every row an energy with `megjax.EnergyDetector` and use it like any scikit-learn estimator;
# 2. hold it against an isolation forest, the local outlier factor and PCA, on tables where it wins and where it loses;
# 3. turn scores into p-values, see what these promise, and choose rows with a controlled false discovery rate;
# 4. ask which column made a row unusual, and plant a fault to check the answer;
# 5. save and load a detector, and see what goes wrong.
#
# All tables come with scikit-learn; it takes about a minute.

# %%
import os
import tempfile
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from sklearn import (
    datasets,
    decomposition,
    ensemble,
    impute,
    metrics,
    model_selection,
    neighbors,
    pipeline,
    preprocessing,
)

import megjax

# What is saved goes to a folder that is deleted at the end.
folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)

# %% [markdown]
# ## A table, and the energy of a row
#
# scikit-learn's breast cancer table has 30 measurements of the cell nuclei in 569 biopsies: 357 benign ones, which we call
# normal, and 212 malignant ones. The detector sees 250 benign rows. It is judged on the other 107 and on all malignant ones.

# %%
table = datasets.load_breast_cancer()
benign, malignant = table.data[table.target == 1], table.data[table.target == 0]
train, held_out = model_selection.train_test_split(
    benign, train_size=250, random_state=0
)
test = np.concatenate([held_out, malignant])
is_anomaly = np.repeat([False, True], [len(held_out), len(malignant)])
print("train", train.shape, "held out", held_out.shape, "malignant", malignant.shape)

# %% [markdown]
# An energy-based model says how likely a row is by a number $E(x)$, low where rows are likely:
#
# $$p(x) = \frac{e^{-E(x)}}{Z}, \qquad -\log p(x) = E(x) + \log Z .$$
#
# To rank rows we need no $Z$: it is the same for all. Among $n$ training rows the distance $\bar d(x)$ to the nearest few
# is large where the density is low. If a ball of radius $\bar d$ around $x$ in $D$ dimensions holds $k$ of $n$ rows, then
# $p(x) \approx k / (n V_D \bar d^{\,D})$, hence $-\log p(x) \approx D \log \bar d(x) + \text{constant}$.
# The default energy of `EnergyDetector` is of that kind:
#
# $$E(x) = \sum_{m=1}^{3} \Big[ \log\big(\bar d_m(x) + \epsilon_m\big) - \tfrac12 \log \bar r_m(x) \Big] + \text{guard}(x).$$
#
# The three maps $m$ scale the columns by mean and standard deviation, by median and quartiles, and by the arcsinh of the
# latter, so that neither outliers in the training rows nor heavy tails decide alone. $\bar r_m(x)$ is how far the neighbours
# are from *their* neighbours: half of the local scale is taken out, so that a row in a thin region is not an anomaly for
# that alone. The guard lifts rows that lie far outside the range of a column above all rows within. Nothing is trained.

# %%
detector = megjax.EnergyDetector(contamination=0.05, random_state=0).fit(train)
scores = detector.score_samples(test)  # minus the energy: high is normal
print(f"AUROC {metrics.roc_auc_score(is_anomaly, -scores):.3f}")

# %%
bins = np.linspace(-scores.max(), -scores.min(), 40)
fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
ax.hist(-detector.score_samples(train), bins, density=True, alpha=0.5, label="training")
ax.hist(-scores[~is_anomaly], bins, density=True, alpha=0.5, label="held out, benign")
ax.hist(-scores[is_anomaly], bins, density=True, alpha=0.5, label="malignant")
ax.axvline(-detector.offset_, color="k", lw=1, ls="--", label="threshold")
ax.set(xlabel="energy", ylabel="density", title="Energies of 30 measurements")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Training and held-out benign rows have the same distribution of energies, although the training rows are stored in the
# detector: a stored row is scored *without itself*, by the others. (A method that counted a row among its own neighbours
# would find its training rows far too normal.) The malignant rows lie to the right, with an overlap that no threshold removes.
#
# ## scikit-learn's habits
#
# `score_samples` is high for normal rows, `decision_function` is the same minus the threshold `offset_`, and `predict` is
# $+1$ for inliers, $-1$ for outliers. `contamination` only places the threshold: at 0.05, five per cent of the training rows
# are called outliers. It changes no score.

# %%
assert np.allclose(detector.decision_function(test), scores - detector.offset_)
for name, rows in (("training", train), ("benign", held_out), ("malignant", malignant)):
    print(f"{name:9} called outliers: {np.mean(detector.predict(rows) == -1):.2f}")

# %% [markdown]
# It works at the end of a pipeline. Here a tenth of the entries is missing, and an imputer fills in medians first:

# %%
holes = np.random.default_rng(0).random(train.shape) < 0.1
with_imputer = pipeline.make_pipeline(
    impute.SimpleImputer(strategy="median"), megjax.EnergyDetector(random_state=0)
)
with_imputer.fit(np.where(holes, np.nan, train))
auroc = metrics.roc_auc_score(is_anomaly, -with_imputer.score_samples(test))
print(f"trained with 10 % of the entries missing: AUROC {auroc:.3f}")

# %% [markdown]
# ## Against others
#
# No detector is best on all tables. We take three that come with scikit-learn: an isolation forest (how few random cuts part
# a row from the rest), the local outlier factor (a neighbour distance relative to that of the neighbours), and PCA (the
# squared distance to the span of the leading components that explain 90 % of the variance). Columns are standardised for the
# last two; the first does not care, and `EnergyDetector` scales by itself. All have their default settings.


# %%
def energy(seed):
    return megjax.EnergyDetector(random_state=seed)


def forest(seed):
    return ensemble.IsolationForest(random_state=seed)


def factor(seed):
    return pipeline.make_pipeline(
        preprocessing.StandardScaler(), neighbors.LocalOutlierFactor(novelty=True)
    )


class Projection:
    """Minus the squared distance to the leading principal components."""

    def fit(self, x):
        self.scaler = preprocessing.StandardScaler().fit(x)
        self.pca = decomposition.PCA(0.9).fit(self.scaler.transform(x))
        return self

    def score_samples(self, x):
        x = self.scaler.transform(x)
        back = self.pca.inverse_transform(self.pca.transform(x))
        return -np.sum((x - back) ** 2, axis=1)


rivals = {
    "EnergyDetector": energy,
    "isolation forest": forest,
    "local outlier factor": factor,
    "PCA": lambda seed: Projection(),
}

# %% [markdown]
# A task says which class is normal. In *breast cancer* it is the benign one; in *wine* and *iris* each class once; in *digits*
# (8x8 pixels) each digit once. Seventy per cent of the normal rows train, the rest and all other classes test.


# %%
def tasks():
    for name in ("breast_cancer", "wine", "iris", "digits"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        for normal in [1] if name == "breast_cancer" else np.unique(y):
            yield name, x[y == normal], x[y != normal]


def auroc(make, normal, other, seed, polluted=0.0):
    """Area under the ROC curve; polluted: share of anomalies among training rows."""
    fit, held_out = model_selection.train_test_split(
        normal, train_size=0.7, random_state=seed
    )
    order = np.random.default_rng(seed).permutation(len(other))
    num = round(polluted / (1 - polluted) * len(fit))
    fit = np.concatenate([fit, other[order[:num]]])
    rest = other[order[num:]]
    scores = make(seed).fit(fit).score_samples(np.concatenate([held_out, rest]))
    return metrics.roc_auc_score(np.arange(len(scores)) >= len(held_out), -scores)


def compared(polluted):
    found = {}
    for name, normal, other in tasks():
        row = [auroc(make, normal, other, 0, polluted) for make in rivals.values()]
        found.setdefault(name, []).append(row)
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


clean, mixed = compared(0.0), compared(0.1)
print("mean AUROC              " + "".join(f"{name:>22}" for name in rivals))
for title, found in (("clean", clean), ("10 % anomalies", mixed)):
    for name, row in found.items():
        print(f"{title:15}{name:15}" + "".join(f"{value:22.3f}" for value in row))

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, found, title in zip(
    axes, (clean, mixed), ("normal rows only", "10 % anomalies among training rows")
):
    for i, (name, marker) in enumerate(zip(rivals, "oDs^")):
        place = np.arange(len(found)) + 0.15 * (i - 1.5)
        ax.plot(place, [row[i] for row in found.values()], marker, label=name)
    ax.set(title=title)
    ax.set_xticks(np.arange(len(found)), found)
    ax.grid(axis="y", alpha=0.3)
axes[0].set_ylabel("mean AUROC")
axes[0].legend(frameon=False, fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# With clean training rows the four are close, and each table has another winner: `EnergyDetector` leads on iris, the forest
# on breast cancer, the local outlier factor on wine and PCA on digits, whose pixels lie near a plane. These are one split
# each; differences of a hundredth mean little on tables of a hundred rows. (Over the 29 tables of the ADBench collection, see
# [the results](../results/anomalies.md), the mean AUROC of `EnergyDetector` is .866, of the isolation forest .778;
# there, too, it loses on some.)
#
# The right panel is the warning of this page. With ten per cent of anomalies among the training rows the forest hardly
# suffers, and the detector loses to it on all four tables: anomalies of one kind are each other's neighbours. PCA suffers
# most on the small tables. Use `EnergyDetector` for *novelty detection*, with training rows that are normal as far as
# anybody knows. The last section comes back to that.
#
# ## From scores to p-values
#
# What does an energy of 2.7 mean? Compare it with those of normal rows. With training energies $E_1, \dots, E_n$ (each row
# scored without itself) the conformal p-value of a new row is
#
# $$p(x) = \frac{1 + \#\{i : E_i \ge E(x)\}}{n + 1}.$$
#
# If the new row is drawn like the training rows, its energy is equally likely to take any rank among theirs, so
# $P(p(x) \le t) \approx t$, whatever the distribution of the rows and however poor the energy. That is `p_values`.
#
# "Approximately", since the stored rows had a hand in the energy that ranks them: the scales of the columns, and their ranges,
# are theirs. The promise is exact, $P(p(x) \le t) \le t$ for any number of rows, if the energy is fitted to one part of the
# normal rows and $E_1, \dots, E_n$ are those of another part, set aside for calibration (Vovk et al. 2005). That is two lines
# of our own, and costs training rows. We compare both on held-out benign rows of 60 random splits.


# %%
def conformal(calibration, scores):
    """p-values of scores [N], from scores of normal rows set aside [n]."""
    as_low = np.searchsorted(np.sort(calibration), scores, side="right")
    return (1 + as_low) / (1 + len(calibration))


def split(seed, num_malignant):
    """{method: p-values of 107 benign rows, then of some malignant ones}."""
    fit, rest = model_selection.train_test_split(
        benign, train_size=250, random_state=seed
    )
    chosen = np.random.default_rng(seed).choice(len(malignant), num_malignant, False)
    new = np.concatenate([rest, malignant[chosen]])
    detector = megjax.EnergyDetector(random_state=seed).fit(fit)
    half = megjax.EnergyDetector(random_state=seed).fit(fit[:125])
    calibration = half.score_samples(fit[125:])
    return {
        "one left out": detector.p_values(new),
        "set aside": conformal(calibration, half.score_samples(new)),
    }


splits = [split(seed, num_malignant=30) for seed in range(60)]
levels = (0.01, 0.02, 0.05, 0.1, 0.5)
print("share of p-values up to" + "".join(f"{level:8}" for level in levels))
for name in splits[0]:
    p = np.stack([one[name] for one in splits])
    for rows, values in (("benign", p[:, :107]), ("malignant", p[:, 107:])):
        found = [np.mean(values <= level) for level in levels]
        print(f"{name:13}{rows:10}" + "".join(f"{value:8.3f}" for value in found))

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
pooled = {name: np.stack([one[name] for one in splits]) for name in splits[0]}
left_out = pooled["one left out"]
bins = np.linspace(0, 1, 21)
for values, label in ((left_out[:, :107], "benign"), (left_out[:, 107:], "malignant")):
    axes[0].hist(values.ravel(), bins, density=True, alpha=0.6, label=label)
axes[0].axhline(1, color="k", lw=1, ls="--")
axes[0].set(xlabel="p-value, one left out", ylabel="density", ylim=(0, 2))
axes[0].legend(frameon=False)
for name, values in pooled.items():
    # A p-value has no value below 1 / (n + 1).
    grid = np.arange(1, 126) / 126 if name == "set aside" else np.arange(1, 251) / 251
    share = [np.mean(values[:, :107] <= t + 1e-9) for t in grid]
    axes[1].loglog(grid, share, label=name)
axes[1].loglog([0.004, 1], [0.004, 1], "k--", lw=1, label="exactly uniform")
axes[1].set(xlabel="level t", ylabel="share of benign rows with p <= t")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# On the left the histogram of benign rows is flat to within its noise, and malignant rows pile up in the first bar, far
# above the frame. On the right, on logarithmic axes, both methods follow the diagonal down to the smallest p-values there are.
# That takes some care in the far tail: a new row may lie outside the range of a column, where the guard lifts its energy, and a
# stored row never does, for it is part of the range. So `p_values` asks of each stored row how far it lies outside the range
# of the *others*. Without that, one benign row in a hundred has the smallest p-value instead of one in 251.
#
# What a p-value does *not* say: that the row is an anomaly with probability $1 - p$, or that anomalies have small ones. And
# nothing is promised where new normal rows come from elsewhere than the training rows, another clinic or another year.
#
# ## Choosing rows with few false alarms
#
# Of $m$ new rows, which do we send to the pathologist? All with $p \le 0.05$ gives about $0.05\, m_0$ false alarms for $m_0$
# normal rows, however few anomalies there are. The rule of Benjamini and Hochberg (1995) bounds the *false discovery rate*
# instead, the expected share of false alarms among the rows chosen: sort the p-values, find the largest $k$ with
#
# $$p_{(k)} \le q\, k / m ,$$
#
# and choose the $k$ smallest. Then the rate is at most $q\, m_0 / m$, for independent p-values, and also for conformal ones
# with rows set aside, which depend on each other through those rows (Bates et al. 2023). SciPy has the rule.


# %%
def alarms(p, choose):
    """Mean share of false alarms among rows chosen, its error, and malignant rows found."""
    chosen = np.stack([choose(row) for row in p])
    false = chosen[:, :107].sum(axis=1) / np.maximum(1, chosen.sum(axis=1))
    return false.mean(), false.std() / np.sqrt(len(p)), chosen[:, 107:].mean()


def discoveries(q):
    return lambda p: stats.false_discovery_control(p, method="bh") <= q


rules = {"p <= 0.05": lambda p: p <= 0.05}
rules |= {f"q = {q}": discoveries(q) for q in (0.05, 0.1, 0.2)}
print("107 benign and 30 malignant rows, mean of 60 splits")
for name, p in pooled.items():
    for rule, choose in rules.items():
        share, error, power = alarms(p, choose)
        print(f"{name:13}{rule:10} false {share:.3f} +- {error:.3f}  found {power:.2f}")
print("bounds:", {q: round(q * 107 / 137, 3) for q in (0.05, 0.1, 0.2)})

# %% [markdown]
# With rows set aside the rates stay below their bounds. With one left out they are at the bounds to within their errors, and
# the rule finds more, since twice as many rows are stored. So: `p_values` to see how unusual a row is and to choose rows,
# rows set aside where a rate has been promised to somebody.
#
# One limit is arithmetic: no p-value is below $1/(n+1)$, here $1/126$ or $1/251$. With $m = 137$ rows and $q = 0.05$ the rule
# needs $k$ rows with $p \le 0.05\,k/137$; at $1/126$ that is 22 rows at once or none. That is why rows set aside find so few
# at small $q$: they are few. For rare anomalies in large tables take many.
#
# ## Why is this row unusual?
#
# `explain` shares the energy out to the columns: non-negative numbers of sum 1. A squared distance is a sum over columns,
# $d^2 = \sum_j (x_j - y_j)^2$, so column $j$ has the part $(x_j - y_j)^2 / d^2$. To see whether that can be trusted we
# plant the fault ourselves: in a benign row one measurement is moved by five standard deviations.

# %%
deviations, names = train.std(axis=0), table.feature_names
column = list(names).index("mean smoothness")
row = held_out[:1]
faulty = row.copy()
faulty[0, column] += 5 * deviations[column]
before, after = detector.explain(np.concatenate([row, faulty]))
p_before, p_after = detector.p_values(np.concatenate([row, faulty]))
print(f"p-value {p_before:.3f} -> {p_after:.3f}")
print(f"share of {names[column]}: {before[column]:.3f} -> {after[column]:.3f}")
print("named first:", names[after.argmax()])

# %%
fig, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
place = np.arange(len(names))
ax.bar(place - 0.2, before, 0.4, label="row as it was")
ax.bar(place + 0.2, after, 0.4, label="one measurement moved")
ax.set_xticks(place, names, rotation=90, fontsize=7)
ax.set_ylabel("share in the energy")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The measurement that we moved now has half of the energy; before, the shares were spread over many. Yet the p-value stayed
# above 0.05: five deviations in one of thirty columns is not much of a distance in all thirty. Every column in
# turn, with faults of several sizes:

# %%
for size in (1, 2, 3, 5, 8):
    rows = np.repeat(held_out[:20], len(names), axis=0)
    columns = np.tile(place, 20)
    rows[np.arange(len(rows)), columns] += size * deviations[columns]
    named = np.mean(detector.explain(rows).argmax(axis=1) == columns)
    found = np.mean(detector.p_values(rows) <= 0.05)
    print(f"moved by {size} deviations: p <= 0.05 {found:.2f}, named first {named:.2f}")

# %% [markdown]
# The column is named almost always from two deviations on, long before the row as a whole is unusual, which it is at five
# to eight. So `explain` answers "which column?" more reliably than the p-value answers "at all?". Note what a neighbour
# distance does not use: radius, perimeter and area of a nucleus determine each other, and a model of that relation
# would see far smaller faults in one of them. And a share is a statement about the *detector*, not about the cause.
#
# ## Keeping a detector
#
# One file without pickle: loading it executes nothing, so it may come from a stranger.

# %%
detector.save("detector.npz")
same = megjax.EnergyDetector.load("detector.npz")
assert np.array_equal(same.score_samples(test), scores)
try:
    megjax.RBM.load("detector.npz")
except ValueError as error:
    print("error:", error)

# %% [markdown]
# `partial_fit` adds rows as they come; the stored rows stay a uniform sample of all rows seen, at most `max_stored`.
#
# ## What goes wrong
#
# **Anomalies among the training rows.** Five neighbours are soon found among six anomalies of a kind. More neighbours need
# more anomalies to be fooled, at a loss for local structure. `contamination` does not help: it moves the threshold alone.

# %%
shares = (0.0, 0.02, 0.05, 0.1, 0.2)
variants = {
    "5 neighbours": energy,
    "50 neighbours": lambda seed: megjax.EnergyDetector(
        num_neighbors=50, random_state=seed
    ),
    "isolation forest": forest,
}
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, make in variants.items():
    curve = [auroc(make, benign, malignant, 0, polluted) for polluted in shares]
    ax.plot(shares, curve, "o-", label=name)
    print(f"{name:17}" + " ".join(f"{value:.3f}" for value in curve))
ax.set(xlabel="share of malignant rows in training", ylabel="AUROC")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Two per cent already cost the five neighbours, and with a fifth their AUROC falls below 0.8. Fifty neighbours lose
# almost nothing with clean training rows, and are far more robust; the forest is more robust still.
#
# **A column that never moved.** A sensor that read 3.0 in every training row and now reads something else deserves attention. The
# range of a constant column counts as 1 (or as its value, where that is less), and a row one range outside scores
# below all training rows. A tree cannot cut a constant column, so a forest sees nothing, whatever the new value.


# %%
def with_sensor(x, value):
    return np.column_stack([x, np.full(len(x), value)])


constant = megjax.EnergyDetector(random_state=0).fit(with_sensor(train, 3.0))
trees = forest(0).fit(with_sensor(train, 3.0))
for value in (3.0, 3.01, 3.5, 4.0, 100.0):
    x = with_sensor(held_out[:1], value)
    score, tree = constant.score_samples(x)[0], trees.score_samples(x)[0]
    p = constant.p_values(x)[0]
    print(f"sensor {value:6}: score {score:7.2f}, p {p:.3f}, forest {tree:.3f}")

# %% [markdown]
# At 3.5 hardly anything happens, and at 4.0 the row is out: does a change of 1 mean anything in the unit of that column? The
# detector cannot know. Leave constant columns out, or scale them by what you know.
#
# **Columns that say nothing.** All columns count alike. Add pure noise, and distances become distances of noise:

# %%
rng = np.random.default_rng(0)
for num in (0, 30, 100, 300):
    fit, rows = (
        np.column_stack([x, rng.normal(size=(len(x), num))]) for x in (train, test)
    )
    found = [
        metrics.roc_auc_score(is_anomaly, -make(0).fit(fit).score_samples(rows))
        for make in (energy, forest)
    ]
    print(f"{num:3} columns of noise: energy {found[0]:.3f}, forest {found[1]:.3f}")

# %% [markdown]
# Ten columns of noise for each that measures something cost the detector .06, and the forest twice that. Leave out what
# cannot tell anything, before the fit and for good reasons: without labels, no score says which columns those are.
#
# **Names.** A detector that was fitted to a data frame knows its columns. A plain array may have them in another order;
# scikit-learn warns, and a frame with other names is refused:

# %%
frame = datasets.load_breast_cancer(as_frame=True).data
named = megjax.EnergyDetector(random_state=0).fit(frame)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    named.score_samples(table.data[:3])
print("warning:", caught[0].message)
try:
    named.score_samples(frame.rename(columns={"mean area": "area"}))
except ValueError as error:
    print("error:", error)

# %% [markdown]
# **Mistakes** are told in one line with a remedy:

# %%
for mistake in (
    lambda: megjax.EnergyDetector(contamination=0.7).fit(train),
    lambda: megjax.EnergyDetector(latent_dim=8).fit(train),
    lambda: detector.score_samples(np.where(held_out > 20, np.nan, held_out)),
    lambda: detector.score_samples(held_out[:, :5]),
):
    try:
        mistake()
    except ValueError as error:
        print("error:", error)

# %% [markdown]
# ## Exercises
#
# 1. `conformal` takes any score. Give it those of the isolation forest. Are the p-values uniform? Which of the two finds
#    more malignant rows at $q = 0.1$, and how does that change with the number of rows set aside?
# 2. Train on the digits 0 to 8 and find the nines. Why is one digit in front of nine others so much harder than nine in
#    front of one? Try `num_neighbors`, and `decomposition.PCA(20)` in a pipeline before the detector.
# 3. Give the new rows a drift: add 0.3 standard deviations to every column of the held-out benign rows. What happens to
#    their p-values, and to the false discovery rate? Which assumption of the promise is broken?
# 4. `megjax.EnergyDetector(energy="contrast")` trains a network that tells training rows from the same rows with noise. Repeat
#    the experiment with 300 columns of noise. What can a network do that distances cannot, and what does it cost?
#
# ## References
#
# - F. Angiulli, C. Pizzuti, *Fast outlier detection in high dimensional spaces*, PKDD 2002: distances to neighbours.
# - M. Breunig et al., *LOF: identifying density-based local outliers*, SIGMOD 2000; F. T. Liu et al., *Isolation forest*, ICDM 2008.
# - S. Han et al., *ADBench: anomaly detection benchmark*, NeurIPS 2022.
# - V. Vovk, A. Gammerman, G. Shafer, *Algorithmic learning in a random world*, 2005; on leaving one out: R. F. Barber et al.,
#   *Predictive inference with the jackknife+*, Annals of Statistics 2021.
# - Y. Benjamini, Y. Hochberg, *Controlling the false discovery rate*, JRSS B 1995; S. Bates et al., *Testing for outliers with
#   conformal p-values*, Annals of Statistics 2023.
