from __future__ import annotations

import numpy as np
import pytest

from st_concepts.concepts import soft_labels
from st_concepts.concepts._soft_labels import Soft

N_CLASSES, PER_CLASS = 4, 60


def _planted(seed: int = 0, distance: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Four Gaussian classes in six dimensions."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    means = distance * np.linalg.qr(rng.normal(size=(6, 6)))[0][:N_CLASSES]
    return means[truth] + rng.normal(size=(len(truth), 6)), truth


def _some(truth: np.ndarray, n: int) -> np.ndarray:
    """Labels of ``n`` spots a class."""
    codes = np.full(len(truth), -1)
    for c in range(N_CLASSES):
        codes[np.flatnonzero(truth == c)[:n]] = c
    return codes


def _flip(truth: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which exactly ``share`` are wrong, and which ones."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(truth), dtype=bool)
    wrong[rng.permutation(len(truth))[: round(share * len(truth))]] = True
    return np.where(wrong, (truth + rng.integers(1, N_CLASSES, len(truth))) % N_CLASSES, truth), wrong


@pytest.mark.parametrize("n", [1, 3, 30])
def test_few_labels_recover_planted_classes(n: int) -> None:
    z, truth = _planted()
    found = soft_labels(z, z, _some(truth, n), N_CLASSES)
    assert (found.shares.argmax(1) == truth).mean() > 0.97
    assert (found.weights.argmax(1) == truth).mean() > 0.97
    np.testing.assert_allclose(found.shares.sum(1), 1.0)
    assert found.weights.min() >= 0
    assert found.weights.max() <= 1


def test_one_labelled_spot_a_class_is_taken_at_its_word() -> None:
    """Nothing can be held out, so nothing speaks against the labels."""
    z, truth = _planted()
    codes = _some(truth, 1)
    found = soft_labels(z, z, codes, N_CLASSES)
    assert np.isnan(found.held_out.mean_auroc)
    assert found.trust == 1.0
    np.testing.assert_array_equal(found.shares[codes >= 0], np.eye(N_CLASSES))
    np.testing.assert_array_equal(found.weights[codes >= 0], np.eye(N_CLASSES))


def test_trust_is_that_of_the_scores_out_of_fold() -> None:
    z, truth = _planted()
    right = soft_labels(z, z, truth, N_CLASSES)
    random = soft_labels(z, z, np.random.default_rng(1).permutation(truth), N_CLASSES)
    assert right.trust > 0.97
    assert random.trust < 0.05
    wrong = [soft_labels(z, z, _flip(truth, share)[0], N_CLASSES).trust for share in (0.1, 0.3, 0.5)]
    assert sorted([right.trust, *wrong, random.trust], reverse=True) == [right.trust, *wrong, random.trust]
    assert right.trust == pytest.approx((2 * right.held_out.mean_auroc - 1) ** 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_labels_are_kept_in_part_and_none_is_overruled(share: float) -> None:
    z, truth = _planted()
    codes, wrong = _flip(truth, share)
    codes = np.where(np.arange(len(codes)) % 3 == 0, -1, codes)
    found = soft_labels(z, z, codes, N_CLASSES)
    known = np.flatnonzero(codes >= 0)
    for weights in (found.shares, found.weights):
        assert (weights[known, codes[known]] >= found.trust - 1e-12).all()
        if share:  # the rest of the weight follows expression
            rest = (weights[known] - found.trust * np.eye(N_CLASSES)[codes[known]]) / (1 - found.trust)
            assert (rest.argmax(1) == truth[known]).mean() > 0.95
    unlabelled = found.shares[codes < 0]
    assert (unlabelled.argmax(1) == truth[codes < 0]).mean() > 0.95
    if share:
        doubt = 1 - found.weights[known, codes[known]]
        assert doubt[wrong[known]].min() > np.median(doubt[~wrong[known]])


def test_what_is_seen_beside_the_spot_itself_counts() -> None:
    """Classes that latent positions mix and the rest of the embedding tells apart."""
    z, truth = _planted(distance=0.0)
    beside = np.eye(N_CLASSES)[truth] * 6 + np.random.default_rng(3).normal(size=(len(z), N_CLASSES))
    alone, both = (soft_labels(z, e, truth, N_CLASSES) for e in (z, np.concatenate([z, beside], axis=1)))
    assert alone.trust < 0.1
    assert both.trust > 0.9


def test_a_class_without_labelled_spots_here_gets_none() -> None:
    z, truth = _planted()
    found = soft_labels(z, z, truth, N_CLASSES + 1)
    assert not found.weights[:, -1].any()
    assert np.isfinite(found.shares).all()


def test_rotation_shift_and_names_of_the_classes_do_not_matter() -> None:
    z, truth = _planted()
    codes, _ = _flip(truth, 0.2)
    codes[::3] = -1
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    plain = soft_labels(z, z, codes, N_CLASSES)
    turned = soft_labels(z @ rotation + 7.0, z @ rotation + 7.0, codes, N_CLASSES)
    np.testing.assert_allclose(turned.shares, plain.shares, atol=1e-6)
    assert turned.trust == pytest.approx(plain.trust, abs=1e-8)


def test_masks_are_labellings_of_two_classes_each() -> None:
    z, truth = _planted()
    first, second = (np.where(truth == c, 0, 1) for c in (0, 1))
    second = np.where(np.arange(len(z)) % 2 == 0, second, -1)
    found = [soft_labels(z, z, codes, 2) for codes in (first, second)]
    soft = Soft.of(found, [[0], [0]])
    assert soft.trust == pytest.approx((found[0].trust + found[1].trust) / 2)
    for one, (inside, outside), weight in zip(found, soft.sides, soft.weights.T, strict=True):
        np.testing.assert_array_equal(inside, one.shares[:, 0])
        np.testing.assert_allclose(outside, one.shares[:, 1], atol=1e-12)
        np.testing.assert_array_equal(weight, one.weights[:, 0])
    # of one labelling, some of its classes in any order
    some = Soft.of([soft_labels(z, z, truth, N_CLASSES)], [[2, 0]])
    assert (some.weights.argmax(1)[(truth == 0) | (truth == 2)] == (truth[(truth == 0) | (truth == 2)] == 0)).all()
