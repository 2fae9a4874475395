"""Association of every gene with every concept, tested against a null model of the concept's target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri_exp
from scipy.stats import norm, t

from st_concepts.stats._fdr import fdr_bh
from st_concepts.stats._null import Matrix, NullModel, PermutationNull, permutation_null

# entries of a dense block of genes: 128 MiB in float64
_BLOCK_ENTRIES = 2**24
# below this share of its sum of squares a gene's or target's variance is rounding
_CONSTANT = 1e-12


@dataclass(frozen=True)
class AssociationResult:
    """Association of ``n_vars`` genes with ``n_concepts`` targets. Arrays are float64 ``(n_vars, n_concepts)``.

    Attributes
    ----------
    covariance
        Mean over spots of the product of gene and target, both centred within sections (the pattern of Haufe 2014), in
        units of the gene times units of the target. Less the gene's own share if ``own_weights`` were given.
    correlation
        ``covariance`` over the standard deviations of gene and (remaining) target within sections.
    z
        Statistic over its null standard deviation (on tiles where the null is tiled).
    pval, pval_greater
        Two-sided p-value, and one-sided for positive association.
    qval, qval_all
        Benjamini-Hochberg over the genes of a concept, and over all genes and concepts, of ``pval``.
    pval_empirical
        ``(1 + k) / (1 + n_null)``, with ``k`` null copies of the target at least as extreme as the target (two-sided);
        ``None`` if ``n_null=0``.
    n_obs
        Spots used per concept, intp, shape ``(n_concepts,)``.
    null
        Name of the null model.
    n_null
        Number of null copies drawn.
    """

    covariance: NDArray[np.float64]
    correlation: NDArray[np.float64]
    z: NDArray[np.float64]
    pval: NDArray[np.float64]
    pval_greater: NDArray[np.float64]
    qval: NDArray[np.float64]
    qval_all: NDArray[np.float64]
    pval_empirical: NDArray[np.float64] | None
    n_obs: NDArray[np.intp]
    null: str
    n_null: int


def association_test(
    X: Matrix,
    targets: ArrayLike,
    null: NullModel | Literal["none"],
    *,
    sections: ArrayLike | None = None,
    n_null: int = 1000,
    own_weights: ArrayLike | None = None,
    seed: int | np.random.Generator = 0,
) -> AssociationResult:
    """Test the association of every gene with every target.

    Parameters
    ----------
    X
        Log-normalised expression, ``(n_obs, n_vars)``, dense, CSR or CSC. Never made dense as a whole.
    targets
        Concept scores, or 0/1 labels, ``(n_obs, n_concepts)`` or ``(n_obs,)``. Spots where a target is NaN are left out
        for that concept, and the null is built anew for the others.
    null
        :func:`moran_null` (recommended) or :func:`permutation_null`; ``"none"`` for the t-test of a correlation between
        independent spots.
    sections
        Section of each spot, only for ``null="none"`` (the null models carry their own). Genes and targets are centred
        within sections.
    n_null
        Null copies for ``pval_empirical``; 0 to skip them. The other p-values do not need them.
    own_weights
        ``(n_vars, n_concepts)``: how much a target changes per unit of a gene, where the target is a score computed
        from ``X`` itself (the weights of a linear score, or the mean gradient). Each gene is then tested against the
        target less that gene's own term, ``target - weight * gene``. Without this, a gene correlates with a score
        because it is a part of it: in simulations of 260 spots, 8-9% of iid genes had p < 0.05 against a discriminant
        on principal components of the same data, and 6-7% with this correction.
    seed
        Seed or generator of the null copies.

    Returns
    -------
    :class:`AssociationResult`. Genes or targets that do not vary within sections have statistic 0 and p-value 1.

    Raises
    ------
    ValueError
        If shapes disagree, X or the targets hold infinite values, X holds NaN, or a target has fewer than 3 spots.

    Notes
    -----
    The p-values refer ``z = statistic / sd`` to the normal distribution, with the closed-form standard deviation of the
    statistic over the null (see :class:`NullModel`), so they have no lower limit like the ``1 / (1 + n_null)`` of
    counting, which false discovery control over thousands of genes could not use. The statistic's distribution over
    Moran surrogates has lighter tails than the normal, the more so the smoother the target: counted p-values of 0.05
    are 0.05-0.06 by the normal tail for most labels (0.1 for the smoothest target tried), those of 0.001 can be many
    times larger. This is on purpose. Surrogates are exact only if a gene's coefficients within a band are exchangeable,
    which holds roughly; with tails that follow the kurtosis of the surrogates, lists at BH 5% held 6-12% false genes in
    simulations, with the normal tail 3-4%.

    Sections are pooled: covariances within sections are added up.

    References
    ----------
    Haufe et al. 2014, NeuroImage 87:96; Wagner & Dray 2015, Methods Ecol. Evol. 6:1169.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 5))
    >>> result = association_test(X, X[:, 0] + rng.normal(size=100), permutation_null(100), n_null=99)
    >>> int(result.z[:, 0].argmax())
    0
    """
    X = _check_expression(X)
    n_obs, n_vars = X.shape
    y = np.asarray(targets, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) != n_obs:
        raise ValueError(f"targets must have {n_obs} rows, one per spot of X; got shape {y.shape}.")
    if np.isinf(y).any():
        raise ValueError("targets hold infinite values; use NaN for spots to leave out.")
    if n_null < 0:
        raise ValueError(f"n_null must not be negative; got {n_null}.")
    parametric = isinstance(null, str)
    if parametric:
        if null != "none":
            raise ValueError(f"null must be a null model or 'none'; got {null!r}. See moran_null and permutation_null.")
        null, n_null = permutation_null(n_obs, sections), 0
    elif sections is not None:
        raise ValueError("sections belong to the null model; give them to moran_null or permutation_null.")
    if null.n_obs != n_obs:
        raise ValueError(f"The null model was built for {null.n_obs} spots, X has {n_obs}.")
    own = _check_weights(own_weights, (n_vars, y.shape[1]))

    rng = np.random.default_rng(seed)
    known = ~np.isnan(y)
    out = {k: np.zeros((n_vars, y.shape[1])) for k in ("covariance", "correlation", "z", "df")}
    empirical = np.ones((n_vars, y.shape[1])) if n_null else None
    for concepts in _same_spots(known):
        keep = known[:, concepts[0]]
        if keep.sum() < 3:
            raise ValueError(f"Target {concepts[0]} has {keep.sum()} spots that are not NaN; at least 3 are needed.")
        part, part_X = (null, X) if keep.all() else (null.subset(keep), X[keep])
        weights = None if own is None else own[:, concepts]
        _test(part_X, y[np.ix_(keep, concepts)], part, weights, n_null, rng, out, empirical, concepts)

    if parametric:
        pval, greater, z = _t_test(out["correlation"], out["df"])
    else:
        z = out["z"]
        pval, greater = 2 * norm.sf(np.abs(z)), norm.sf(z)
    flat = z == 0
    pval, greater = np.where(flat, 1.0, pval), np.where(flat & (out["correlation"] == 0), 1.0, greater)
    return AssociationResult(
        covariance=out["covariance"],
        correlation=out["correlation"],
        z=z,
        pval=pval,
        pval_greater=greater,
        qval=fdr_bh(pval, axis=0) if n_vars else pval,
        qval_all=fdr_bh(pval),
        pval_empirical=empirical,
        n_obs=known.sum(axis=0),
        null="none" if parametric else null.name,
        n_null=n_null,
    )


def _test(
    X: Matrix,
    y: NDArray[np.float64],
    null: NullModel,
    own: NDArray[np.float64] | None,
    n_null: int,
    rng: np.random.Generator,
    out: dict[str, NDArray[np.float64]],
    empirical: NDArray[np.float64] | None,
    concepts: NDArray[np.intp],
) -> None:
    """Fill ``out`` and ``empirical`` for the targets ``y`` (no NaN), the columns ``concepts``."""
    spots = PermutationNull(null.sections)
    # the projection of a shuffle is no more than the centred values, which the spot-level statistic needs anyway
    same = isinstance(null, PermutationNull)
    y_spot = spots.project(_standardised(y))
    varies = (y_spot**2).sum(axis=0) > _CONSTANT * len(y)
    scale = y.std(axis=0)
    y_spot[:, ~varies] = 0.0
    coef = y_spot if same else null.project(_standardised(y)) * varies
    copies = [null.draw(coef[:, j], n_null, rng).astype(np.float32) if n_null else None for j in range(y.shape[1])]
    dims = null.dims[:, None]
    y_blocks = null.block_sums(coef**2)
    df = len(y) - len(spots.dims) - 1
    for genes, block in _gene_blocks(X, max(len(coef), len(y) if not sp.issparse(X) or same else 1)):
        stat, ss = _spot_statistics(block, y_spot, spots)
        gene_varies = ss > _CONSTANT * _sum_of_squares(block)
        b = null.project(block)
        b[:, ~gene_varies] = 0.0
        b_blocks = null.block_sums(b**2)
        inner = coef.T @ b
        for j, concept in enumerate(concepts):
            rest = np.full(len(ss), (y_spot[:, j] ** 2).sum())
            cov, num, a_blocks = stat[j], inner[j], y_blocks[:, j : j + 1]
            if own is not None and scale[j] > 0:
                w = own[genes, j] / scale[j]
                rest = np.maximum(rest - 2 * w * cov + w**2 * ss, 0.0)
                cov = cov - w * ss
                a_blocks = np.maximum(a_blocks - 2 * w * null.block_sums(coef[:, j : j + 1] * b) + w**2 * b_blocks, 0.0)
                num = num - w * b_blocks.sum(axis=0)
            live = gene_varies & varies[j] & (rest > _CONSTANT * len(y))
            sd = np.sqrt((a_blocks * b_blocks / dims).sum(axis=0))
            out["covariance"][genes, concept] = np.where(live, cov, 0.0) * scale[j] / len(y)
            out["correlation"][genes, concept] = _ratio(cov, np.sqrt(rest * ss), live).clip(-1.0, 1.0)
            z = out["z"][genes, concept] = _ratio(num, sd, live)
            out["df"][genes, concept] = df
            if empirical is not None:
                null_sd = np.sqrt((y_blocks[:, j : j + 1] * b_blocks / dims).sum(axis=0))
                # copies are drawn of the whole target; in units of its null they serve the target less a gene as well
                limit = (np.abs(z) * null_sd * (1 - 1e-6)).astype(np.float32)
                hits = (np.abs(copies[j] @ b.astype(np.float32)) >= limit).sum(axis=0)
                empirical[genes, concept] = np.where(live & (sd > 0), (1.0 + hits) / (1.0 + n_null), 1.0)


def _spot_statistics(
    block: Matrix, y_spot: NDArray[np.float64], spots: PermutationNull
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Within-section cross products ``(n_concepts, m)`` with the centred targets, and sums of squares ``(m,)``.

    ``y_spot`` is ordered by section, as ``spots.project`` returns it.
    """
    order, code = spots.order, spots.blocks
    y = np.empty_like(y_spot)
    y[order] = y_spot
    cross = np.asarray((block.T @ y).T)
    present, code = np.unique(code, return_inverse=True)
    member = sp.csr_array((np.ones(len(order)), (code, order)), shape=(len(present), len(order)))
    sums = member @ block
    sums = sums.toarray() if sp.issparse(sums) else sums
    ss = _sum_of_squares(block) - (sums**2 / np.bincount(code)[:, None]).sum(axis=0)
    return cross, np.maximum(ss, 0.0)


