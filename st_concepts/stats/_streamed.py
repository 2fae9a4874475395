"""The association test of a stream of rows: sums in one pass, then the same statistics as for a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from st_concepts._distributed import all_sum, rank, size
from st_concepts.stats._moran import MoranNull
from st_concepts.stats._null import PermutationNull
from st_concepts.stats._statistics import BLOCK_ENTRIES, Genes, Hits, Target, counted, fill
from st_concepts.stats._sums import UNIT_BYTES, Moments, RowStream, accumulate, gene_ranges

# entries of shuffled copies that meet the rows at a time: 256 MiB in float64
_COPY_ENTRIES = 2**25


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


def run_stream(X: RowStream, jobs: Sequence[Job], n_null: int, rng: np.random.Generator) -> None:
    """As `run_matrix` for several groups of spots at once, in one pass where memory allows."""
    # drawn in the order in which a matrix is tested, so that the copies are the same
    drawn = [
        []
        if not n_null or isinstance(job.target.null, PermutationNull)
        else [job.target.copies(j, n_null, rng) for j in range(len(job.target.concepts))]
        for job in jobs
    ]
    todo = [(i, genes) for i, job in enumerate(jobs) for genes in gene_ranges(job.target.null, X.shape[1])]
    while todo:
        # groups that take the same range of genes share a pass as far as their units fit into memory
        genes, room, now = todo[0][1], UNIT_BYTES, []
        for i, wanted in list(todo):
            null = jobs[i].target.null
            need = 8 * (genes.stop - genes.start) * null.n_units if isinstance(null, MoranNull) else 0
            if wanted == genes and (not now or need <= room):
                room -= need
                now.append(i)
                todo.remove((i, wanted))
        found = {i: Moments(jobs[i].target.null, jobs[i].target.y, jobs[i].keep, genes.stop - genes.start) for i in now}
        accumulate(X, found.values(), genes)
        for i in now:
            job, moments = jobs[i], found.pop(i)
            if isinstance(job.target.null, MoranNull):
                _fill_moran(job, moments, genes, n_null, drawn[i], X.shared)
                continue
            part = Genes.from_moments(genes, moments)
            hits = _shuffled_hits(X, job, part.varies, n_null, rng) if n_null else None
            fill(job.target, part, n_null, hits, job.out, job.empirical)


def _fill_moran(job: Job, moments: Moments, genes: slice, n_null: int, copies: list[NDArray], shared: bool) -> None:
    """Statistics of a range of genes from the values of units; processes share the genes among them."""
    target, n_genes = job.target, genes.stop - genes.start
    step = max(min(BLOCK_ENTRIES // max(len(target.coef), 1), -(-n_genes // (size() if shared else 1))), 1)
    parts = [slice(a, min(a + step, n_genes)) for a in range(0, n_genes, step)]
    cross, total = moments.cross.sum(axis=0).T, moments.squares.sum(axis=0)
    ss = moments.centred_squares.sum(axis=0)
    written = [*job.out.values(), *([] if job.empirical is None else [job.empirical])]
    for number, local in enumerate(parts):
        at = slice(genes.start + local.start, genes.start + local.stop)
        if shared and number % size() != rank():
            for values in written:  # the process whose part it is knows them
                values[at, target.concepts] = 0.0
            continue
        b = target.null.project_units(moments.units[:, local])
        part = Genes.from_coefficients(at, target, cross[:, local], ss[local], total[local], b)
        fill(target, part, n_null, counted(copies, b) if n_null else None, job.out, job.empirical)
    if shared:
        for values, known in zip(written, all_sum(*(v[genes, target.concepts] for v in written)), strict=True):
            values[genes, target.concepts] = known


def _shuffled_hits(X: RowStream, job: Job, varies: NDArray[np.bool_], n_null: int, rng: np.random.Generator) -> Hits:
    """Counts shuffled copies of a target without holding them all: a pass over the stream for every few copies."""
    target, keep = job.target, job.keep
    few = max(_COPY_ENTRIES // max(target.n_obs, 1), 1)

    def hits(j: int, limit: NDArray[np.float32]) -> NDArray:
        found = np.zeros(len(limit), dtype=np.int64)
        for copies in target.null.draw_in_parts(target.coef[:, j], n_null, few, rng):
            placed = np.empty((target.n_obs, len(copies)))
            placed[target.order] = copies.T
            moments = np.zeros((len(limit), len(copies)))
            for rows, block in X.read():
                first, last = np.searchsorted(keep, [rows.start, rows.stop])
                if first < last:
                    moments += block[keep[first:last] - rows.start].astype(np.float64).T @ placed[first:last]
            if X.shared:
                (moments,) = all_sum(moments)
            # a gene that does not vary has no covariance, whatever rounding makes of it
            found += (np.abs(moments) * varies[:, None] >= limit[:, None]).sum(axis=1)
        return found

    return hits
