"""The basis of distances: what its copies keep, and its level where the graph is too mild."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from st_concepts.stats import association_test, concept_test, distance_null, moran_null, moran_surrogates, null_model

RNG = np.random.default_rng(0)
XY = RNG.uniform(0, 10, (120, 2))
SECTION = np.repeat([0, 1, 2], [50, 69, 1])
SMOOTH = np.sin(XY[:, 0] / 2) + XY[:, 1] / 5 + RNG.normal(0, 0.2, 120)


@pytest.mark.parametrize("scheme", ["bands", "singleton"])
def test_copies_keep_mean_variance_and_the_products_by_distance(scheme):
    null = distance_null(XY, SECTION, scheme=scheme)
    copies = moran_surrogates(SMOOTH, null, 20, seed=1)

    def weighted(v: np.ndarray, rows: np.ndarray) -> float:
        centred = v[rows] - v[rows].mean()
        return centred @ cdist(XY[rows], XY[rows]) @ centred

    for s in (0, 1):
        rows = np.flatnonzero(s == SECTION)
        np.testing.assert_allclose(copies[:, rows].mean(axis=1), SMOOTH[rows].mean(), atol=1e-10)
        np.testing.assert_allclose(copies[:, rows].var(axis=1), SMOOTH[rows].var(), rtol=1e-9)
        np.testing.assert_allclose([weighted(c, rows) for c in copies], weighted(SMOOTH, rows), rtol=1e-8)
    np.testing.assert_allclose(copies[:, 119], SMOOTH[119])


def test_the_basis_is_orthonormal_and_free_of_section_means():
    null = distance_null(XY, SECTION)
    x = RNG.normal(size=(120, 3))
    coef = null.project(x)
    centred = x - np.stack([x[s == SECTION].mean(axis=0) for s in (0, 1, 2)])[SECTION]
    np.testing.assert_allclose(coef.T @ coef, centred.T @ centred, atol=1e-9)
    assert coef.shape[0] == 117


def test_scale_turn_and_subset():
    y = (XY[:, 0] > 5).astype(float)
    x = RNG.normal(size=(120, 5)) + SMOOTH[:, None]
    want = association_test(x, y, distance_null(XY), n_null=0)
    turned = XY @ np.array([[0.6, -0.8], [0.8, 0.6]]) * 1e4 + 7
    np.testing.assert_allclose(association_test(x, y, distance_null(turned), n_null=0).z, want.z, rtol=1e-6)
    some = np.where(np.arange(120) % 3, y, np.nan)
    keep = ~np.isnan(some)
    got = association_test(x, some, null_model("distance", 120, coords=XY), n_null=0)
    np.testing.assert_allclose(
        got.z, association_test(x[keep], some[keep], distance_null(XY[keep]), n_null=0).z, rtol=1e-8
    )
    assert got.null == "distance"
    tiled = distance_null(XY, exact_below=50, n_tiles=20)
    assert tiled.n_units == 20
    assert tiled.subset(keep).n_obs == keep.sum()
    assert concept_test(np.c_[SMOOTH, x], SMOOTH > 1, distance_null(XY)).pval[0] < 0.05


def test_layers_of_an_oval_tissue_hold_the_level_better_than_with_the_graph():
    side = np.arange(18.0)
    xy = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) - side.mean()
    xy = xy[np.linalg.norm(xy / [9.2, 7.6], axis=1) < 1]
    rng = np.random.default_rng(0)
    distance = cdist(xy, xy)
    wobble = np.linalg.cholesky(np.exp(-0.5 * (distance / 4) ** 2) + 1e-6 * np.eye(len(xy))) @ rng.normal(size=len(xy))
    radius = np.linalg.norm((xy - [1, 0.7]) / [9, 7.5], axis=1) + 0.05 * wobble
    targets = np.eye(5)[np.searchsorted(np.quantile(radius, [0.3, 0.42, 0.55, 0.85]), radius)]
    root = np.linalg.cholesky(np.exp(-0.5 * (distance / 3.5) ** 2) + 1e-6 * np.eye(len(xy)))
    genes = root @ rng.normal(size=(len(xy), 1000))
    graph, apart = (
        (association_test(genes, targets, null, n_null=299).pval_empirical < 0.05).mean(axis=0)
        for null in (moran_null(xy), distance_null(xy))
    )
    assert apart.max() < 0.08 < graph.max()


def test_distances_need_places():
    with pytest.raises(ValueError, match="needs spot coordinates"):
        null_model("distance", 10)
    with pytest.raises(ValueError, match="exact_below"):
        distance_null(XY, exact_below=1)
