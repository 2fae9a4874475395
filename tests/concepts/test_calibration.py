from __future__ import annotations

import numpy as np
import pytest

from st_concepts.concepts import get_estimator
from st_concepts.concepts._calibrated import Labelling
from st_concepts.concepts._calibration import Calibration, Reach, fit_alone, fit_exclusive
from st_concepts.concepts._held_out import dealt_folds
from st_concepts.concepts._seen import Problem, Seen


def _classes(n: int, seed: int, distance: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Four Gaussian classes of unequal size in six dimensions, whose true probabilities are known."""
    rng = np.random.default_rng(seed)
    y = rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4])
    return distance * np.eye(6)[y] + rng.normal(size=(n, 6)), y


def _labelling(codes: np.ndarray, **options) -> Labelling:
    problem = Problem(codes, int(codes.max()) + 1, list(range(int(codes.max()) + 1)))
    return Labelling([problem], get_estimator("discriminant"), **({"learn": True, "width": 0.0} | options))


def test_gaussian_classes_get_their_true_probabilities() -> None:
    z, y = _classes(6000, 0)
    weights, bias = fit_exclusive(z[:, :4], y)
    true = np.exp(2.5 * z[:, :4]) * [0.1, 0.2, 0.3, 0.4]
    true /= true.sum(1, keepdims=True)
    found = Calibration(True, weights, bias, {}).probability(z[:, :4])
    np.testing.assert_allclose(found.sum(1), 1)
    assert np.abs(found - true).mean() < 0.01


def test_coefficients_are_at_the_minimum_of_what_they_minimise() -> None:
    from st_concepts.concepts import _calibration as module

    z, y = _classes(80, 1)
    s = z[:, :4]
    weights, bias = fit_exclusive(s, y)

    def loss(w: np.ndarray, b: np.ndarray) -> float:
        odds = s @ w + b
        # the best split of the weights into one slope and the rest
        slopes = np.exp(np.linspace(-2, 2, 4001))
        rest = ((w[None] - slopes[:, None, None] * np.eye(4)) ** 2).sum((1, 2))
        drawn = module._RIDGE_SLOPE * np.log(slopes / module._SLOPE) ** 2 + module._RIDGE_OTHERS * rest
        fit = (np.log(np.exp(odds).sum(1)) - odds[np.arange(80), y]).sum()
        return float(fit + 0.5 * (drawn.min() + module._RIDGE_BIAS * b @ b))

    best = loss(weights, bias)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert loss(weights + 0.02 * rng.normal(size=(4, 4)), bias + 0.02 * rng.normal(size=4)) > best - 1e-3


def test_one_score_alone() -> None:
    rng = np.random.default_rng(0)
    inside = rng.random(4000) < 0.3
    slope, bias = fit_alone(rng.normal(size=4000) + 2.0 * inside, inside)
    assert slope == pytest.approx(2.0, abs=0.2)
    assert bias == pytest.approx(-2.0 + np.log(0.3 / 0.7), abs=0.25)


def test_no_labels_leave_the_usual_slope_and_a_missing_class_its_place() -> None:
    weights, bias = fit_exclusive(np.zeros((0, 3)), np.zeros(0, dtype=int))
    np.testing.assert_allclose(weights, weights[0, 0] * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(bias, 0, atol=1e-6)
    z, y = _classes(100, 0)
    s = z[:, :4].copy()
    s[y == 0, 0] = np.nan  # never seen by the other folds: these spots say nothing
    assert np.isfinite(fit_exclusive(s, y)[0]).all()


@pytest.mark.parametrize(("per_class", "limit"), [(None, 0.05), (20, 0.05), (5, 0.08)])
def test_held_out_spots_are_calibrated(per_class: int | None, limit: float) -> None:
    """Share right and probability agree on spots that took no part; equal numbers of labels hide unequal sizes."""
    conf, right = [], []
    for seed in range(6):
        z, y = _classes(500, seed)
        rng = np.random.default_rng(100 + seed)
        keep = rng.random(500) < 0.5
        if per_class:
            keep[:] = False
            for c in range(4):
                keep[rng.permutation(np.flatnonzero(y == c))[:per_class]] = True
        codes = np.where(keep, y, -1)
        labelling = _labelling(codes)
        seen = Seen(z, np.ones(500, dtype=bool))
        made = labelling.calibrate(seen).calibration
        projected = z @ labelling._vectors(seen, z, codes, labelling.problems[0]).T
        found = made.probability((projected - projected.mean(0)) / projected.std(0))[~keep]
        conf.append(found.max(1))
        right.append(found.argmax(1) == y[~keep])
    c, r = np.concatenate(conf), np.concatenate(right)
    bins = np.array_split(np.argsort(c), 10)
    assert sum(len(b) * abs(c[b].mean() - r[b].mean()) for b in bins) / len(c) < limit


def test_disagreement_does_not_see_the_own_label() -> None:
    z, y = _classes(300, 0)
    labelling = _labelling(y)
    seen = Seen(z, np.ones(300, dtype=bool))
    before = labelling.calibrate(seen).disagreement
    # a spot whose label is wrong is found, and no other label was needed to be right for it
    wrong = y.copy()
    wrong[7] = (y[7] + 1) % 4
    after = _labelling(wrong).calibrate(seen).disagreement
    assert after[7] > 0.8 > before[7]
    assert ((before >= 0) & (before <= 1)).all()
    assert before.mean() == pytest.approx((before > 0.5).mean(), abs=0.1)


def test_a_label_of_one_spot_cannot_be_told_and_says_so() -> None:
    z, y = _classes(200, 0)
    y[0] = 4
    found = _labelling(y).calibrate(Seen(z, np.ones(200, dtype=bool)))
    assert np.isnan(found.disagreement[0])
    assert np.isfinite(found.disagreement[1:]).all()
    assert np.isfinite(found.calibration.weights).all()


def test_reach_holds_nearly_all_labelled_spots_and_no_stranger() -> None:
    z, y = _classes(1000, 0)
    reach = Reach.of(z, y, 4, dealt_folds(y, 0))
    fresh, _ = _classes(1000, 1)
    assert (reach.distance(fresh) > reach.limit).mean() < 0.02
    assert (reach.distance(fresh + 20.0) > reach.limit).all()
    means = np.stack([z[y == j].mean(0) for j in range(4)])
    rest = z - means[y]
    inverse = np.linalg.inv(
        0.9 * np.cov(rest.T) * 999 / 996 + 0.1 * np.trace(np.cov(rest.T) * 999 / 996) / 6 * np.eye(6)
    )
    slow = [min(np.sqrt((x - m) @ inverse @ (x - m)) for m in means) for x in fresh[:20]]
    np.testing.assert_allclose(reach.distance(fresh[:20]), slow, rtol=1e-6)


def test_coefficients_come_back_from_uns() -> None:
    z, y = _classes(300, 0)
    made = _labelling(y).calibrate(Seen(z, np.ones(300, dtype=bool))).calibration
    back = Calibration.from_uns(made.to_uns())
    np.testing.assert_array_equal(back.probability(z[:, :4]), made.probability(z[:, :4]))
    np.testing.assert_array_equal(back.beyond(z[:, :4], z), made.beyond(z[:, :4], z))


def test_concepts_that_overlap_have_probabilities_of_their_own() -> None:
    z, y = _classes(400, 0)
    problems = [Problem(np.where(y == j, 0, 1), 2, [0]) for j in (0, 3)]
    found = Labelling(problems, get_estimator("mean_difference"), False, 0.0).calibrate(Seen(z, np.ones(400, bool)))
    assert not found.calibration.exclusive
    assert found.disagreement is None
    assert np.count_nonzero(found.calibration.weights) == 2
