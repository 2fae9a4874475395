"""Labels that travel along neighbours: the fixed point that the rounds approach, in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial import distance_matrix

from st_concepts.concepts import _spreading as spreading
from st_concepts.concepts._spreading import leading_axes, spread_labels, taking_part
from st_concepts.models import Surroundings
from st_concepts.stats import spatial_graph


def _steps(axes: np.ndarray, k: int) -> np.ndarray:
    """Symmetric graph of the ``k`` nearest, rows sum to one, from all distances."""
    d = distance_matrix(axes, axes)
    np.fill_diagonal(d, np.inf)
    near = np.zeros_like(d)
    np.put_along_axis(near, np.argsort(d, axis=1)[:, :k], 1.0, axis=1)
    near = np.maximum(near, near.T)
    return near / near.sum(1, keepdims=True)


def _fixed_point(steps: np.ndarray, codes: np.ndarray, n_classes: int) -> np.ndarray:
    start = np.eye(n_classes + 1)[codes][:, :n_classes]
    start = start / np.maximum(start.sum(0), 1)
    share = 0.2 * np.linalg.solve(np.eye(len(steps)) - 0.8 * steps, start)
    return share / share.sum(1, keepdims=True)


@pytest.fixture
def section() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = np.full(90, -1)
    codes[rng.permutation(90)[:20]] = np.arange(20) % 3
    return rng.normal(size=(90, 12)), codes, rng.random((90, 2))


def test_shares_are_the_fixed_point(section):
    z, codes, _ = section
    found = spread_labels(z, codes, 3, None, np.arange(90))
    expected = _fixed_point(_steps(leading_axes(z, 10), 10), codes, 3)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(found.sum(1), 1.0)


def test_a_tenth_of_the_steps_go_over_the_tissue(section):
    z, codes, xy = section
    around = Surroundings(spatial_graph(xy))
    tissue = around.graph.toarray()
    steps = 0.9 * _steps(leading_axes(z, 10), 10) + 0.1 * tissue / tissue.sum(1, keepdims=True)
    found = spread_labels(z, codes, 3, around, np.arange(90))
    np.testing.assert_allclose(found, _fixed_point(steps, codes, 3), atol=2e-3)


def test_some_spots_spread_as_if_there_were_no_others(section):
    z, codes, xy = section
    around, rows = Surroundings(spatial_graph(xy)), np.arange(0, 90, 2)
    found = spread_labels(z, codes, 3, around, rows)
    axes = leading_axes(z, 10)[rows]  # axes are those of all spots
    tissue = around.graph.toarray()[np.ix_(rows, rows)]
    degree = tissue.sum(1, keepdims=True)
    tissue = np.where(degree > 0, tissue / np.maximum(degree, 1), np.eye(len(rows)))
    steps = 0.9 * _steps(axes, 10) + 0.1 * tissue
    np.testing.assert_allclose(found, _fixed_point(steps, codes[rows], 3), atol=2e-3)


def test_spots_that_no_label_reaches_say_nothing():
    z = np.r_[np.random.default_rng(0).normal(size=(30, 2)), np.random.default_rng(1).normal(size=(30, 2)) + 1e3]
    codes = np.full(60, -1)
    codes[[0, 1, 2, 3]] = [0, 0, 0, 1]
    found = spread_labels(z, codes, 2, None, np.arange(60))
    np.testing.assert_allclose(found[30:], 0.5)
    # every class starts with the same mass: three labels do not outweigh one
    assert 0.3 < found[4:30].mean(0)[0] < 0.7
    tiny = spread_labels(z[:2], codes[[0, 3]], 2, None, np.arange(2))
    np.testing.assert_allclose(tiny.sum(1), 1.0)


def test_of_many_spots_every_class_takes_part():
    assert taking_part(np.zeros(50, dtype=np.intp), 0).tolist() == list(range(50))
    codes = np.full(1000, -1)
    codes[:600] = 0
    codes[[700, 800, 900]] = 1
    codes[650] = 2
    rows = taking_part(codes, 0, 100)
    assert len(rows) == 100
    assert (np.diff(rows) > 0).all()
    assert {650, 700, 800, 900} <= set(rows.tolist())
    # first 50 labelled ones, the others from all that are left
    assert (codes[rows] < 0).sum() > 10
    np.testing.assert_array_equal(rows, taking_part(codes, 0, 100))
    assert not np.array_equal(rows, taking_part(codes, 1, 100))


def test_leading_axes_are_principal_components():
    z = np.random.default_rng(0).normal(size=(40, 5)) * [1, 5, 2, 4, 3] + 9
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(leading_axes(z, 3)), np.abs(u * s)[:, :3], atol=1e-9)
    assert leading_axes(z, 10).shape == (40, 5)


def test_a_spot_without_neighbours_stays_where_it_is():
    graph = sp.csr_array(np.array([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(spreading._stochastic(graph).toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
