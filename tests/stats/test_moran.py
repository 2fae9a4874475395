from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from st_concepts.stats import association_test, moran_i, moran_null, moran_surrogates, permutation_null, spatial_graph

RNG = np.random.default_rng(0)
XY = RNG.uniform(0, 10, (120, 2))
SMOOTH = np.sin(XY[:, 0] / 2) + XY[:, 1] / 5 + RNG.normal(0, 0.2, 120)


def row_standardised_moran(x: np.ndarray, graph: np.ndarray) -> float:
    """Moran's I from its definition, a double sum over row-standardised weights."""
    degree = graph.sum(axis=1, keepdims=True)
    w = np.divide(graph, degree, out=np.zeros_like(graph), where=degree > 0)
    d = x - x.mean()
    total = sum(w[i, j] * d[i] * d[j] for i in range(len(x)) for j in range(len(x)))
    return len(x) / w.sum() * total / (d**2).sum()


def test_moran_i_follows_its_definition():
    null = moran_null(XY)
    expected = row_standardised_moran(SMOOTH, spatial_graph(XY).toarray())
    np.testing.assert_allclose(moran_i(SMOOTH, null), expected, rtol=1e-12)


@pytest.mark.parametrize("scheme", ["bands", "singleton"])
def test_surrogates_keep_mean_variance_and_moran_i(scheme):
    null = moran_null(XY, scheme=scheme)
    copies = moran_surrogates(SMOOTH, null, 50, seed=1)
    graph = spatial_graph(XY).toarray()
    np.testing.assert_allclose(copies.mean(axis=1), SMOOTH.mean(), atol=1e-12)
    np.testing.assert_allclose(copies.var(axis=1), SMOOTH.var(), rtol=1e-10)
    for copy in copies[:3]:
        np.testing.assert_allclose(
            row_standardised_moran(copy, graph), row_standardised_moran(SMOOTH, graph), atol=1e-10
        )
    np.testing.assert_allclose(moran_i(copies.T, null), moran_i(SMOOTH, null), atol=1e-10)
    assert (np.abs(np.corrcoef(SMOOTH, copies)[0, 1:]) < 0.95).all()


def test_bands_resemble_the_target_less_than_single_signs():
    resemblance = [
        np.abs(np.corrcoef(SMOOTH, moran_surrogates(SMOOTH, moran_null(XY, scheme=scheme), 300))[0, 1:]).mean()
        for scheme in ("bands", "singleton")
    ]
    assert resemblance[0] < 0.9 * resemblance[1]


def test_each_section_keeps_its_own_moments():
    section = np.repeat([0, 1, 2], [50, 69, 1])
    copies = moran_surrogates(SMOOTH + 3 * section, moran_null(XY, section), 20)
    for s in (0, 1, 2):
        rows = section == s
        np.testing.assert_allclose(copies[:, rows].mean(axis=1), (SMOOTH + 3 * section)[rows].mean(), atol=1e-12)
        np.testing.assert_allclose(copies[:, rows].var(axis=1), SMOOTH[rows].var(), rtol=1e-10, atol=1e-20)
    own = moran_null(XY[:50])
    np.testing.assert_allclose(moran_i(copies[:, :50].T, own), moran_i(SMOOTH[:50], own), atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(1, 3), st.sampled_from(["bands", "singleton"]), st.integers(0, 9))
def test_edge_cases_keep_moments(n, n_sections, scheme, seed):
    # few spots on a coarse lattice: coincident, collinear, isolated and disconnected spots all occur
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, 5, (n, 2)).astype(float)
    section = rng.integers(0, n_sections, n)
    if np.bincount(section).max() < 2:
        section[:] = 0
    y = rng.normal(size=n)
    null = moran_null(xy, section, scheme=scheme)
    copies = moran_surrogates(y, null, 8, seed=seed)
    assert np.isfinite(copies).all()
    np.testing.assert_allclose(copies.mean(axis=1), y.mean(), atol=1e-9)
    np.testing.assert_allclose(copies.var(axis=1), y.var(), rtol=1e-8)


