"""The surroundings of a spot: the iteration against a dense solution, and its exact transpose."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from st_concepts.models import Surroundings
from st_concepts.stats import spatial_graph

RNG = np.random.default_rng(0)
XY = RNG.random((80, 2))
WIDTHS = (0.5, 3.0, 10.0, 30.0)


def dense(graph: np.ndarray, width: float) -> np.ndarray:
    """The average as a matrix; a spot without neighbours steps to itself."""
    graph = np.asarray(graph, dtype=np.float64).copy()
    lone = graph.sum(1) == 0
    graph[lone, lone] = 1.0
    return np.linalg.inv((1 + width) * np.diag(graph.sum(1)) - width * graph) @ np.diag(graph.sum(1))


@pytest.fixture
def around() -> Surroundings:
    return Surroundings(spatial_graph(XY))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_average_is_the_dense_solution(around, width):
    values = RNG.normal(size=(80, 4)) * 5
    expected = dense(around.graph.toarray(), width) @ values
    np.testing.assert_allclose(around.average(values, width), expected, rtol=0, atol=1e-5 * np.abs(values).max())
    single = around.average(values.astype(np.float32), width)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=3e-5 * np.abs(values).max())


@pytest.mark.parametrize("width", WIDTHS)
def test_weights_are_positive_and_sum_to_one(around, width):
    weights = around.average(np.eye(80), width)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
    assert weights.min() > -1e-6
    assert np.argmax(weights, axis=1).tolist() == list(range(80))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_transpose_is_exact(around, width):
    """Not of the limit only: of the iteration itself."""
    forward, back = around.average(np.eye(80), width), around.spread(np.eye(80), width)
    np.testing.assert_allclose(back, forward.T, rtol=0, atol=1e-13)
    values, weights = RNG.normal(size=(2, 80, 3))
    assert (around.average(values, width) * weights).sum() == pytest.approx(
        (values * around.spread(weights, width)).sum(), rel=1e-11
    )


def test_width_zero_is_the_spot_alone_and_inputs_stay(around):
    values = RNG.normal(size=(80, 2))
    kept = values.copy()
    np.testing.assert_allclose(around.average(values, 0.0), values, rtol=1e-14)
    np.testing.assert_allclose(around.spread(values, 0), values, rtol=1e-14)
    around.average(values, 5.0)
    around.spread(values, 5.0)
    np.testing.assert_array_equal(values, kept)


def test_the_width_is_the_mean_number_of_steps():
    """On a long chain the weights fall off by the ratio that a walk of that mean length gives."""
    n, width = 401, 10.0
    chain = sp.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1], format="csr")
    weights = Surroundings(chain).average(np.eye(n)[:, [200]], width).ravel()
    # mean squared distance of a walk of geometric length with this mean
    assert weights @ (np.arange(n) - 200.0) ** 2 == pytest.approx(width, rel=1e-3)


def test_lone_spots_fall_back_on_themselves():
    graph = np.zeros((5, 5))
    graph[0, 1] = graph[1, 0] = 1.0
    graph[1, 2] = graph[2, 1] = 2.5
    around = Surroundings(sp.csr_array(graph))
    values = RNG.normal(size=(5, 3))
    found = around.average(values, 8.0)
    np.testing.assert_allclose(found[3:], values[3:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, dense(graph, 8.0) @ values, atol=1e-5)


def test_sections_do_not_mix_nor_do_spots_that_say_nothing():
    adata = AnnData(np.zeros((80, 1), dtype=np.float32), obsm={"spatial": XY})
    sections, usable = RNG.integers(0, 2, 80), np.ones(80, bool)
    usable[[3, 50]] = False
    around = Surroundings.of(adata, usable, sections)
    for code in (0, 1):
        own = sections == code
        values = np.where(own, 0.0, 1e3)[:, None]
        assert np.abs(around.average(values, 10.0)[own]).max() == 0.0
    values = RNG.normal(size=(80, 2))
    moved = values.copy()
    moved[[3, 50]] += 1e3
    np.testing.assert_array_equal(around.average(values, 10.0)[usable], around.average(moved, 10.0)[usable])
    np.testing.assert_allclose(around.average(moved, 10.0)[[3, 50]], moved[[3, 50]], rtol=1e-5)
    # each section as if it were alone
    for code in (0, 1):
        rows = np.flatnonzero(sections == code)
        alone = Surroundings.of(adata[rows].copy(), usable[rows], np.zeros(len(rows), dtype=np.intp))
        np.testing.assert_allclose(alone.average(values[rows], 3.0), around.average(values, 3.0)[rows], atol=1e-10)
        np.testing.assert_allclose(
            around.subset(rows).average(values[rows], 3.0), around.average(values, 3.0)[rows], atol=1e-10
        )


def test_a_graph_of_the_users_own():
    adata = AnnData(np.zeros((80, 1), dtype=np.float32))
    usable, sections = np.ones(80, bool), np.zeros(80, dtype=np.intp)
    with pytest.raises(KeyError, match=r"'near' is not in adata.obsp.*spatial_neighbors"):
        Surroundings.of(adata, usable, sections, graph_key="near")
    with pytest.raises((KeyError, ValueError), match="spatial"):
        Surroundings.of(adata, usable, sections)
    weighted = spatial_graph(XY).multiply(0.5).tocsr()
    adata.obsp["near"] = weighted
    found = Surroundings.of(adata, usable, sections, graph_key="near")
    values = RNG.normal(size=(80, 2))
    np.testing.assert_allclose(
        found.average(values, 3.0), Surroundings(spatial_graph(XY)).average(values, 3.0), atol=1e-9
    )


@st.composite
def graphs(draw) -> np.ndarray:
    n = draw(st.integers(1, 9))
    upper = np.triu(draw(arrays(np.float64, (n, n), elements=st.sampled_from([0.0, 0.0, 1.0, 0.25, 3.0]))), 1)
    return upper + upper.T


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), width=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_small_graphs_of_any_kind(graph, width):
    around = Surroundings(sp.csr_array(graph))
    weights = around.average(np.eye(len(graph)), width)
    np.testing.assert_allclose(weights, dense(graph, width), atol=1e-5)
    np.testing.assert_allclose(around.spread(np.eye(len(graph)), width), weights.T, atol=1e-12)
