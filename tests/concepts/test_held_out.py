"""Scores out of fold are those of discriminants that are fitted again without the fold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from st_concepts.concepts import discriminant
from st_concepts.concepts._held_out import held_out, random_folds, tile_folds


@pytest.fixture
def labelled() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 120)
    z = rng.normal(size=(120, 5)) * [3, 1, 1, 0.5, 1] + np.eye(5)[codes]
    return z + 4.0, np.where(rng.random(120) < 0.3, -1, codes)


def test_it_equals_refitting_fold_by_fold(labelled):
    z, codes = labelled
    folds = random_folds(codes, 0)
    found = held_out(z, codes, 3, folds)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(codes >= 0))
    np.testing.assert_array_equal(found.codes, codes[codes >= 0])
    fold_of = np.full(len(codes), -1)
    fold_of[found.rows] = folds
    centre = z[found.rows].mean(0)
    for f in range(5):
        seen = (codes >= 0) & (fold_of != f)
        for j in range(3):
            vector = discriminant(z, seen & (codes == j), seen & (codes != j))
            expected = (z[fold_of == f] - centre) @ vector
            np.testing.assert_allclose(found.scores[folds == f, j], expected, rtol=1e-9, atol=1e-9)
    area = [roc_auc_score(found.codes == j, found.scores[:, j]) for j in range(3)]
    np.testing.assert_allclose(found.auroc, area)
    assert found.mean_auroc == pytest.approx(np.mean(area))


def test_a_class_of_one_spot_cannot_be_told(labelled):
    z, codes = labelled
    codes = np.where(codes == 2, -1, codes)
    codes[5] = 2
    found = held_out(z, codes, 4, random_folds(codes, 0))
    own = found.rows == 5
    assert np.isnan(found.scores[own, 2]).all()
    assert np.isfinite(found.auroc[:2]).all()
    assert np.isnan(found.auroc[2:]).all()
    assert np.isfinite(found.mean_auroc)
    only = np.where(np.arange(len(z)) == 5, 0, -1)
    nothing = held_out(z, only, 1, random_folds(only, 0))
    assert np.isnan(nothing.mean_auroc)


def test_labels_of_the_fold_do_not_matter(labelled):
    z, codes = labelled
    folds = random_folds(codes, 0)
    rows = np.flatnonzero(codes >= 0)
    other = codes.copy()
    other[rows[folds == 2]] = (codes[rows[folds == 2]] + 1) % 3
    before, after = (held_out(z, c, 3, folds).scores for c in (codes, other))
    np.testing.assert_allclose(after[folds == 2], before[folds == 2], atol=1e-12)
    assert not np.allclose(after[folds != 2], before[folds != 2])


def test_random_folds_deal_every_class_evenly():
    codes = np.repeat([0, 1, 2, -1], [50, 7, 33, 20])
    folds = random_folds(codes, 0)
    assert len(folds) == 90
    for j in range(3):
        size = np.bincount(folds[codes[codes >= 0] == j], minlength=5)
        assert size.max() - size.min() <= 1
    np.testing.assert_array_equal(folds, random_folds(codes, 0))
    few = np.repeat([0, 1], [50, 3])
    assert random_folds(few, 0).max() == 2
    assert set(random_folds(np.array([0, 1, -1]), 0)) == {0}


def test_tile_folds_are_compact_and_of_every_section():
    rng = np.random.default_rng(0)
    xy, sections = rng.random((400, 2)), np.repeat([0, 1], 200)
    codes = np.where(rng.random(400) < 0.5, 0, -1)
    codes[:3] = 1
    folds = tile_folds(codes, xy, sections)
    known = np.flatnonzero(codes >= 0)
    assert len(folds) == len(known)
    for section in (0, 1):
        own = sections[known] == section
        size = np.bincount(folds[own], minlength=8)
        assert len(size) == 8
        assert size.max() - size.min() <= 1
        spread = [xy[known][own & (folds == f)].std(0).max() for f in range(8)]
        assert max(spread) < 0.25
    few = np.where(np.arange(400) < 3, 0, -1)
    assert sorted(tile_folds(few, xy, sections)) == [0, 1, 2]
