"""Dutilleul's modified t-test: the degrees of freedom follow from the spatial autocorrelation of gene and target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri_exp
from scipy.stats import t

from st_concepts._counts.stream import Matrix, RowStream
from st_concepts.stats._association import AssociationResult
from st_concepts.stats._fdr import fdr_bh
from st_concepts.stats._graph import check_coords, section_codes
from st_concepts.stats._known import same_spots
from st_concepts.stats._tiles import balanced_tiles, tile_mean

# bytes of genes by units that are held at a time
_HELD = 128 * 2**20
# below this share of its sum of squares a variance is rounding
_CONSTANT = 1e-12
_LEAST_DF = 0.1


def dutilleul_test(
    X: Matrix | RowStream,
    targets: ArrayLike,
    coords: ArrayLike,
    *,
    sections: ArrayLike | None = None,
    n_classes: int = 13,
    exact_below: int = 2000,
    n_tiles: int = 800,
) -> AssociationResult:
    """Modified t-test of the correlation of every gene with every target (Dutilleul 1993).

    The variance of a correlation between two autocorrelated patterns is estimated from the autocovariance of *both* in
    classes of distance; its inverse is an effective number of spots. In contrast to `association_test` with
    ``moran_null``, nothing is assumed about the border of the tissue.

    Parameters
    ----------
    X
        Log-normalised expression ``(n_obs, n_vars)``, or a stream; held dense a few genes at a time.
    targets
        Scores or 0/1 labels, ``(n_obs, n_concepts)`` or ``(n_obs,)``; NaN for spots to leave out.
    coords
        Positions, ``(n_obs, 2)``.
    sections
        Section of each spot. Everything is centred within sections, only spots of one section are a pair, and the
        autocovariance is pooled.
    n_classes
        Classes of distance of equal width.
    exact_below, n_tiles
        Beyond so many spots of a concept, means of so many tiles of neighbouring spots are tested.

    Returns
    -------
    :class:`AssociationResult`; ``z`` is the normal quantile of the p-value, ``n_obs`` the spots of each concept. Genes
    or targets that do not vary within sections have p-value 1.

    Raises
    ------
    ValueError
        If shapes disagree, values are not finite, or a target has fewer than 3 spots.

    Notes
    -----
    ``var(r) = tr(B Sx B Sy) / (tr(B Sx) tr(B Sy))`` with the centring ``B`` and autocovariance matrices ``S`` that are
    constant within classes; ``n_eff = 1 + 1 / var(r)``, at most the number of spots, and ``r sqrt(n_eff - 2) /
    sqrt(1 - r^2)`` is referred to t with ``n_eff - 2`` degrees of freedom. Time grows with genes times the square of
    the spots; memory is 8 bytes for each pair of spots and 128 MiB of genes.

    References
    ----------
    Dutilleul 1993, Biometrics 49:305; Clifford, Richardson & Hémon 1989, Biometrics 45:123.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> xy, x = rng.random((60, 2)), rng.normal(size=(60, 4))
    >>> dutilleul_test(x, x[:, 2] + rng.normal(size=60), xy).pval[:, 0].argmin()
    np.int64(2)
    """
    stream = RowStream.of(X)
    n_obs, n_vars = stream.shape
    xy, codes = check_coords(coords), section_codes(sections, n_obs)
    y = np.asarray(targets, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) != n_obs or len(xy) != n_obs:
        raise ValueError(f"targets and coords must have {n_obs} rows, one per spot of X; got {y.shape} and {xy.shape}.")
    if np.isinf(y).any():
        raise ValueError("targets hold infinite values; use NaN for spots to leave out.")
    if n_classes < 1 or exact_below < 3 or n_tiles < 3:
        raise ValueError("n_classes must be at least 1, exact_below and n_tiles at least 3.")
    if stream.shared:
        raise ValueError("Several processes cannot share the rows of this test; run it in one.")
    known = ~np.isnan(y)
    out = {k: np.zeros((n_vars, y.shape[1])) for k in ("covariance", "correlation")} | {
        "n_eff": np.full((n_vars, y.shape[1]), 3.0)
    }
    for concepts in same_spots(known):
        keep = np.flatnonzero(known[:, concepts[0]])
        if len(keep) < 3:
            raise ValueError(f"Target {concepts[0]} has {len(keep)} spots that are not NaN; at least 3 are needed.")
        units = _Units.of(xy[keep], codes[keep], exact_below, n_tiles)
        pairs = Pairs.of(units.coords, units.sections, n_classes)
        target = pairs.centred(units.average @ y[np.ix_(keep, concepts)])
        step = max(_HELD // (8 * len(units.coords)), 1)
        for first in range(0, n_vars, step):
            genes = slice(first, min(first + step, n_vars))
            found = pairs.correlate(pairs.centred(_read(stream, keep, units.average, genes)), target)
            for name, values in found.items():
                out[name][genes, concepts] = values
    return _result(out, known)


@dataclass(frozen=True)
class _Units:
    """Spots, or tiles of them."""

    coords: NDArray[np.float64]
    sections: NDArray[np.intp]
    average: sp.csr_array  # (n_units, n_spots)

    @classmethod
    def of(cls, xy: NDArray[np.float64], codes: NDArray[np.intp], exact_below: int, n_tiles: int) -> _Units:
        if len(xy) <= exact_below:
            return cls(xy, codes, sp.eye_array(len(xy), format="csr"))
        _, codes, size = np.unique(codes, return_inverse=True, return_counts=True)
        number = np.maximum(size * n_tiles // len(xy), 1)
        average = tile_mean(balanced_tiles(xy, number, codes))
        return cls(average @ xy, np.repeat(np.arange(len(size)), number), average)


@dataclass(frozen=True)
class Pairs:
    """Pairs of spots of one section by class of distance, and the traces that the variance is made of.

    Attributes
    ----------
    sections
        Section of each spot.
    members
        For each class, 0 of which is a spot with itself, the symmetric matrix of its pairs, CSR ``(n, n)``.
    count
        Ordered pairs of each class.
    trace, trace2
        ``tr(B M_k)`` and ``tr(B M_k B M_l)``.
    """

    sections: NDArray[np.intp]
    members: tuple[sp.csr_array, ...]
    count: NDArray[np.float64]
    trace: NDArray[np.float64]
    trace2: NDArray[np.float64]

    @classmethod
    def of(cls, xy: NDArray[np.float64], sections: NDArray[np.intp], n_classes: int) -> Pairs:
        """Classes of equal width up to the largest distance."""
        n = len(xy)
        rows, cols, distance = [], [], []
        for code in np.unique(sections):
            own = np.flatnonzero(sections == code)
            i, j = (own[v] for v in np.triu_indices(len(own), 1))
            rows.append(i)
            cols.append(j)
            distance.append(np.linalg.norm(xy[i] - xy[j], axis=1))
        i, j, d = (np.concatenate(v) for v in (rows, cols, distance))
        width = d.max(initial=0.0) / n_classes or 1.0
        which = np.clip(np.ceil(d / width * (1 - 1e-12)).astype(np.intp), 1, n_classes)
        members = [sp.eye_array(n, format="csr")]
        for k in range(1, n_classes + 1):
            own = which == k
            half = sp.coo_array((np.ones(own.sum()), (i[own], j[own])), shape=(n, n))
            members.append(sp.csr_array(half + half.T))
        members = [m for m in members if m.nnz]
        degree = np.stack([m.sum(axis=1) for m in members], axis=1)
        count = degree.sum(axis=0)
        trace, trace2 = np.r_[float(n), np.zeros(len(members) - 1)], np.diag(count)
        for code in np.unique(sections):
            own = degree[sections == code]
            size, total = len(own), own.sum(axis=0)
            trace = trace - total / size
            trace2 = trace2 - 2 * own.T @ own / size + np.outer(total, total) / size**2
        return cls(sections, tuple(members), count, trace, trace2)

    def centred(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Less the section means; a column that does not vary becomes zero."""
        out = values.astype(np.float64)
        for code in np.unique(self.sections):
            own = self.sections == code
            out[own] -= out[own].mean(axis=0)
        out[:, (out**2).sum(axis=0) <= _CONSTANT * (values**2).sum(axis=0)] = 0.0
        return out

    def autocovariance(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean product of the pairs of each class, ``(n_classes + 1, m)``, of centred values."""
        products = [np.einsum("nm,nm->m", values, m @ values) for m in self.members]
        return np.stack(products) / self.count[:, None]

    def correlate(self, genes: NDArray[np.float64], target: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Covariance, correlation and effective number of spots, ``(m, n_concepts)``."""
        n = len(genes)
        cross = genes.T @ target
        scale = np.sqrt(np.outer((genes**2).sum(axis=0), (target**2).sum(axis=0)))
        a, b = self.autocovariance(genes), self.autocovariance(target)
        joint = a.T @ self.trace2 @ b
        alone = np.outer(self.trace @ a, self.trace @ b)
        # estimates of a covariance matrix need not be one; then as if independent
        variance = np.divide(joint, alone, out=np.zeros_like(joint), where=alone > 0)
        effective = 1 + 1 / np.maximum(variance, 1 / (n - 1))
        r = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0).clip(-1, 1)
        return {"covariance": cross / n, "correlation": r, "n_eff": effective}


