"""Frechet and kernel distances, Inception score, and summaries kept in files."""

import itertools

import numpy as np
import pytest
from scipy import linalg, special

from megjax.metrics import frechet

RNG = np.random.RandomState(0)


def features(num, dim, seed=0, rank=None):
    """Correlated features [num, dim] that span `rank` dimensions around their mean."""
    rng = np.random.RandomState(seed)
    mixing = rng.normal(size=(rank or dim, dim)) * rng.uniform(0.01, 2, dim)
    return rng.normal(size=(num, rank or dim)) @ mixing + rng.normal(size=dim)


def normal(x):
    return x.mean(axis=0), np.cov(x, rowvar=False)


def test_distances_by_hand():
    # Of N(0, 1) and N(3, 4): 3^2 + (1 - 2)^2.
    one = frechet.frechet_distance([0.0], [[1.0]], [3.0], [[4.0]])
    assert one == pytest.approx(10, rel=1e-14)
    # Commuting covariances: the squared distance of the standard deviations.
    first, second = np.diag([1.0, 9.0, 0.0]), np.diag([4.0, 0.0, 0.0])
    found = frechet.frechet_distance(np.zeros(3), first, np.ones(3), second)
    assert found == pytest.approx(3 + 1 + 9, rel=1e-14)


@pytest.mark.parametrize("dim", [2, 30, 100])
def test_distance_equals_that_by_scipys_root(dim):
    (m, c), (n, d) = normal(features(500, dim)), normal(features(400, dim, seed=1))
    overlap = np.trace(linalg.sqrtm(c @ d)).real
    expected = np.sum((m - n) ** 2) + np.trace(c) + np.trace(d) - 2 * overlap
    found = frechet.frechet_distance(m, c, n, d)
    assert found == pytest.approx(expected, rel=1e-8)
    assert frechet.frechet_distance(n, d, m, c) == pytest.approx(found, rel=1e-10)


@pytest.mark.parametrize(
    ("num", "other_num", "rank"), [(8, 200, None), (8, 5, None), (300, 300, 3)]
)
def test_singular_covariances_are_exact(num, other_num, rank):
    """The trace is the nuclear norm of the centred data's product: no root at all."""
    x, y = features(num, 40, rank=rank), features(other_num, 40, seed=1)
    (m, c), (n, d) = normal(x), normal(y)
    product = (x - m) @ (y - n).T / np.sqrt((num - 1) * (other_num - 1))
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    expected = np.sum((m - n) ** 2) + np.trace(c) + np.trace(d) - 2 * overlap
    found = frechet.frechet_distance(m, c, n, d)
    assert found == pytest.approx(expected, rel=1e-11)
    # SciPy's root of a singular matrix has half of the digits.
    overlap = np.trace(linalg.sqrtm(c @ d)).real
    expected = np.sum((m - n) ** 2) + np.trace(c) + np.trace(d) - 2 * overlap
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_distance_to_itself_is_zero_and_rotations_change_nothing():
    (m, c), (n, d) = normal(features(90, 20)), normal(features(80, 20, seed=1))
    assert abs(frechet.frechet_distance(m, c, m, c)) < 1e-12 * np.trace(c)
    turn = np.linalg.qr(RNG.normal(size=(20, 20)))[0]
    turned = frechet.frechet_distance(
        turn @ m, turn @ c @ turn.T, turn @ n, turn @ d @ turn.T
    )
    assert turned == pytest.approx(frechet.frechet_distance(m, c, n, d), rel=1e-10)


def test_moments_of_other_shapes_are_refused():
    one, two = (np.zeros(1), np.eye(1)), (np.zeros(2), np.eye(2))
    for args in ((*one, *two), (one[0], two[1], *one)):
        with pytest.raises(ValueError, match="moments of shapes"):
            frechet.frechet_distance(*args)


def test_merged_moments_are_those_of_the_union():
    # Far from zero, where sums of squares would lose the variance.
    x = features(100, 5) + 1e6
    total = frechet.moments(x[:1])
    for first, last in ((1, 30), (30, 31), (31, 100)):
        total = frechet.merged(total, frechet.moments(x[first:last]))
    assert total.num == 100
    np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(total.scatter / 99, np.cov(x, rowvar=False), rtol=1e-8)


def test_mmd_by_definition():
    x, y = features(6, 3), features(6, 3, seed=1)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = sum(k(*pair) for z in (x, y) for pair in itertools.permutations(z, 2)) / (
        6 * 5
    )
    across = sum(k(a, b) for a in x for b in y) / 36
    assert frechet.squared_mmd(x, y) == pytest.approx(within - 2 * across, rel=1e-12)


def test_mmd_is_unbiased():
    """Of many pairs of samples of one distribution the mean is 0: negative values too."""
    rng = np.random.RandomState(0)
    found = [
        frechet.squared_mmd(*rng.normal(size=(2, 10, 4)).astype(np.float32))
        for _ in range(2000)
    ]
    assert min(found) < 0
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(2000)


