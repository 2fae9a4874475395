"""What concepts see, and how far around a spot they look."""

from __future__ import annotations

import numpy as np
import pytest

from st_concepts.concepts import DEFAULT_WIDTH, Seen
from st_concepts.concepts._held_out import held_out, tile_folds
from st_concepts.concepts._seen import FEW_LABELS, WIDTHS, Problem
from st_concepts.models import Surroundings
from st_concepts.stats import spatial_graph

SIDE = 20
XY = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2).astype(float)
N = len(XY)


def seen(signal: np.ndarray, noise: float, *, coords: bool = True) -> Seen:
    z = np.random.default_rng(0).normal(size=(N, 3)) * noise
    z[:, 0] += signal
    return Seen(
        z, np.ones(N, bool), Surroundings(spatial_graph(XY)), XY if coords else None, np.zeros(N, dtype=np.intp)
    )


def problem(codes: np.ndarray) -> Problem:
    return Problem(codes.astype(np.intp), 2, [0, 1])


halves = (XY[:, 0] >= SIDE / 2).astype(np.intp)
checks = (XY.sum(1) % 2).astype(np.intp)


def test_the_embedding_is_the_spot_with_twice_its_surroundings():
    data = seen(halves, 1.0)
    np.testing.assert_array_equal(data.embedding(0.0), data.latent)
    both = data.embedding(3.0)
    assert both.shape == (N, 6)
    np.testing.assert_allclose(both[:, :3], data.latent, rtol=1e-6)
    average = data.around.average(data.latent, 3.0)
    np.testing.assert_allclose(both[:, 3:], 2 * average, rtol=1e-4, atol=1e-5)
    # vectors of the embedding weigh averages that are not doubled
    v = np.random.default_rng(1).normal(size=(2, 6))
    units = data.in_latent_units(v)
    np.testing.assert_allclose(
        both @ v.T, data.latent @ units[:, :3].T + average @ units[:, 3:].T, rtol=1e-4, atol=1e-5
    )
    assert data.average(3.0) is data.average(3.0)
    with pytest.raises(ValueError, match="no positions"):
        Seen(data.latent, data.usable).average(3.0)


def test_a_number_is_taken_as_it_is():
    data = seen(halves, 1.0)
    assert data.choose_width(7, [problem(halves)]) == (7.0, {})
    assert data.choose_width(0.0, [problem(halves)]) == (0.0, {})


def test_wide_layers_in_noise_are_seen_by_their_surroundings():
    width, area = seen(halves, 3.0).choose_width("auto", [problem(halves)])
    assert width > 0
    assert set(area) == set(WIDTHS)
    assert area[width] == max(area.values())
    assert area[width] > area[0.0] + 0.1


def test_a_pattern_finer_than_any_average_is_seen_in_the_spot_alone():
    data = seen(4.0 * checks, 1.0)
    data.latent[:, 1:] = 0.0
    data.latent[:, 1:] += np.random.default_rng(5).normal(size=(N, 2))
    width, area = data.choose_width("auto", [problem(checks)])
    assert area[0.0] > 0.95
    assert area[width] == max(area.values())


def test_the_figures_are_those_of_held_out_tiles():
    data = seen(halves, 3.0)
    other = (XY[:, 1] >= 5).astype(np.intp)
    other[::7] = -1
    problems = [problem(halves), Problem(other, 2, [1])]
    _, area = data.choose_width("auto", problems)
    for width in WIDTHS:
        found = [
            held_out(data.embedding(width), p.codes, 2, tile_folds(p.codes, XY, data.sections)).auroc[p.picked]
            for p in problems
        ]
        assert area[width] == pytest.approx(np.concatenate(found).mean(), abs=1e-6)


def test_too_few_labels_and_no_positions_compare_nothing():
    few = np.full(N, -1)
    few[np.flatnonzero(halves == 0)[:FEW_LABELS]] = 0
    few[np.flatnonzero(halves == 1)[:FEW_LABELS]] = 1
    assert seen(halves, 3.0).choose_width("auto", [problem(few)]) == (DEFAULT_WIDTH, {})
    assert seen(halves, 3.0, coords=False).choose_width("auto", [problem(halves)]) == (DEFAULT_WIDTH, {})
    data = seen(halves, 3.0)
    assert Seen(data.latent, data.usable).choose_width("auto", [problem(halves)]) == (0.0, {})


def test_averages_of_widths_that_were_not_chosen_are_let_go():
    data = seen(halves, 3.0)
    width, _ = data.choose_width("auto", [problem(halves)])
    assert set(data._averages) == {width}