def test_basis_is_orthonormal_and_free_of_section_means():
    section = np.repeat([0, 1], 60)
    null = moran_null(XY, section)
    x = RNG.normal(size=(120, 4))
    coef = null.project(x)
    centred = x - np.stack([x[section == s].mean(axis=0) for s in (0, 1)])[section]
    np.testing.assert_allclose(coef.T @ coef, centred.T @ centred, atol=1e-10)
    assert coef.shape[0] == 118


@pytest.mark.parametrize("null", [moran_null(XY), moran_null(XY, scheme="singleton"), permutation_null(120)])
def test_closed_form_variance_equals_that_of_the_copies(null):
    genes = null.project(np.c_[RNG.normal(size=(120, 4)), np.cos(XY)])
    target = null.project(SMOOTH[:, None])
    expected = (null.block_sums(target**2) * null.block_sums(genes**2) / null.dims[:, None]).sum(axis=0)
    sampled = (null.draw(target[:, 0], 20_000, np.random.default_rng(2)) @ genes).var(axis=0)
    np.testing.assert_allclose(sampled, expected, rtol=0.06)


def test_tiles_bound_the_cost_and_keep_the_moments_of_tile_means():
    xy = RNG.uniform(size=(3000, 2))
    y = np.sin(6 * xy[:, 0])
    null = moran_null(xy, exact_below=1000, n_tiles=100)
    assert null.n_units == 100
    copies = moran_surrogates(y, null, 5)
    means = null.units(y[:, None])[:, 0]
    np.testing.assert_allclose(moran_i(copies.T, null), moran_i(means, null), atol=1e-10)
    again = moran_null(xy, exact_below=1000, n_tiles=100)
    np.testing.assert_array_equal(moran_surrogates(y, again, 5), copies)
    sparse = null.project(sp.csr_array(y[:, None]))
    np.testing.assert_allclose(sparse, null.project(y[:, None]), atol=1e-12)


def test_users_graph_gives_the_same_null_as_coordinates():
    a, b = moran_null(XY), moran_null(graph=sp.csr_matrix(spatial_graph(XY)))
    np.testing.assert_allclose(moran_i(SMOOTH, a), moran_i(SMOOTH, b))
    tiled = moran_null(XY, graph=spatial_graph(XY), exact_below=50, n_tiles=20)
    assert tiled.n_units == 20
    with pytest.raises(ValueError, match="pass coords"):
        moran_null(graph=spatial_graph(XY), exact_below=50)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="permutation"):
        moran_null()
    with pytest.raises(ValueError, match="single spot"):
        moran_null(XY[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match="scheme"):
        moran_null(XY, scheme="pair")
    with pytest.raises(ValueError, match="finite"):
        moran_surrogates(np.full(120, np.nan), moran_null(XY))
    with pytest.raises(ValueError, match="rows"):
        moran_i(np.zeros(5), moran_null(XY))


@pytest.mark.parametrize("n_side", [50, 65])
def test_tiles_of_a_lattice_make_one_piece_and_hold_the_level(n_side: int) -> None:
    # tile centres of a lattice line up here and there; taken for a grid, they fell into a hundred pieces
    x, y = np.meshgrid(np.arange(float(n_side)), np.arange(float(n_side)))
    xy = np.c_[x.ravel() + 0.5 * (y.ravel() % 2), y.ravel() * 0.866]
    null = moran_null(xy)
    assert null.n_units < len(xy)
    assert connected_components(null.weights)[0] == 1
    # smooth genes that have nothing to do with a ring-shaped layer
    rng = np.random.default_rng(0)
    center = xy.mean(0)
    ring = np.abs(np.linalg.norm(xy - center, axis=1) - n_side / 4) < n_side / 12
    waves = rng.normal(size=(300, 12, 2)) / (0.2 * n_side)
    phase, weight = rng.uniform(0, 2 * np.pi, (300, 12)), rng.normal(size=(300, 12))
    genes = np.stack([np.cos(xy @ w.T + p) @ a for w, p, a in zip(waves, phase, weight, strict=True)], axis=1)
    p = association_test(genes, ring.astype(float), null, n_null=0).pval[:, 0]
    assert (p < 0.05).mean() < 0.12
