from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from st_concepts.stats import balanced_tiles, check_graph, section_codes, spatial_graph

RNG = np.random.default_rng(0)


def lattice(side: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(side, dtype=float), np.arange(side))
    return np.c_[x.ravel(), y.ravel()]


def edges_within(xy: np.ndarray, reach: float) -> np.ndarray:
    """The graph by brute force."""
    d = cdist(xy, xy)
    return ((d <= reach) & (d > 0)).astype(float)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_square_lattice_has_four_neighbours_despite_jitter(scale):
    xy = lattice(12)
    jittered = (xy + RNG.normal(0, 0.03, xy.shape)) * scale + 7.0
    np.testing.assert_array_equal(spatial_graph(jittered).toarray(), edges_within(xy, 1.1))


def test_hexagons_have_six_neighbours():
    xy = lattice(9)
    xy = np.c_[xy[:, 0] + (xy[:, 1] % 2) / 2, xy[:, 1] * np.sqrt(3) / 2]
    graph = spatial_graph(xy)
    np.testing.assert_array_equal(graph.toarray(), edges_within(xy, 1.1))
    assert np.bincount(graph.sum(axis=1).astype(int)).argmax() == 6


def test_irregular_cells_are_connected_and_gaps_are_not_bridged():
    left = RNG.uniform(0, 10, (150, 2))
    right = RNG.uniform(0, 10, (150, 2)) + np.array([60.0, 0.0])
    n, piece = connected_components(spatial_graph(np.r_[left, right]))
    assert n == 2
    assert len(set(piece[:150])) == 1
    assert 5 < spatial_graph(left).sum(axis=1).mean() < 6.5


def test_sections_share_no_edge_and_do_not_influence_each_other():
    xy = RNG.uniform(size=(80, 2))
    section = np.repeat(["b", "a"], 40)
    graph = spatial_graph(xy, section).toarray()
    assert graph[:40, 40:].sum() == 0
    np.testing.assert_array_equal(graph[:40, :40], spatial_graph(xy[:40]).toarray())


def test_isolated_spot_keeps_an_empty_row():
    graph = spatial_graph(np.r_[lattice(5), [[100.0, 100.0]]])
    assert graph.sum(axis=1)[-1] == 0
    assert (graph.sum(axis=1)[:-1] > 0).all()


def test_coincident_spots_are_neighbours_and_share_neighbours():
    xy = np.r_[lattice(4), [[1.0, 1.0]]]
    graph = spatial_graph(xy).toarray()
    assert graph[5, 16] == 1
    others = np.delete(np.arange(17), [5, 16])
    np.testing.assert_array_equal(graph[5, others], graph[16, others])


def test_spots_on_a_line_follow_the_line():
    x = np.cumsum(RNG.uniform(0.5, 3, 12))
    graph = spatial_graph(np.c_[x, 2 * x], kind="delaunay").toarray()
    assert (np.diag(graph, 1) == 1).all()


def test_knn_is_the_symmetrised_brute_force():
    xy = RNG.uniform(size=(30, 2))
    near = np.argsort(cdist(xy, xy), axis=1)[:, 1:4]
    wanted = np.zeros((30, 30))
    np.put_along_axis(wanted, near, 1.0, axis=1)
    np.testing.assert_array_equal(spatial_graph(xy, kind="knn", n_neighbors=3).toarray(), np.maximum(wanted, wanted.T))


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 14), st.just(2)), elements=st.integers(-3, 3).map(float)),
    st.sampled_from(["auto", "grid", "delaunay", "knn"]),
)
def test_any_few_spots_give_a_symmetric_graph(xy, kind):
    graph = spatial_graph(xy, kind=kind)
    dense = graph.toarray()
    assert graph.shape == (len(xy), len(xy))
    np.testing.assert_array_equal(dense, dense.T)
    assert set(np.unique(dense)) <= {0.0, 1.0}
    assert np.trace(dense) == 0


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (np.zeros((3, 3)), "shape"),
        (np.zeros(3), "shape"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "first at row 1"),
        (np.zeros((200, 2)), "same place"),
    ],
)
def test_bad_coordinates_are_refused(coords, message):
    with pytest.raises(ValueError, match=message):
        spatial_graph(coords)


def test_sections_with_missing_labels_are_refused():
    with pytest.raises(ValueError, match="missing for 1"):
        section_codes(["a", None, "b"], 3)
    with pytest.raises(ValueError, match="shape"):
        section_codes(["a"], 3)


def test_users_graph_is_made_symmetric_within_sections():
    graph = sp.csr_matrix(np.array([[5.0, 2, 0], [0, 0, 1], [0, 0, 0]]))
    out = check_graph(graph, 3, np.array([0, 0, 1])).toarray()
    np.testing.assert_array_equal(out, [[0, 2, 0], [2, 0, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="negative"):
        check_graph(-graph, 3, np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="shape"):
        check_graph(graph, 4, np.zeros(4, dtype=int))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_tiles_are_balanced_whole_and_repeatable(n, k, ties):
    rng = np.random.default_rng(n)
    xy = rng.integers(0, 3, (n, 2)).astype(float) if ties else rng.normal(size=(n, 2))
    k = min(k, n)
    tile = balanced_tiles(xy, k)
    size = np.bincount(tile)
    assert len(size) == k
    assert size.max() - size.min() <= 1
    np.testing.assert_array_equal(tile, balanced_tiles(xy.copy(), k))


def test_tiles_stay_within_sections_and_are_compact():
    xy = RNG.uniform(size=(1000, 2))
    section = RNG.integers(0, 2, 1000)
    tile = balanced_tiles(xy, 50, section)
    assert all(len(set(section[tile == t])) == 1 for t in range(100))
    spread = np.mean([xy[tile == t].std(axis=0).mean() for t in range(100)])
    assert spread < 0.1
    with pytest.raises(ValueError, match="n_tiles"):
        balanced_tiles(xy, 2000)