def _sum_of_squares(block: Matrix) -> NDArray[np.float64]:
    if sp.issparse(block):
        return np.asarray(block.multiply(block).sum(axis=0)).ravel()
    return np.einsum("ij,ij->j", block, block)


def _gene_blocks(X: Matrix, n_rows: int) -> Iterator[tuple[slice, Matrix]]:
    size = max(_BLOCK_ENTRIES // max(n_rows, 1), 1)
    if sp.issparse(X):
        X = sp.csc_array(X)
    for start in range(0, X.shape[1], size):
        genes = slice(start, min(start + size, X.shape[1]))
        yield genes, X[:, genes].astype(np.float64)


def _same_spots(known: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Concepts grouped by the spots they are known for."""
    if known.shape[1] == 0:
        return []
    _, group = np.unique(known, axis=1, return_inverse=True)
    group = group.ravel()
    return [np.flatnonzero(group == g) for g in range(group.max() + 1)]


def _standardised(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0, standard deviation 1 over the spots, so that thresholds do not depend on the target's units."""
    sd = y.std(axis=0)
    return (y - y.mean(axis=0)) / np.where(sd > _CONSTANT * np.abs(y).max(axis=0, initial=0.0), sd, np.inf)


def _ratio(num: NDArray, den: NDArray, live: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.divide(num, den, out=np.zeros_like(den), where=live & (den > 0))


def _t_test(r: NDArray[np.float64], df: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Two-sided and upper p-value of a correlation between independent spots, and the normal quantile of the latter."""
    with np.errstate(divide="ignore"):
        stat = r * np.sqrt(np.maximum(df, 1.0) / np.maximum(1 - r**2, 0.0))
    log_tail = t.logsf(np.abs(stat), np.maximum(df, 1.0))
    z = np.where(r == 0, 0.0, -np.sign(r) * ndtri_exp(np.maximum(log_tail, -1e300)))
    tail = np.exp(log_tail)
    return np.minimum(2 * tail, 1.0), np.where(r > 0, tail, 1 - tail), z


def _check_expression(X: Matrix) -> Matrix:
    if sp.issparse(X):
        X = X if X.format in ("csr", "csc") else X.tocsr()
        values = X.data
    else:
        X = values = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X must have shape (n_obs, n_vars); got {X.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("X holds NaN or infinite values; pass log-normalised counts (spots without counts as zeros).")
    return X


def _check_weights(own: ArrayLike | None, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    if own is None:
        return None
    w = np.asarray(own, dtype=np.float64)
    w = w[:, None] if w.ndim == 1 else w
    if w.shape != shape or not np.isfinite(w).all():
        raise ValueError(f"own_weights must be finite with shape {shape} (genes x concepts); got {w.shape}.")
    return w
