"""The counts of a fit, from memory or from the disk: thinned, normalised, sampled, shuffled.

One pass surveys the data. What has few nonzeros is then kept in memory; the rest is read again, in blocks of
neighbouring rows, for every pass. Which of the two happens depends on the data and not on where they are, so a matrix
on the disk gives what the same matrix in memory gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from st_concepts._counts.check import check_block
from st_concepts._counts.features import sizes
from st_concepts._counts.prefetch import prefetch
from st_concepts._counts.rows import iter_rows, read_rows
from st_concepts._counts.split import second_part, with_values
from st_concepts._distributed import shard
from st_concepts.models._spot.histogram import CountHistogram, HistogramBuilder
from st_concepts.models._spot.rows import SpotRows, concatenate

BLOCK = 1000  # rows read together; anndata's own dask chunks have as many
KEPT = 30_000_000  # nonzeros up to which everything stays in memory, at 12 bytes each
SAMPLE = 5000  # spots whose molecules are held out, and that the start is first made from
FIRM = 0.01  # of the median total: spots below are all noise on the log scale, each would claim a component
BUFFER = 10_000_000  # nonzeros that are shuffled together where not all are
_BUFFER_BLOCKS = (4, 64)
_ORDERED = 4096  # rows that are put in order at a time


@dataclass(frozen=True)
class Source:
    """Where the counts are and what they are called.

    Attributes
    ----------
    X
        ``(n_obs, n_vars)``, whatever `iter_rows` reads.
    codes
        Section of each spot ``(n_obs,)``, or `None`.
    n_sections
        Number of sections, at least 1.
    target_sum
        Scale of the features.
    names, where
        Gene names and the name of the matrix, for messages.
    """

    X: Any
    codes: np.ndarray | None
    n_sections: int
    target_sum: float
    names: pd.Index
    where: str


class SpotData:
    """Counts of a fit; see `SpotVAE.fit` for what is done with them. Spots without training counts are left out.

    Parameters
    ----------
    source
        The counts.
    fraction
        Share of the molecules that is held out, of at most `SAMPLE` spots evenly spread over the rows; 0 for none.
    seed
        Seed of the molecules held out.

    Attributes
    ----------
    n_obs, n_vars, nnz
        Spots, genes and nonzero training counts.
    sample, held_out
        The spots that are judged: what they train on and, CSR of the same rows, the molecules held out (or `None`).
    histogram, held_histogram
        Of the training counts of all spots; of ``held_out``.
    gene_totals
        Training counts by section, float64 ``(n_sections, n_vars)``.
    feature_sums, n_firm
        Sums of the features of spots with at least 1% of ``target_sum`` counts, by section, and their numbers.
    """

    def __init__(self, source: Source, *, fraction: float, seed: int) -> None:
        if sp.issparse(source.X) and source.X.format != "csr":  # a block of rows of CSC walks the whole matrix
            source = replace(source, X=source.X.tocsr())
        self.source, self.fraction = source, fraction
        n_rows, self.n_vars = source.X.shape
        self._judged = np.unique(np.linspace(0, n_rows - 1, min(SAMPLE, n_rows)).astype(np.int64))
        self._used = np.zeros(n_rows, dtype=bool)
        # what every judged row loses, by its nonzeros: enough to thin it again when it is read again
        self._held_values, self._held_ends = np.zeros(0, dtype=np.float32), np.zeros(1, dtype=np.int64)
        self._kept: SpotRows | None = None
        self._survey(np.random.default_rng(seed))
        self.n_obs = int(self._used.sum())

    @property
    def kept(self) -> bool:
        """Whether all counts are in memory."""
        return self._kept is not None

    @property
    def density(self) -> float:
        """Share of nonzeros."""
        return self.nnz / max(self.n_obs * self.n_vars, 1)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of sizes, gene names, sections and training counts by gene."""
        found = hashlib.sha256(repr((self.source.X.shape, self.n_obs, self.nnz, self.source.target_sum)).encode())
        found.update("\0".join(map(str, self.source.names)).encode())
        found.update(b"" if self.source.codes is None else np.ascontiguousarray(self.source.codes).tobytes())
        found.update(self.gene_totals.tobytes() + np.packbits(self._used).tobytes())
        return found.hexdigest()[:16]

    # ------------------------------------------------------------------------------------------- reading

    def _survey(self, rng: np.random.Generator) -> None:
        """The first pass: checks, molecules held out, sums, the sample, and everything where that is little."""
        source, builder = self.source, HistogramBuilder(self.n_vars)
        self.gene_totals, self.feature_sums = np.zeros((2, source.n_sections, self.n_vars))
        self.n_firm, self.nnz = np.zeros(source.n_sections), 0
        kept: list[SpotRows] | None = []
        sample: list[SpotRows] = []
        held: list[sp.csr_matrix] = []
        values, lengths = [], []
        sampled = len(self._judged) < len(self._used)
        for rows, raw in iter_rows(source.X, BLOCK):
            check_block(raw, source.names, source.where)
            judged = self._judged_in(rows)
            if self.fraction > 0:
                some = raw[judged]
                second = second_part(some.data, self.fraction, rng)
                values.append(second)
                lengths.append(np.diff(some.indptr))
                part = self._thinned(rows, raw, second)
                held.append(with_values(some, second)[self._used[rows][judged]])
            else:
                part = self._thinned(rows, raw, None)
            builder.add(part.csr("counts"))
            for s, counts in part.by_section("counts"):
                self.gene_totals[s] += np.asarray(counts.sum(0, dtype=np.float64)).ravel()
            self.nnz += len(part.indices)
            firm = part.size >= FIRM * source.target_sum
            for s, features in part.by_section("features"):
                mine = firm if part.codes is None else firm[part.codes == s]
                self.feature_sums[s] += mine.astype(np.float64) @ features  # scipy's own sum would be float32
                self.n_firm[s] += int(mine.sum())
            if sampled:
                sample.append(part.take(np.flatnonzero(judged[self._used[rows]])))
            if kept is not None:
                kept.append(part)
                kept = None if sampled and self.nnz > KEPT else kept
        if self.fraction > 0:
            self._held_values = np.concatenate(values)
            self._held_ends = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        self._kept = None if kept is None else concatenate(kept)
        del kept
        self.sample = concatenate(sample) if sampled or self._kept is None else self._kept
        self.histogram = builder.finish()
        self.held_out = sp.vstack(held, format="csr") if held else None
        self.held_histogram = None if self.held_out is None else CountHistogram.of(self.held_out)

    def _judged_in(self, rows: slice) -> np.ndarray:
        """Boolean of a block: the rows whose molecules are held out."""
        first, last = np.searchsorted(self._judged, [rows.start, rows.stop])
        out = np.zeros(rows.stop - rows.start, dtype=bool)
        out[self._judged[first:last] - rows.start] = True
        return out

    def _thinned(self, rows: slice, raw: sp.csr_matrix, held: np.ndarray | None) -> SpotRows:
        """Rows of a block that have counts left once ``held``, by nonzero of its judged rows, is taken away."""
        if held is not None and len(held):
            judged = np.repeat(self._judged_in(rows), np.diff(raw.indptr))
            left = raw.data.copy()
            left[judged] -= held
            raw = with_values(raw, left)
        size = sizes(raw)
        used = self._used[rows] = size > 0
        codes = None if self.source.codes is None else self.source.codes[rows][used]
        return SpotRows.of(raw if used.all() else raw[used], self.source.target_sum, codes, size[used])

    def _read(self, block: int) -> SpotRows:
        """One block again, from the disk or a large matrix in memory."""
        rows = slice(block * BLOCK, min((block + 1) * BLOCK, len(self._used)))
        return self._again(rows, read_rows(self.source.X, rows))

    def _again(self, rows: slice, raw: sp.csr_matrix) -> SpotRows:
        held = None
        if self.fraction > 0:
            first, last = self._held_ends[np.searchsorted(self._judged, [rows.start, rows.stop])]
            held = self._held_values[first:last]
        return self._thinned(rows, raw, held)

    # ------------------------------------------------------------------------------------------- passes

    def blocks(self, *, share: bool = True) -> Iterator[SpotRows]:
        """All spots in their order, in blocks; of several processes, each gets its ``share`` of them."""
        if self._kept is not None:
            starts = range(0, self.n_obs, BLOCK)
            for start in shard(starts) if share else starts:
                yield self._kept.cut(start, min(start + BLOCK, self.n_obs))
            return
        read = iter_rows(self.source.X, BLOCK, share=share)
        with closing(prefetch(self._again(rows, raw) for rows, raw in read)) as parts:
            yield from parts

    def ordered(self, rng: np.random.Generator, batch_size: int, skip: int = 0) -> Iterator[SpotRows]:
        """The batches of one epoch, from number ``skip`` on, as rows in random order.

        What is kept in memory is shuffled as a whole. Else blocks of neighbouring rows are drawn in random order, up to
        64 together, and their spots are shuffled. Draws do not depend on ``skip``.
        """
        if self._kept is not None:
            kept, order = self._kept, rng.permutation(self.n_obs)
            yield from _batches(kept, order, batch_size, skip)
            return
        n_used = np.add.reduceat(self._used, np.arange(0, len(self._used), BLOCK), dtype=np.int64)
        together = int(np.clip(BUFFER * len(n_used) // max(self.nnz, 1), *_BUFFER_BLOCKS))
        blocks, plan = rng.permutation(len(n_used)), []
        for start in range(0, len(blocks), together):
            group = blocks[start : start + together]
            total = int(n_used[group].sum())
            order, n_batches = rng.permutation(total), -(-total // batch_size)
            if skip < n_batches:
                plan.append((group, order, skip))
            skip = max(skip - n_batches, 0)
        made = ((concatenate([self._read(b) for b in group]), order, first) for group, order, first in plan)
        with closing(prefetch(made, depth=1)) as buffers:
            for rows, order, first in buffers:
                yield from _batches(rows, order, batch_size, first)


def _batches(rows: SpotRows, order: np.ndarray, batch_size: int, skip: int) -> Iterator[SpotRows]:
    """Batches of ``rows`` in the order given, a few thousand rows put in order at a time."""
    step = max(_ORDERED // batch_size, 1) * batch_size
    for start in range(skip * batch_size, len(order), step):
        part = rows.take(order[start : start + step])
        for first in range(0, part.n, batch_size):
            yield part.cut(first, min(first + batch_size, part.n))
