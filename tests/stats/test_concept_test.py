"""The test of a labelling against made-up embeddings whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from scipy.stats import gamma

from st_concepts.stats import NullModel, concept_test, moran_null, permutation_null, spatial_graph
from st_concepts.stats import _copies as copies_module
from st_concepts.stats._concept_test import P_FLOOR, tail_p
from st_concepts.stats._copies import MoranCopies
from st_concepts.stats._joint_draw import JointRotation
from st_concepts.stats._nearest import nearest_map

SIDE = 15
XY = np.stack(np.meshgrid(np.arange(float(SIDE)), np.arange(float(SIDE))), axis=-1).reshape(-1, 2)
N = len(XY)
ROOT = np.linalg.cholesky(np.exp(-0.5 * (cdist(XY, XY) / 2.5) ** 2) + 1e-6 * np.eye(N))
MORAN = moran_null(XY)


def fields(k: int, rng: np.random.Generator) -> np.ndarray:
    return ROOT @ rng.normal(size=(N, k))


def layers(value: np.ndarray, k: int = 3) -> np.ndarray:
    """One-hot labels of the quantiles."""
    return np.eye(k)[np.searchsorted(np.quantile(value, np.linspace(0, 1, k + 1)[1:-1]), value)]


def latent_of(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.c_[value + 0.7 * rng.normal(size=N), fields(4, rng)]


def some(labels: np.ndarray, spots: np.ndarray) -> np.ndarray:
    out = np.full(labels.shape, np.nan)
    out[spots] = labels[spots]
    return out


RNG = np.random.default_rng(0)
VALUE = fields(1, RNG)[:, 0]
LABELS, LATENT = layers(VALUE), latent_of(VALUE, RNG)


def test_the_statistic_is_hotellings():
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(12, 2)), (np.arange(12) < 5).astype(float)
    known = np.arange(12) != 7
    z_known, y_known = z[known], y[known]
    difference = z_known[y_known == 1].mean(0) - z_known[y_known == 0].mean(0)
    n_in, n_out = y_known.sum(), (1 - y_known).sum()
    weight = max(5 / (5 + n_in * n_out / (n_in + n_out)), 0.1)
    cov = np.cov(z.T, bias=True)
    shrunk = (1 - weight) * cov + weight * np.trace(cov) / 2 * np.eye(2)
    t2 = n_in * n_out / (n_in + n_out) * difference @ np.linalg.inv(shrunk) @ difference
    for null in (permutation_null(12), moran_null(rng.random((12, 2)))):
        found = concept_test(z, np.where(known, y, np.nan), null, n_null=19)
        np.testing.assert_allclose(found.statistic, t2, rtol=1e-6)
        assert found.n_labelled.tolist() == [11]


@pytest.mark.parametrize("scheme", ["bands", "singleton"])
def test_a_rotation_keeps_the_products_within_each_band(scheme):
    null = moran_null(XY, np.repeat([0, 1, 2], 75), scheme=scheme)
    coef = null.project(np.c_[LABELS, VALUE])
    drawn = JointRotation(coef, null.blocks).draw(20, np.random.default_rng(0))
    for b in np.unique(null.blocks):
        own = null.blocks == b
        want = coef[own].T @ coef[own]
        got = drawn[:, :, own] @ drawn[:, :, own].transpose(0, 2, 1)
        np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=1e-9)


def test_a_rotation_points_anywhere():
    coef = np.random.default_rng(3).normal(size=(40, 2))
    drawn = JointRotation(coef, np.repeat([0, 1], [6, 34])).draw(4000, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.1)
    for part in (slice(0, 6), slice(6, 40)):
        for j in (0, 1):
            second = np.einsum("na,nb->ab", drawn[:, j, part], drawn[:, j, part]) / 4000
            size = (coef[part, j] ** 2).sum() / len(coef[part])
            np.testing.assert_allclose(second, size * np.eye(len(second)), atol=0.15 * size)


def test_the_copies_are_surrogates_read_at_the_labelled_spots():
    rng = np.random.default_rng(0)
    known = rng.random(N) < 0.3
    section = (XY[:, 0] > 6).astype(int)
    latent = np.where(known[:, None], rng.normal(size=(N, 2)), 0.0)
    for s in (0, 1):
        latent[known & (section == s)] -= latent[known & (section == s)].mean(0)
    null = moran_null(XY, section)
    copies = MoranCopies(null, np.nan_to_num(LABELS), known, latent)
    state = np.random.default_rng(5)
    drawn = JointRotation(null.project(nearest_map(LABELS, known, section, XY, None)), null.blocks).draw(4, state)
    cross, variance = next(iter(copies.draw(4, np.random.default_rng(5))))
    values = np.zeros((4, 3, N))
    first = 0
    for part in null.parts:
        span = slice(first, first + len(part.values))
        values[:, :, part.units] = drawn[:, :, span] @ part.vectors.T
        first = span.stop
    np.testing.assert_allclose(cross, values @ latent, atol=1e-9)
    want = sum(
        ((v - v.mean(-1, keepdims=True)) ** 2).sum(-1) for v in (values[:, :, known & (section == s)] for s in (0, 1))
    )
    np.testing.assert_allclose(variance, want, rtol=1e-5)


@pytest.mark.parametrize("labelled", [1.0, 0.3])
def test_labels_of_their_own_pattern_hold_the_level(labelled):
    rng = np.random.default_rng(2)
    own, joint = [], []
    for _ in range(60):
        spots = np.flatnonzero(rng.random(N) < labelled)
        tested = concept_test(fields(5, rng), some(layers(fields(1, rng)[:, 0]), spots), MORAN, n_null=99, seed=rng)
        own.append(tested.pval)
        joint.append(tested.joint_pval)
    assert 0.01 < (np.array(own) < 0.05).mean() < 0.11
    assert (np.array(joint) < 0.05).mean() < 0.14
    assert 0.3 < np.mean(own) < 0.65


def test_shuffled_labels_find_patterns_everywhere_and_the_map_does_not():
    rng = np.random.default_rng(2)
    pairs = [(fields(5, rng), layers(fields(1, rng)[:, 0])) for _ in range(20)]
    shuffled = [concept_test(z, y, permutation_null(N), n_null=99).pval < 0.05 for z, y in pairs]
    assert np.mean(shuffled) > 0.4


@pytest.mark.parametrize("labelled", [N, 60, 24])
def test_a_layer_that_is_there_is_found(labelled):
    spots = np.random.default_rng(1).permutation(N)[:labelled]
    tested = concept_test(LATENT, some(LABELS, spots), MORAN)
    assert tested.joint_pval < (0.01 if labelled > 24 else 0.06)
    assert tested.pval[0] < 0.01
    assert labelled < N or tested.pval[2] < 0.005
    assert tested.statistic[0] > tested.null_mean[0] + 2 * tested.null_sd[0]


def test_sections_are_compared_within():
    section = (XY[:, 0] > 6).astype(int)
    null = moran_null(XY, section)
    want = concept_test(LATENT, LABELS, null, n_null=99)
    got = concept_test(LATENT + 50 * section[:, None], LABELS, null, n_null=99)
    np.testing.assert_allclose(got.statistic, want.statistic, rtol=1e-9)
    np.testing.assert_allclose(got.pval, want.pval, rtol=1e-6)
    shuffled = [
        concept_test(z, LABELS, permutation_null(N, section), n_null=99).statistic
        for z in (LATENT, LATENT + 50 * section[:, None])
    ]
    np.testing.assert_allclose(*shuffled, rtol=1e-9)


def test_order_of_labels_and_place_of_the_tissue_do_not_matter():
    want = concept_test(LATENT, LABELS, MORAN)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    spots = np.random.default_rng(4).permutation(N)[:40]
    few = concept_test(LATENT, some(LABELS, spots), MORAN)
    moved = moran_null(XY @ turn * 37.0 + [5.0, -900.0])
    np.testing.assert_allclose(concept_test(LATENT, some(LABELS, spots), moved).statistic, few.statistic, rtol=1e-9)
    np.testing.assert_allclose(concept_test(LATENT, LABELS, moved).pval, want.pval, rtol=0.3, atol=5e-3)
    order = [2, 0, 1]
    other = concept_test(LATENT, LABELS[:, order], MORAN)
    np.testing.assert_allclose(other.statistic, want.statistic[order], rtol=1e-9)
    np.testing.assert_allclose(other.null_mean, want.null_mean[order], rtol=0.1)
    np.testing.assert_allclose(other.joint_pval, want.joint_pval, atol=0.02)


def test_tiles_say_what_spots_say():
    rng = np.random.default_rng(7)
    xy = rng.uniform(size=(1500, 2))
    true, false = np.sin(7 * xy[:, 0] + 2 * xy[:, 1]), np.sin(6 * xy[:, 1])
    z = np.c_[true + 0.5 * rng.normal(size=1500), rng.normal(size=(1500, 3))]
    y = np.c_[true > 0.5, false > 0.5].astype(float)
    whole, tiled = (concept_test(z, y, moran_null(xy, exact_below=e, n_tiles=300)) for e in (2000, 400))
    np.testing.assert_allclose(tiled.statistic / whole.statistic, 1.0, atol=0.35)
    assert max(whole.pval[0], tiled.pval[0]) < 0.01
    assert abs(whole.pval[1] - tiled.pval[1]) < 0.3
    half = some(y, np.flatnonzero(rng.random(1500) < 0.4))
    assert concept_test(z, half, moran_null(xy, exact_below=400, n_tiles=300)).pval[0] < 0.03


def test_concepts_that_are_known_for_different_spots():
    rng = np.random.default_rng(3)
    labels = LABELS.copy()
    labels[rng.random(N) < 0.5, 1] = np.nan
    tested = concept_test(LATENT, labels, MORAN)
    assert tested.joint_pval is None
    alone = concept_test(LATENT, labels[:, 1], MORAN)
    np.testing.assert_allclose(tested.statistic[1], alone.statistic[0], rtol=1e-9)
    assert alone.joint_pval is not None
    assert tested.n_labelled.tolist() == [N, int((~np.isnan(labels[:, 1])).sum()), N]


class Foreign(NullModel):
    name = "foreign"

    def __init__(self, inner):
        self.inner, self.n_obs, self.sections = inner, inner.n_obs, inner.sections
        self.blocks, self.dims = inner.blocks, inner.dims

    def project(self, values):
        return self.inner.project(values)

    def draw(self, coef, n, rng):
        return self.inner.draw(coef, n, rng)

    def subset(self, keep):
        return Foreign(self.inner.subset(keep))


def test_a_null_model_of_ones_own():
    want = concept_test(LATENT, LABELS, MORAN)
    got = concept_test(LATENT, LABELS, Foreign(MORAN))
    assert got.joint_pval is None
    np.testing.assert_allclose(got.statistic, want.statistic, rtol=1e-9)
    np.testing.assert_allclose(got.null_mean, want.null_mean, rtol=0.1)
    labels = some(LABELS, np.arange(0, N, 2))
    np.testing.assert_allclose(
        concept_test(LATENT, labels, Foreign(MORAN)).statistic, concept_test(LATENT, labels, MORAN).statistic, rtol=1e-9
    )


def test_copies_come_in_parts(monkeypatch):
    want = concept_test(LATENT, LABELS, MORAN, n_null=400)
    monkeypatch.setattr(copies_module, "_HELD", 3 * N * 7)
    got = concept_test(LATENT, LABELS, MORAN, n_null=400)
    np.testing.assert_allclose(got.null_mean, want.null_mean, rtol=0.15)
    assert got.n_null == 400


def test_the_nearest_label_by_distance_and_by_steps():
    known = np.zeros(N, dtype=bool)
    known[[0, SIDE - 1, N - 1]] = True
    labels = np.eye(3)[np.r_[np.zeros(N - 2, int), 1, 2]] * 0.0
    labels[[0, SIDE - 1, N - 1]] = np.eye(3)
    codes = np.zeros(N, dtype=np.intp)
    by_place = nearest_map(labels, known, codes, XY, None)
    distance = cdist(XY, XY[[0, SIDE - 1, N - 1]])
    near = np.isclose(distance, distance.min(1, keepdims=True))
    np.testing.assert_allclose(by_place, near / near.sum(1, keepdims=True))
    by_step = nearest_map(labels, known, codes, None, spatial_graph(XY))
    steps = np.abs(XY[:, None] - XY[[0, SIDE - 1, N - 1]]).sum(-1)
    assert (steps[np.arange(N), by_step.argmax(1)] == steps.min(1)).all()
    cut = sp.block_diag([spatial_graph(XY[: N - 3]), sp.csr_array((3, 3))], format="csr")
    assert nearest_map(labels, known, codes, None, cut)[N - 2].tolist() == pytest.approx([1 / 3] * 3)
    assert (nearest_map(labels, known, (np.arange(N) == 7).astype(np.intp), XY, None)[7] == 0).all()


def test_the_fitted_tail_goes_on_where_counting_ends():
    rng = np.random.default_rng(0)
    draws = gamma.rvs(4, size=(200, 999), random_state=rng)
    assert tail_p(gamma.isf(0.3, 4), draws[0]) == pytest.approx((1 + (draws[0] >= gamma.isf(0.3, 4)).sum()) / 1000)
    for p in (1e-3, 3e-4):
        found = np.array([tail_p(gamma.isf(p, 4), d) for d in draws])
        assert (np.abs(np.log(found / p)) < np.log(3)).mean() > 0.9
    assert tail_p(1e3, draws[0]) == P_FLOOR


def test_spots_and_concepts_that_say_nothing():
    latent, labels = LATENT.copy(), np.c_[LABELS, np.ones(N), np.full(N, np.nan)]
    latent[::10] = np.nan
    tested = concept_test(latent, labels, MORAN, n_null=99)
    assert tested.pval[3:].tolist() == [1, 1]
    assert tested.statistic[3:].tolist() == [0, 0]
    assert np.isfinite(tested.statistic).all()
    assert tested.n_labelled.tolist() == [N - len(range(0, N, 10))] * 4 + [0]
    assert (concept_test(np.ones((N, 2)), LABELS, MORAN, n_null=99).pval == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding": LATENT[:5]}, "embedding must have shape"),
        ({"labels": LABELS[:5]}, "225 rows"),
        ({"labels": LABELS * 2}, "1 inside"),
        ({"embedding": LATENT * np.inf}, "infinite"),
        ({"embedding": LATENT * np.nan}, "Every spot"),
        ({"n_null": 5}, "n_null"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_errors_name_the_fault(arguments, message):
    with pytest.raises(ValueError, match=message):
        concept_test(**({"embedding": LATENT, "labels": LABELS, "null": MORAN} | arguments))


@pytest.mark.real_data
def test_layers_of_the_bulb_are_there_and_not_in_noise(mob11):
    x = mob11.X.toarray() if sp.issparse(mob11.X) else np.asarray(mob11.X)
    x = np.log1p(x / x.sum(1, keepdims=True) * np.median(x.sum(1)))[:, (x > 0).sum(0) >= 20]
    left, size, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    names = mob11.obs["layer"].astype(object).to_numpy()
    labels = np.stack([names == name for name in sorted({n for n in names if isinstance(n, str)})], axis=1).astype(
        float
    )
    labels[[not isinstance(n, str) for n in names]] = np.nan
    null = moran_null(mob11.obsm["spatial"])
    tested = concept_test(left[:, :20] * size[:20], labels, null)
    assert tested.joint_pval < 1e-4
    assert tested.pval.max() < 0.01
    noise = np.random.default_rng(0).normal(size=(len(x), 20))
    assert concept_test(noise, labels, null).pval.min() > 0.005