def test_kernel_distance_draws_subsets():
    x, y = features(50, 4), features(70, 4, seed=1)
    whole = frechet.squared_mmd(x, y[np.random.RandomState(1).permutation(70)[:50]])
    mean, std = frechet.kernel_distance(x, y, subset_size=50, num_subsets=20)
    assert std > 0 and abs(mean - whole) < 10 * std
    assert (mean, std) == frechet.kernel_distance(x, y, num_subsets=20)
    assert mean != frechet.kernel_distance(x, y, num_subsets=20, seed=1)[0]
    rng = np.random.RandomState(2020)
    first = x[rng.choice(50, 9, replace=False)], y[rng.choice(70, 9, replace=False)]
    found = frechet.kernel_distance(x, y, subset_size=9, num_subsets=1)
    assert found == (frechet.squared_mmd(*first), 0.0)
    with pytest.raises(ValueError, match="needs 2 examples"):
        frechet.kernel_distance(x[:1], y)


def test_inception_score_by_hand():
    sure = 1e4 * np.eye(4)[np.arange(80) % 4]
    assert frechet.inception_score(sure) == pytest.approx((4, 0), abs=1e-9)
    assert frechet.inception_score(np.ones((80, 4))) == pytest.approx((1, 0), abs=1e-12)
    # Two splits of one sure class, and of two: scores 1 and 2.
    halves = 1e4 * np.eye(2)[[0, 0, 0, 0, 0, 1, 0, 1]]
    assert frechet.inception_score(halves, 2) == pytest.approx((1.5, 0.5), abs=1e-9)
    with pytest.raises(ValueError, match="9 examples do not make 10 splits"):
        frechet.inception_score(sure[:9])


def test_inception_score_is_the_information_of_the_prediction():
    """Its log is H(y) - H(y|x), and a constant added to all logits changes nothing."""
    logits = np.float32(RNG.normal(size=(103, 7)) * 3)
    p = special.softmax(np.float64(logits), axis=1)
    information = special.entr(p.mean(axis=0)).sum() - special.entr(p).sum(1).mean()
    found = frechet.inception_score(logits, num_splits=1)[0]
    assert np.log(found) == pytest.approx(information, rel=1e-10)
    shifted = frechet.inception_score(np.float64(logits) + 900, num_splits=1)[0]
    assert shifted == pytest.approx(found, rel=1e-10)
    # Splits of 103 begin where torch-fidelity's do.
    parts = [logits[i * 103 // 10 : (i + 1) * 103 // 10] for i in range(10)]
    scores = [frechet.inception_score(part, num_splits=1)[0] for part in parts]
    assert frechet.inception_score(logits)[0] == pytest.approx(np.mean(scores))


def batches(num=64, size=16):
    x, logits = np.float32(features(num, 5)), np.float32(RNG.normal(size=(num, 3)))
    return [(x[i : i + size], logits[i : i + size]) for i in range(0, num, size)]


def test_summaries_do_not_depend_on_batches(monkeypatch):
    made = batches()
    x = np.concatenate([b[0] for b in made])
    monkeypatch.setattr(frechet, "POOL", 40)
    found = frechet.summary(made)
    assert found.num == 64
    np.testing.assert_allclose(found.mean, np.float64(x).mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-6)
    np.testing.assert_array_equal(found.features, x[:40])
    score = frechet.inception_score(np.concatenate([b[1] for b in made]))
    np.testing.assert_array_equal(found.score, score)


def test_summaries_of_nothing_and_of_nan_are_refused():
    with pytest.raises(ValueError, match="no images"):
        frechet.summary([])
    made = batches()
    made[1][0][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        frechet.summary(made)


def test_kept_summaries_are_held_to_their_fingerprint(tmp_path):
    path, made = tmp_path / "new/a.npz", frechet.summary(batches())
    assert frechet.cached(path, "abc", lambda: made) is made
    kept = frechet.cached(path, "abc", pytest.fail)
    assert kept.num == made.num
    for one, other in zip(kept, made):
        np.testing.assert_array_equal(one, other)
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(
        ValueError, match=r"a.npz was made from other data .*abc, not x"
    ):
        frechet.cached(path, "xyz", pytest.fail)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="a.npz is damaged"):
        frechet.cached(path, "abc", pytest.fail)


def test_fingerprints_see_every_bit():
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mark = frechet.fingerprint("a", [x])
    assert mark == frechet.fingerprint("a", [x[:1], x[1:]])
    y = x.copy()
    y[2, 3] ^= 1
    assert (
        len({mark, frechet.fingerprint("b", [x]), frechet.fingerprint("a", [y])}) == 3
    )
    transposed = frechet.fingerprint("a", [x.T])
    assert transposed == frechet.fingerprint("a", [x.T.copy()]) != mark
