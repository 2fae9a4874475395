"""Statistics of genes against targets, from sums over spots that one pass over the rows gathers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from st_concepts._counts.stream import RowStream
from st_concepts._distributed import all_reduce, rank, size
from st_concepts.stats._null import Counter, Hits, NullModel
from st_concepts.stats._permutation import PermutationNull
from st_concepts.stats._sums import Sums, accumulate
from st_concepts.stats._tails import Shuffled

# bytes that nulls may gather of the genes at a time; beyond, the stream is read again for further genes
GATHERED_BYTES = 512 * 2**20
# entries of a dense block of genes: 128 MiB in float64
BLOCK_ENTRIES = 2**24
# below this share of its sum of squares a gene's or target's variance is rounding
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Target:
    """The targets of spots that are all known, and what the null model makes of them."""

    null: NullModel
    n_obs: int
    y_spot: NDArray[np.float64]  # centred within sections, ordered by section
    coef: NDArray[np.float64]
    y_blocks: NDArray[np.float64]
    varies: NDArray[np.bool_]
    scale: NDArray[np.float64]
    own: NDArray[np.float64] | None
    concepts: NDArray[np.intp]
    df: int

    @classmethod
    def of(
        cls, y: NDArray[np.float64], null: NullModel, own: NDArray[np.float64] | None, concepts: NDArray[np.intp]
    ) -> Target:
        spots = PermutationNull(null.sections)
        y_spot = spots.project(_standardised(y))
        varies = (y_spot**2).sum(axis=0) > _CONSTANT * len(y)
        y_spot[:, ~varies] = 0.0
        coef = null.coefficients_of(_standardised(y), y_spot) * varies
        y_blocks = null.block_sums(coef**2)
        df = len(y) - len(spots.dims) - 1
        return cls(null, len(y), y_spot, coef, y_blocks, varies, y.std(axis=0), own, concepts, df)

    @property
    def order(self) -> NDArray[np.intp]:
        """Spots by section, as in ``y_spot``."""
        return PermutationNull(self.null.sections).order

    @property
    def y(self) -> NDArray[np.float64]:
        """``y_spot`` in the order of the spots."""
        out = np.empty_like(self.y_spot)
        out[self.order] = self.y_spot
        return out


@dataclass(frozen=True)
class Job:
    """Targets of one group of spots, and where their statistics go.

    Attributes
    ----------
    target
        The targets.
    keep
        Positions of their spots among all, ascending.
    out, empirical
        Arrays ``(n_vars, n_concepts)`` that are filled in the columns of the targets.
    """

    target: Target
    keep: NDArray[np.intp]
    out: dict[str, NDArray[np.float64]]
    empirical: NDArray[np.float64] | None


@dataclass(frozen=True)
class Genes:
    """What the statistics of a range of genes are made of: sums over spots, and over the blocks of the null."""

    genes: slice
    cross: NDArray[np.float64]  # (n_concepts, m)
    ss: NDArray[np.float64]
    varies: NDArray[np.bool_]
    b_blocks: NDArray[np.float64]  # (n_blocks, m)
    inner: NDArray[np.float64]  # (n_concepts, m)
    cross_blocks: Callable[[int], NDArray[np.float64]]  # of a concept, (n_blocks, m)
    shuffled: Shuffled | None = None  # where a skewed tail is wanted

    @classmethod
    def from_coefficients(
        cls,
        genes: slice,
        target: Target,
        cross: NDArray[np.float64],
        ss: NDArray[np.float64],
        total: NDArray[np.float64],
        b: NDArray[np.float64],
        shuffled: Shuffled | None = None,
    ) -> Genes:
        """From the coefficients ``b`` ``(n_coef, m)`` of the genes; rounding is relative to ``total``."""
        varies = ss > _CONSTANT * total
        b[:, ~varies] = 0.0
        coef, null = target.coef, target.null
        inner = coef.T @ b
        blocks = null.block_sums(b**2)
        return cls(genes, cross, ss, varies, blocks, inner, lambda j: null.block_sums(coef[:, j : j + 1] * b), shuffled)

    @classmethod
    def from_sums(cls, genes: slice, moments: Sums, shuffled: Shuffled | None = None) -> Genes:
        """For a null whose blocks are the sections."""
        blocks = moments.centred_squares
        ss = blocks.sum(axis=0)
        varies = ss > _CONSTANT * moments.magnitude
        cross = moments.cross.transpose(2, 0, 1) * varies
        total = cross.sum(axis=1)
        return cls(genes, total, ss, varies, blocks * varies, total, lambda j: cross[j], shuffled)


def fill(
    target: Target,
    part: Genes,
    n_null: int,
    hits: Hits | None,
    out: dict[str, NDArray[np.float64]],
    empirical: NDArray[np.float64] | None,
) -> None:
    """Statistics of a range of genes. ``hits`` counts the null copies of a target that reach a limit."""
    genes, ss, b_blocks, dims = part.genes, part.ss, part.b_blocks, target.null.dims[:, None]
    for j, concept in enumerate(target.concepts):
        rest = np.full(len(ss), (target.y_spot[:, j] ** 2).sum())
        cov, num, a_blocks = part.cross[j], part.inner[j], target.y_blocks[:, j : j + 1]
        if target.own is not None and target.scale[j] > 0:
            w = target.own[genes, j] / target.scale[j]
            rest = np.maximum(rest - 2 * w * cov + w**2 * ss, 0.0)
            cov = cov - w * ss
            a_blocks = np.maximum(a_blocks - 2 * w * part.cross_blocks(j) + w**2 * b_blocks, 0.0)
            num = num - w * b_blocks.sum(axis=0)
        live = part.varies & target.varies[j] & (rest > _CONSTANT * target.n_obs)
        sd = np.sqrt((a_blocks * b_blocks / dims).sum(axis=0))
        out["covariance"][genes, concept] = np.where(live, cov, 0.0) * target.scale[j] / target.n_obs
        out["correlation"][genes, concept] = _ratio(cov, np.sqrt(rest * ss), live).clip(-1.0, 1.0)
        z = out["z"][genes, concept] = _ratio(num, sd, live)
        out["df"][genes, concept] = target.df
        if part.shuffled is not None:
            # a gene that lies like the target has a wide null, and its z a bound: less skewness is left of it
            total = a_blocks.sum(axis=0) * b_blocks.sum(axis=0)
            narrow = _ratio(np.sqrt(total * part.shuffled.variance[j]), sd, live)
            out["skewness"][genes, concept] = part.shuffled.skewness[j] * narrow
        if empirical is not None and hits is not None:
            null_sd = np.sqrt((target.y_blocks[:, j : j + 1] * b_blocks / dims).sum(axis=0))
            # copies are drawn of the whole target; in units of its null they serve the target less a gene as well
            limit = (np.abs(z) * null_sd * (1 - 1e-6)).astype(np.float32)
            empirical[genes, concept] = np.where(live & (sd > 0), (1.0 + hits(j, limit)) / (1.0 + n_null), 1.0)


def run(X: RowStream, jobs: Sequence[Job], n_null: int, rng: np.random.Generator) -> None:
    """Fill the arrays of several groups of spots at once, in one pass where memory allows."""
    nulls = [job.target.null for job in jobs]
    counters = [null.counter(job, X, n_null, rng) if n_null else None for null, job in zip(nulls, jobs, strict=True)]
    todo = [(i, genes) for i, null in enumerate(nulls) for genes in _gene_ranges(null, X.shape[1])]
    while todo:
        # groups that take the same range of genes share a pass as far as what they gather fits into memory
        genes, room = todo[0][1], GATHERED_BYTES
        now: list[int] = []
        for i, wanted in list(todo):
            need = nulls[i].bytes_a_gene * (genes.stop - genes.start)
            if wanted == genes and (not now or need <= room):
                room -= need
                now.append(i)
                todo.remove((i, wanted))
        n_genes = genes.stop - genes.start
        found = {i: nulls[i].sums(jobs[i].target.y, jobs[i].keep, n_genes) for i in now}
        for i in now:
            if "skewness" in jobs[i].out:
                found[i].gather_cubes()
        accumulate(X, found.values(), genes)
        for i in now:
            _fill_range(jobs[i], found.pop(i), genes, n_null, counters[i], shared=X.shared)


def _gene_ranges(null: NullModel, n_vars: int) -> list[slice]:
    """Ranges of genes of which a null gathers no more than memory allows."""
    step = max(GATHERED_BYTES // null.bytes_a_gene, 1) if null.bytes_a_gene else n_vars
    return [slice(g, min(g + step, n_vars)) for g in range(0, n_vars, max(step, 1))]


def _fill_range(job: Job, sums: Sums, genes: slice, n_null: int, counter: Counter | None, *, shared: bool) -> None:
    """Statistics of a range of genes; processes share those with coefficients among them."""
    target, n_genes = job.target, genes.stop - genes.start
    skewed = "skewness" in job.out
    if sums.coefficients(slice(0, 0)) is None:
        part = Genes.from_sums(genes, sums, sums.shuffled(slice(0, n_genes)) if skewed else None)
        hits = None if counter is None else counter.hits(None, part.varies)
        fill(target, part, n_null, hits, job.out, job.empirical)
        return
    step = max(min(BLOCK_ENTRIES // max(len(target.coef), 1), -(-n_genes // (size() if shared else 1))), 1)
    parts = [slice(a, min(a + step, n_genes)) for a in range(0, n_genes, step)]
    cross, total = sums.cross.sum(axis=0).T, sums.magnitude
    ss = sums.centred_squares.sum(axis=0)
    written = [*job.out.values(), *([] if job.empirical is None else [job.empirical])]
    for number, local in enumerate(parts):
        at = slice(genes.start + local.start, genes.start + local.stop)
        if shared and number % size() != rank():
            for values in written:  # the process whose part it is knows them
                values[at, target.concepts] = 0.0
            continue
        b = sums.coefficients_of_genes(local, target.null.project)
        if b is None:
            raise ValueError(f"{type(sums).__name__} gives coefficients of some genes, but none of others.")
        shuffled = sums.shuffled(local) if skewed else None
        part = Genes.from_coefficients(at, target, cross[:, local], ss[local], total[local], b, shuffled)
        hits = None if counter is None else counter.hits(b, part.varies)
        fill(target, part, n_null, hits, job.out, job.empirical)
    if shared:
        for values, known in zip(written, all_reduce(*(v[genes, target.concepts] for v in written)), strict=True):
            values[genes, target.concepts] = known


def _standardised(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0, standard deviation 1 over the spots, so that thresholds do not depend on the target's units."""
    sd = y.std(axis=0)
    return (y - y.mean(axis=0)) / np.where(sd > _CONSTANT * np.abs(y).max(axis=0, initial=0.0), sd, np.inf)


def _ratio(num: NDArray, den: NDArray, live: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.divide(num, den, out=np.zeros_like(den), where=live & (den > 0))