def _read(stream: RowStream, keep: NDArray[np.intp], average: sp.csr_array, genes: slice) -> NDArray[np.float64]:
    """Means of some genes over the units, dense ``(n_units, m)``."""
    out = np.zeros((average.shape[0], genes.stop - genes.start))
    columns = sp.csc_array(average)
    for rows, block in stream.read():
        first, last = np.searchsorted(keep, [rows.start, rows.stop])
        if first < last:
            part = sp.csr_array(block[keep[first:last] - rows.start][:, genes]).astype(np.float64)
            if not np.isfinite(part.data).all():
                raise ValueError("X holds NaN or infinite values; pass log-normalised counts.")
            out += (columns[:, first:last] @ part).toarray()
    if stream.outer is not None:
        a, b = stream.outer
        out -= np.outer(average @ a[keep], b[genes])
    return out


def _result(out: dict[str, NDArray[np.float64]], known: NDArray[np.bool_]) -> AssociationResult:
    r, df = out["correlation"], np.maximum(out["n_eff"] - 2, _LEAST_DF)
    with np.errstate(divide="ignore"):
        log_tail = t.logsf(np.abs(r) * np.sqrt(df / np.maximum(1 - r**2, 0.0)), df)
    z = np.where(r == 0, 0.0, -np.sign(r) * ndtri_exp(np.maximum(log_tail, -1e300)))
    tail = np.exp(log_tail)
    pval = np.where(r == 0, 1.0, np.minimum(2 * tail, 1.0))
    return AssociationResult(
        covariance=out["covariance"],
        correlation=r,
        z=z,
        pval=pval,
        pval_greater=np.where(r == 0, 1.0, np.where(r > 0, tail, 1 - tail)),
        qval=fdr_bh(pval, axis=0) if len(pval) else pval,
        qval_all=fdr_bh(pval),
        pval_empirical=None,
        n_obs=known.sum(axis=0),
        null="dutilleul",
        n_null=0,
    )
