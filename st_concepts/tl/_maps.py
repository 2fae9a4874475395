"""Spots x genes of one concept: by rows as they are read, or, where neighbours add up, by columns."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp

from st_concepts._counts.kind import is_sparse
from st_concepts._counts.store import LayerWriter
from st_concepts.attribution import Baseline, Explained, Method, Options, SpotAttribution, spot_attributions

Part: TypeAlias = Literal["both", "own", "surroundings"]
PARTS: tuple[Part, ...] = ("both", "own", "surroundings")
# floats held for each value of a block of columns: what is seen around, in the spot, and while neighbours are averaged
_HELD = 6
_SUMS = ("score_difference", "attribution_sum")


@dataclass
class Maps:
    """The map of one concept, and what is learned on the way.

    Attributes
    ----------
    section, method, baseline, options
        What is explained, and how.
    j
        The concept.
    in_model, in_data
        Columns of the genes, the latter ascending.
    part
        ``"own"``: what the concept sees in the spot; ``"surroundings"``: what it sees around; ``"both"``.
    keep_dense
        A dense layer where values are.
    """

    section: Explained
    method: Method
    j: int
    in_model: np.ndarray
    in_data: np.ndarray
    baseline: Baseline
    options: Options
    part: Part
    keep_dense: bool
    path: str = ""
    _sums: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.section.around is None and self.part == "surroundings":
            raise ValueError(
                "part='surroundings' is of concepts that see the surroundings of a spot, and these see the spot alone."
            )
        form = self.method.effective_form(self.options)
        self._base, self._references = None, None
        if form.needs_references:
            (self._references,) = self.section.references([self.j], self.baseline, self.options.seed)
        elif self.method.needs_baseline:
            self._base = self.section.baselines([self.j], self.baseline)[0]
        if self.section.around is None and self.part == "both":
            self.part = "own"  # which is all there is
        at_zero = self._base is None or not self._base[self.in_model].any()
        self.sparse_values = form.zero_stays_zero and at_zero and self.part == "own"
        self.dense = self.keep_dense and not self.sparse_values

    def size(self) -> int:
        """Bytes that the layer takes at most."""
        n_obs, n_vars = self.section.adata.shape
        if self.dense:
            return 4 * n_obs * n_vars
        entries = n_obs * len(self.in_model)
        if self.sparse_values:
            X = self.section.adata.X if self.section.layer is None else self.section.adata.layers[self.section.layer]
            entries = min(entries, X.nnz) if is_sparse(X) else entries
        return 8 * entries

    def layer(self, budget: int) -> np.ndarray | sp.csr_matrix:
        """All of it, in memory."""
        shape = self.section.adata.shape
        if self.part == "own":
            held = list(self.rows())
            return np.concatenate(held) if self.dense else sp.vstack(held, format="csr", dtype=np.float32)
        if self.dense:
            out = np.zeros(shape, dtype=np.float32)
            for genes, block in self.columns(budget):
                out[:, self.in_data[genes]] = block
            return out
        found = [block for _, block in self.columns(budget)]
        return self._widened(sp.hstack([sp.csr_matrix(b) for b in found], format="csr", dtype=np.float32))

    def write(self, writer: LayerWriter, budget: int) -> None:
        """Into a store, block by block."""
        if self.part == "own":
            with closing(self.rows()) as blocks:
                for block in blocks:
                    writer.append(block)
            return
        for genes, block in self.columns(budget):
            writer.put(self.in_data[genes], block)

    def rows(self) -> Generator[np.ndarray | sp.csr_matrix, None, None]:
        """Blocks of rows of the layer, of what the concept sees in the spots."""
        for _, (part,) in self._spots([self.section.concepts.directions[self.j]], slice(None)):
            for key in _SUMS:
                if (found := getattr(part, key)) is not None:
                    self._add(key, found)
            if self.dense:
                block = np.zeros((part.values.shape[0], self.section.adata.n_vars), dtype=np.float32)
                block[:, self.in_data] = _dense(part)
                yield block
            else:
                yield self._widened(sp.csr_matrix(part.values, dtype=np.float32))

    def columns(self, budget: int) -> Generator[tuple[slice, np.ndarray], None, None]:
        """Which of the genes, and their columns ``(n_obs, n)``; as many at a time as ``budget`` bytes have room for.

        The spots are gone through once for each block.
        """
        n_obs, n_genes = self.section.adata.n_obs, len(self.in_model)
        step = max(1, budget // (4 * _HELD * max(n_obs, 1)))
        for first in range(0, n_genes, step):
            genes = slice(first, min(first + step, n_genes))
            yield genes, self._moved(genes)

    def _moved(self, genes: slice) -> np.ndarray:
        """What a concept sees around a spot is an average over others, and so is its map."""
        made, around = self.section.concepts, self.section.around
        context, further = made.context, made.directions_around
        if context is None or around is None or further is None:
            raise ValueError("There are no surroundings.")
        directions = [further[self.j]] + ([made.directions[self.j]] if self.part == "both" else [])
        shape = (self.section.adata.n_obs, len(self.in_model[genes]))
        held = [np.zeros(shape, dtype=np.float32) for _ in directions]
        sums = [{key: np.full(shape[0], np.nan) for key in _SUMS} for _ in directions]
        for rows, parts in self._spots(directions, genes):
            for part, values, sum_ in zip(parts, held, sums, strict=True):
                values[rows] = _dense(part)
                for key, found in sum_.items():
                    found[rows] = np.nan if (of := getattr(part, key)) is None else of
        for key in _SUMS:
            seen = around.average(sums[0][key][:, None], context.width)[:, 0]
            self._add(key, seen if len(sums) == 1 else seen + sums[1][key])
        out = around.average(held[0], context.width)
        return out if len(held) == 1 else out + held[1]

    def _spots(self, directions: list[np.ndarray], genes: slice) -> Generator[tuple[slice, list[SpotAttribution]]]:
        """Rows of each batch, and their attributions to each direction."""
        # one generator for all batches, so that the draws do not begin anew with each of them
        options = [
            replace(self.options, seed=np.random.default_rng(copy.deepcopy(self.options.seed))) for _ in directions
        ]
        for rows, features, _, codes in self.section.batches():
            parts = [
                spot_attributions(
                    self.section.encoder,
                    features,
                    direction,
                    genes=self.in_model[genes],
                    method=self.method,
                    codes=codes,
                    baseline=self._base,
                    references=self._references,
                    options=settings,
                )
                for direction, settings in zip(directions, options, strict=True)
            ]
            self.path = parts[0].path
            yield rows, parts

    def _add(self, key: str, values: np.ndarray) -> None:
        """Sums over all genes, of some spots or, each time anew, of all."""
        if np.isfinite(values).all():
            self._sums.setdefault(key, []).append(values)

    def _widened(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """With the columns of the data."""
        values.sort_indices()
        # columns are in the order of the data, so indices stay sorted
        columns = self.in_data[values.indices].astype(np.int32)
        return sp.csr_matrix((values.data, columns, values.indptr), shape=(values.shape[0], self.section.adata.n_vars))

    def report(self) -> dict[str, Any]:
        """Mean over the spots of score difference and attribution sum, where they are defined."""
        return {key: float(np.concatenate(found).mean()) for key, found in self._sums.items()}


def _dense(part: SpotAttribution) -> np.ndarray:
    return part.values.toarray() if is_sparse(part.values) else np.asarray(part.values)
