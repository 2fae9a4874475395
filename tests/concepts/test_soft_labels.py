from __future__ import annotations

import numpy as np
import pytest

from st_concepts.concepts import DOUBT_ABOVE, soft_labels

N_CLASSES, PER_CLASS = 4, 60


def _planted(seed: int = 0, distance: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Four Gaussian classes in six dimensions."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    means = distance * np.linalg.qr(rng.normal(size=(6, 6)))[0][:N_CLASSES]
    return means[truth] + rng.normal(size=(len(truth), 6)), truth


def _flip(truth: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which exactly ``share`` are wrong, and which ones."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(truth), dtype=bool)
    wrong[rng.permutation(len(truth))[: round(share * len(truth))]] = True
    return np.where(wrong, (truth + rng.integers(1, N_CLASSES, len(truth))) % N_CLASSES, truth), wrong


def test_few_labels_recover_planted_classes() -> None:
    z, truth = _planted()
    codes = np.full(len(truth), -1)
    for c in range(N_CLASSES):
        codes[np.flatnonzero(truth == c)[:3]] = c
    found = soft_labels(z, codes, N_CLASSES)
    assert (found.weights.argmax(1) == truth).mean() > 0.97
    assert np.isnan(found.label_error)  # too few to judge
    assert not found.doubted
    assert np.isnan(found.disagreement[codes < 0]).all()
    assert np.isfinite(found.disagreement[codes >= 0]).all()


def test_labels_taken_at_their_word_keep_their_weights() -> None:
    z, truth = _planted()
    codes = np.where(np.arange(len(truth)) % 3 == 0, -1, truth)
    found = soft_labels(z, codes, N_CLASSES)
    known = codes >= 0
    np.testing.assert_array_equal(found.weights[known], np.eye(N_CLASSES)[codes[known]])
    sums = found.weights[~known].sum(1)
    assert np.all(np.isclose(sums, 1.0) | (sums == 0.0))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
def test_error_of_flipped_labels_is_estimated(share: float) -> None:
    z, truth = _planted()
    codes, wrong = _flip(truth, share)
    found = soft_labels(z, codes, N_CLASSES)
    assert found.label_error == pytest.approx(share, abs=0.05)
    assert found.doubted == (share > DOUBT_ABOVE)
    assert ((found.disagreement > 0.5) == wrong).mean() > 0.97
    if found.doubted:
        assert (found.weights.argmax(1) == truth).mean() > 0.97  # what expression says, not the label


def test_right_labels_are_not_doubted() -> None:
    z, truth = _planted()
    found = soft_labels(z, truth, N_CLASSES)
    assert found.label_error < 0.05
    assert found.disagreement.max() < 0.5


def test_unlabelled_spots_unlike_any_class_have_no_weight() -> None:
    z, truth = _planted()
    z[:3] += 200.0
    codes = truth.copy()
    codes[:20] = -1
    weights = soft_labels(z, codes, N_CLASSES).weights
    np.testing.assert_array_equal(weights[:3], 0.0)
    assert (weights[3:20].sum(1) > 0.99).mean() > 0.9


def test_rotation_and_order_do_not_matter() -> None:
    z, truth = _planted()
    codes, _ = _flip(truth, 0.2)
    rng = np.random.default_rng(1)
    rotation, order = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.permutation(len(z))
    plain, turned = soft_labels(z, codes, N_CLASSES), soft_labels((z @ rotation)[order] + 7.0, codes[order], N_CLASSES)
    np.testing.assert_allclose(turned.disagreement, plain.disagreement[order], atol=1e-6)
    assert turned.label_error == pytest.approx(plain.label_error, abs=1e-8)
