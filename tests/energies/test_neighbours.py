import numpy as np
import pytest
from scipy import stats
from sklearn import neighbors, preprocessing

from megjax.energies import neighbours

WEIRD = (
    lambda rng, n: np.full(n, 14.62),
    lambda rng, n: np.full(n, 1e39),
    lambda rng, n: np.full(n, 1e-200),
    lambda rng, n: np.zeros(n),
    lambda rng, n: 1e200 * rng.normal(size=n),
    lambda rng, n: 1e-200 * rng.normal(size=n),
    lambda rng, n: 1e39 * rng.normal(size=n),
    lambda rng, n: 1e307 * rng.uniform(-5, 5, size=n),
    lambda rng, n: rng.standard_cauchy(size=n) ** 3,
    lambda rng, n: rng.integers(2, size=n).astype(float),
    lambda rng, n: (np.arange(n) == 0).astype(float),
    lambda rng, n: 1e9 + 1e-3 * rng.normal(size=n),
    lambda rng, n: rng.normal(size=n),
)


def weird_table(seed):
    """A random table of 2 to 60 rows and 1 to 6 columns of many kinds."""
    rng = np.random.default_rng(seed)
    num, kinds = rng.integers(2, 61), rng.integers(len(WEIRD), size=rng.integers(1, 7))
    rows = np.stack([WEIRD[kind](rng, num) for kind in kinds], axis=1)
    if rng.random() < 0.1:
        rows[:] = rows[0]
    elif rng.random() < 0.2:
        rows = np.repeat(rows[: num // 3 + 1], 3, axis=0)
    return rows, rng


def outside(rows, rng):
    """Training rows of which one value lies one range, or a unit, outside."""
    low, high = rows.min(0), rows.max(0)
    width = np.where(high > low, high - low, np.maximum(1, np.spacing(np.abs(high))))
    for j in range(rows.shape[1]):
        for value in (low[j] - width[j], high[j] + width[j]):
            row = rows[rng.integers(len(rows))].copy()
            row[j] = value
            yield row


def inverted(seeds):
    """Of the random tables, those with a row outside that is no worse than all within."""
    found = []
    for seed in seeds:
        rows, rng = weird_table(seed)
        state = neighbours.fit(rows)
        within = neighbours.energy(state, rows)
        beyond = neighbours.energy(state, np.stack(list(outside(rows, rng))))
        assert np.isfinite(within).all() and np.isfinite(beyond).all()
        if not beyond.min() > max(
            within.max(), neighbours.energy(state, rows, new=True).max()
        ):
            found.append(seed)
    return found


def by_maps(train, x=None):
    """The energy without the guard, by scikit-learn's scalers and float64 neighbours.

    Without x, of every training row, in a search that has never seen it.
    """
    standard = preprocessing.StandardScaler().fit(train)
    quartiles = np.subtract(*np.percentile(train, (75, 25), axis=0)) / 1.349
    spread = np.minimum(np.where(quartiles > 0, quartiles, np.inf), train.std(0))

    def robust(x):
        return (x - np.median(train, axis=0)) / spread

    bent = preprocessing.StandardScaler().fit(np.arcsinh(robust(train)))
    total = 0
    for move in (
        standard.transform,
        robust,
        lambda x: bent.transform(np.arcsinh(robust(x))),
    ):
        rows = move(train)
        middle = np.median(radii(rows)[radii(rows) > 0])
        if x is not None:
            total += by_search(rows, move(x), middle)
        else:
            others = [np.delete(rows, i, axis=0) for i in range(len(rows))]
            found = [by_search(o, r[None], middle) for o, r in zip(others, rows)]
            total += np.concatenate(found)
    return total


def radii(rows):
    tree = neighbors.NearestNeighbors(algorithm="brute").fit(rows)
    return tree.kneighbors(n_neighbors=10)[0].mean(1)


def by_search(rows, x, middle):
    radius = np.clip(radii(rows), middle / 10, 10 * middle)
    tree = neighbors.NearestNeighbors(algorithm="brute").fit(rows)
    distances, index = tree.kneighbors(x, n_neighbors=5)
    logs = np.log(distances.mean(1) + 0.01 * middle)
    return logs - np.log(radius[index].mean(1)) / 2


def test_an_energy_by_hand():
    state = neighbours.fit(np.array([[0.0], [1], [3]]))
    # Of three rows, one neighbour; radii 1, 1 and 2, the middle one is 1.
    deviation, quartiles = (42 / 27) ** 0.5, 1.5 / 1.349
    bent = np.arcsinh([-1 / quartiles, 0, 2 / quartiles])
    lower, upper = np.diff(bent)
    rest = -(np.log(deviation) + np.log(quartiles) + np.log(bent.std())) / 2
    third = np.log(np.arcsinh(0.5 / quartiles) + 0.01 * lower) - np.log(lower) / 2
    np.testing.assert_allclose(
        neighbours.energy(state, np.array([[1.5]])),
        2 * np.log(0.51) + third + rest,
        rtol=1e-6,
    )
    # The first row's nearest is the second, whose nearest without it is the third.
    third = np.log(1.01 * lower) - np.log(upper) / 2
    np.testing.assert_allclose(
        neighbours.energy(state, np.array([[0.0]])),
        2 * np.log(1.01) - np.log(2) + third + rest,
        rtol=1e-6,
    )


@pytest.mark.parametrize("num_features", [1, 3, 20])
def test_energies_are_those_of_a_search_in_double_precision(num_features):
    rng = np.random.default_rng(num_features)
    table = rng.standard_t(3, size=(400, num_features)) * 10 ** rng.uniform(
        -3, 3, num_features
    )
    train, x = table[:100], table[100:]
    x = np.clip(x, train.min(0), train.max(0))
    state = neighbours.fit(train)
    found = neighbours.energy(state, x, new=True)
    np.testing.assert_allclose(found, by_maps(train, x), atol=1e-4)
    # Stored rows are scored without themselves.
    expected = by_maps(train)
    np.testing.assert_allclose(neighbours.energy(state, train), expected, atol=1e-4)
    assert (neighbours.energy(state, train, new=True) < expected).mean() > 0.95


def test_a_row_one_range_outside_is_worse_than_all_within():
    assert inverted(range(60)) == []


def test_without_the_guard_some_are_not(monkeypatch):
    monkeypatch.setattr(neighbours, "_guard", lambda state: 0.0)
    assert inverted(range(15))


def test_rows_far_outside_keep_their_order():
    state = neighbours.fit(np.random.default_rng(0).normal(size=(50, 2)))
    x = np.array([[10.0**i, 0] for i in range(1, 300, 20)])
    assert (np.diff(neighbours.energy(state, x)) > 0).all()


def test_units_and_orders_change_nothing():
    rng = np.random.default_rng(0)
    train, x = rng.normal(size=(80, 3)), rng.normal(size=(30, 3))
    before = neighbours.energy(neighbours.fit(train), x)
    columns, rows = [2, 0, 1], rng.permutation(80)
    scale, shift = np.array([1e-150, 7.0, 1e150]), np.array([0, 1e4, 3e150])
    state = neighbours.fit(train[rows][:, columns] * scale + shift)
    after = neighbours.energy(state, x[:, columns] * scale + shift)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_row_does_not_depend_on_its_company():
    rng = np.random.default_rng(0)
    state, x = neighbours.fit(rng.normal(size=(60, 2))), rng.normal(size=(700, 2))
    whole = neighbours.energy(state, x)
    for some in (slice(699, None), slice(500, 530), slice(None, None, -1)):
        np.testing.assert_array_equal(neighbours.energy(state, x[some]), whole[some])


def test_tables_of_like_shapes_share_a_program():
    neighbours.fit(np.random.default_rng(0).normal(size=(40, 3)))
    before = neighbours._nearest._cache_size()
    for num, num_features in ((13, 8), (256, 1), (90, 5)):
        neighbours.fit(np.random.default_rng(0).normal(size=(num, num_features)))
    assert neighbours._nearest._cache_size() == before


def test_few_and_equal_rows():
    for rows in (np.array([[5.0, 14.62]]), np.full((7, 2), 14.62)):
        state = neighbours.fit(rows)
        x = np.concatenate([rows[:1], rows[:1] + [0.2, 0], rows[:1] + [0, -3]])
        assert (np.diff(neighbours.energy(state, x)) > 0).all()


def test_chunks_are_smaller_where_there_are_many_candidates(monkeypatch):
    """And what a row gets does not depend on them."""
    assert neighbours._chunk(28 * 8) == 512
    assert neighbours._chunk(1010 * 256) == 256
    assert neighbours._chunk(2**27) == 1
    rows = np.random.default_rng(0).normal(size=(300, 3))
    state = neighbours.fit(rows, num_neighbors=0.2)
    assert state["num_neighbors"] == 60
    whole = neighbours.energy(state, rows[:50])
    monkeypatch.setattr(neighbours, "_LARGEST_CHUNK", 16 * 130 * 8)
    np.testing.assert_array_equal(neighbours.energy(state, rows[:50]), whole)


def test_many_neighbours_of_few_rows_are_all():
    rows = np.random.default_rng(0).normal(size=(300, 2))
    state = neighbours.fit(rows, num_neighbors=1000)
    assert state["num_neighbors"] == 298
    assert np.isfinite(neighbours.energy(state, rows)).all()


def test_ranges_may_be_those_of_more_rows():
    rows = np.array([[0.0, 0], [1, 1], [2, 0], [1, 0]])
    x = np.array([[4.0, 0]])
    narrow, wide = (
        neighbours.fit(rows),
        neighbours.fit(rows, rows.min(0), rows.max(0) + 9),
    )
    assert neighbours.energy(narrow, x) > neighbours.energy(wide, x) + 1


def test_shares_by_hand():
    # Neighbours of (0, 4) at distance 4 in one column and none in the other.
    rows = np.repeat([[0.0, 0], [1, 0], [0, 1], [1, 1], [0, 3], [0, 9]], 6, axis=0)
    state = neighbours.fit(rows)
    shares = neighbours.shares(state, np.array([[0.0, 4], [0.2, 3], [0.2, 40], [0, 0]]))
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares[0], [0, 1], atol=1e-6)
    np.testing.assert_allclose(shares[1], [1, 0], atol=1e-6)
    assert shares[2, 1] > 0.9
    np.testing.assert_allclose(shares[3], 0.5)


def test_a_shifted_column_is_named():
    rng, named = np.random.default_rng(0), 0
    train = rng.normal(size=(500, 10)) @ (np.eye(10) + 0.3 * rng.normal(size=(10, 10)))
    state = neighbours.fit(train[:300])
    x, columns = train[300:], rng.integers(10, size=200)
    x[np.arange(200), columns] += 6 * train.std(0)[columns] * rng.choice([-1, 1], 200)
    named = neighbours.shares(state, x).argmax(1) == columns
    assert named.mean() >= 0.9


def test_the_leave_one_out_energies_are_those_of_new_rows():
    rng = np.random.default_rng(0)
    x = rng.standard_t(4, size=(2000, 4))
    state = neighbours.fit(x[:1000])
    new = neighbours.energy(state, x[1000:], new=True)
    own = neighbours.energy(state, x[:1000])
    assert stats.ks_2samp(own, new).pvalue > 0.05
    # Mutant: rows that are their own neighbours.
    mutant = neighbours.energy(state, x[:1000], new=True)
    assert stats.ks_2samp(mutant, new).pvalue < 1e-3
