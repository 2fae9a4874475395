"""Agreement of an association between sections (replicates)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from st_concepts._counts.stream import Matrix, RowStream
from st_concepts.stats._association import AssociationResult, Plan
from st_concepts.stats._fdr import fdr_bh
from st_concepts.stats._null import NullModel
from st_concepts.stats._statistics import Job, run


@dataclass(frozen=True)
class CombinedResult:
    """Association combined over sections. Arrays ``(n_vars, n_concepts)``.

    Attributes
    ----------
    z
        Combined z of Stouffer, float64; NaN where no section has one.
    pval, pval_greater, qval
        Two-sided and one-sided p-value, and BH of the first within a concept.
    n_sections
        Sections that took part, intp.
    sign_consistency
        Share of these in which the association has the sign of the combined one, float64.
    """

    z: NDArray[np.float64]
    pval: NDArray[np.float64]
    pval_greater: NDArray[np.float64]
    qval: NDArray[np.float64]
    n_sections: NDArray[np.intp]
    sign_consistency: NDArray[np.float64]


def combine_sections(z: ArrayLike, weights: ArrayLike | None = None) -> CombinedResult:
    """Combine z-scores of independent sections, ``sum(w z) / sqrt(sum(w^2))`` (Stouffer).

    ``z`` is ``(n_sections, n_vars, n_concepts)``; NaN where a section has no test (it is then left out). Weights are
    positive, by default equal.

    Examples
    --------
    >>> import numpy as np
    >>> float(combine_sections(np.full((4, 1, 1), 1.0)).z[0, 0])
    2.0
    """
    values = np.asarray(z, dtype=np.float64)
    if values.ndim != 3 or len(values) == 0:
        raise ValueError(f"z must have shape (n_sections, n_vars, n_concepts), n_sections > 0; got {values.shape}.")
    if np.isinf(values).any():
        raise ValueError("z holds infinite values; leave a test out with NaN.")
    w = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(values),) or not (np.isfinite(w) & (w > 0)).all():
        raise ValueError(f"weights must be positive with shape ({len(values)},), one per section; got {w.shape}.")
    known = ~np.isnan(values)
    n = known.sum(axis=0)
    w = np.broadcast_to(w[:, None, None], values.shape)
    norm2 = (w**2 * known).sum(axis=0)
    total = (w * np.where(known, values, 0.0)).sum(axis=0)
    combined = np.divide(total, np.sqrt(norm2), out=np.full(total.shape, np.nan), where=n > 0)
    agree = (known & (np.sign(values) == np.sign(combined))).sum(axis=0)
    pval = 2 * norm.sf(np.abs(combined))
    return CombinedResult(
        z=combined,
        pval=pval,
        pval_greater=norm.sf(combined),
        qval=fdr_bh(pval, axis=0) if pval.size else pval,
        n_sections=n,
        sign_consistency=np.divide(agree, n, out=np.full(total.shape, np.nan), where=n > 0),
    )


def association_by_section(
    X: Matrix | RowStream,
    targets: ArrayLike,
    null: NullModel,
    *,
    n_null: int = 0,
    own_weights: ArrayLike | None = None,
    seed: int | np.random.Generator = 0,
) -> tuple[dict[int, AssociationResult], CombinedResult]:
    """Test each section on its own, by `association_test`, and combine; sections are the codes of ``null``.

    A section where a target has fewer than 3 known spots, or does not vary, does not take part for that concept. Gives
    results by section code (only sections with a target to test), and their combination, weighted by the square root of
    the number of spots; z of concepts that could not be tested is NaN there.
    """
    y = np.asarray(targets, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if len(y) != null.n_obs or X.shape[0] != null.n_obs:
        raise ValueError(f"The null model has {null.n_obs} spots, X has {X.shape[0]} and targets have {len(y)}.")
    stream = RowStream.of(X)
    plans: dict[int, Plan] = {}
    jobs: list[Job] = []
    usable_in, weights = {}, []
    for code in np.unique(null.sections).tolist():
        rows = null.sections == code
        y_part = y[rows]
        usable = np.array([_can_test(column) for column in y_part.T], dtype=bool)
        if not usable.any():
            continue
        y_part = np.where(usable, y_part, y_part[:, [int(usable.argmax())]])
        shape, part = (len(y_part), stream.shape[1]), null.subset(rows)
        plans[code] = Plan(shape, y_part, part, sections=None, n_null=n_null, own_weights=own_weights)
        where = np.flatnonzero(rows)  # jobs know the spots of their section only
        jobs += [replace(job, keep=where[job.keep]) for job in plans[code].jobs]
        usable_in[code] = usable
        weights.append(np.sqrt(rows.sum()))
    if not usable_in:
        raise ValueError("No section has a target that varies over at least 3 spots.")
    run(stream, jobs, n_null, np.random.default_rng(seed))
    results = {code: plan.result() for code, plan in plans.items()}
    stack = [np.where(usable, results[code].z, np.nan) for code, usable in usable_in.items()]
    return results, combine_sections(np.stack(stack), weights)


def _can_test(column: NDArray[np.float64]) -> bool:
    known = column[~np.isnan(column)]
    return len(known) >= 3 and bool(np.ptp(known) > 0)
