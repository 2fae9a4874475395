"""What concepts say of spots whose labels they did not see, and what follows: probabilities, and doubt about labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from st_concepts.concepts._calibration import Calibration, Reach, fit_alone, fit_exclusive
from st_concepts.concepts._held_out import HeldOut, dealt_folds
from st_concepts.concepts._seen import Problem, Seen
from st_concepts.concepts._soft_labels import soft_labels
from st_concepts.concepts._spreading import taking_part
from st_concepts.concepts._vectors import Estimator

# spots that concepts out of fold are made of, and coefficients; all labelled spots are scored
_MOST = 4000


@dataclass(frozen=True)
class Labelling:
    """How vectors were made of labels, so that they can be made again without some of them.

    Attributes
    ----------
    problems
        Labellings; the concepts are those picked, in their order.
    estimator
        Of the vectors.
    learn
        Whether unlabelled spots took part.
    width
        Of the surroundings.
    """

    problems: list[Problem]
    estimator: Estimator
    learn: bool
    width: float

    @property
    def exclusive(self) -> bool:
        """Whether every labelled spot is of one concept, and no more than one."""
        first = self.problems[0]
        return len(self.problems) == 1 and len(first.picked) == first.n_classes > 1

    def calibrate(self, seen: Seen) -> Calibrated:
        """Probabilities out of fold of the spots ``seen``."""
        embedding = seen.embedding(self.width)
        if self.exclusive:
            return self._exclusive(embedding, seen)
        slopes, biases, doubts = [], [], []
        for problem in self.problems:
            found, _ = self._out_of_fold(embedding, seen, problem)
            for j, picked in enumerate(problem.picked):
                inside = found.codes == picked
                slope, bias = fit_alone(found.scores[:, j], inside)
                odds = slope * found.scores[:, j] + bias
                doubts.append(_spread(expit(np.where(inside, -odds, odds)), found.rows, len(embedding)))
                slopes.append(slope)
                biases.append(bias)
        made = Calibration(False, np.diag(slopes), np.array(biases), {})
        return Calibrated(made, doubts[0] if len(doubts) == 1 else None)

    def _exclusive(self, embedding: NDArray[np.floating], seen: Seen) -> Calibrated:
        problem = self.problems[0]
        found, folds = self._out_of_fold(embedding, seen, problem)
        order = np.array(problem.picked)
        codes = np.argsort(order)[found.codes]
        fit = np.isin(found.rows, taking_part(problem.codes, 0, _MOST))
        weights, bias = fit_exclusive(found.scores[fit], codes[fit])
        reach = {"embedding": Reach.of(embedding[found.rows[fit]], codes[fit], len(order), folds[fit])}
        whole = fit & ~np.isnan(found.scores).any(axis=1)
        if whole.any():
            reach["scores"] = Reach.of(found.scores[whole], codes[whole], len(order), folds[whole])
        # the coefficients, too, are those of the other folds
        doubt = np.full(len(codes), np.nan)
        for fold in np.unique(folds):
            here = folds == fold
            own = Calibration(True, *fit_exclusive(found.scores[fit & ~here], codes[fit & ~here]), {})
            doubt[here] = 1 - own.probability(_known(found.scores[here]))[np.arange(here.sum()), codes[here]]
        doubt[np.isnan(found.scores[np.arange(len(codes)), codes])] = np.nan
        return Calibrated(Calibration(True, weights, bias, reach), _spread(doubt, found.rows, len(embedding)))

    def _out_of_fold(
        self, embedding: NDArray[np.floating], seen: Seen, problem: Problem
    ) -> tuple[HeldOut, NDArray[np.intp]]:
        """Scores of the labelled spots, ``(n_labelled, len(picked))``, each made without the labels of its fold."""
        rows, folds = np.flatnonzero(problem.codes >= 0), dealt_folds(problem.codes, 0)
        part = taking_part(problem.codes, 0, _MOST)
        some = Seen(seen.latent[part], seen.usable, None if seen.around is None else seen.around.subset(part))
        of_some = embedding[part]
        scores = np.full((len(rows), len(problem.picked)), np.nan)
        for fold in np.unique(folds):
            here = folds == fold
            codes = problem.codes.copy()
            codes[rows[here]] = -1
            vectors = self._vectors(some, of_some, codes[part], problem)
            projected = embedding @ vectors.T.astype(embedding.dtype)
            scores[here] = (projected[rows[here]] - projected.mean(axis=0)) / np.maximum(projected.std(axis=0), 1e-12)
        return HeldOut(rows, problem.codes[rows], scores), folds

    def _vectors(
        self, seen: Seen, embedding: NDArray[np.floating], codes: NDArray[np.intp], problem: Problem
    ) -> NDArray[np.float64]:
        """``(len(picked), d)``, as concepts are defined; NaN where a class has no spot, or no other has one."""
        out = np.full((len(problem.picked), embedding.shape[1]), np.nan)
        there = np.unique(codes[codes >= 0])
        if len(there) < 2:
            return out
        at = {int(c): i for i, c in enumerate(there)}
        dense = np.where(codes >= 0, np.searchsorted(there, codes), -1)
        shares: NDArray[np.float64] | None = None
        if self.learn and self.estimator.takes_weights:
            shares = soft_labels(seen.latent, embedding, dense, len(there), around=seen.around).shares
        for row, picked in enumerate(problem.picked):
            if picked not in at:
                continue
            if shares is None:
                sides = dense == at[picked], (dense >= 0) & (dense != at[picked])
            else:
                sides = shares[:, at[picked]], shares.sum(axis=1) - shares[:, at[picked]]
            out[row] = self.estimator.function(embedding, *sides)
        return out


@dataclass(frozen=True)
class Calibrated:
    """What was found out of fold.

    Attributes
    ----------
    calibration
        Coefficients, kept with the concepts.
    disagreement
        1 - the probability of the label that a spot was given, float64 ``(n_usable,)``, NaN where there is none; `None`
        where several concepts overlap.
    """

    calibration: Calibration
    disagreement: NDArray[np.float64] | None


def _known(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A concept that could not be scored has the mean score."""
    return np.nan_to_num(scores)


def _spread(values: NDArray[np.float64], rows: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Values of some spots among all, NaN elsewhere."""
    out = np.full(n, np.nan)
    out[rows] = values
    return out
