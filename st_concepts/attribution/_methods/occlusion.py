"""Occlusion: behind a linear first layer, taking one gene away is a rank-one change of the pre-activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from st_concepts._counts.kind import is_sparse
from st_concepts.attribution._methods.base import Method, Options, register
from st_concepts.attribution._methods.forms import Form, Values
from st_concepts.models import FeatureMatrix

if TYPE_CHECKING:
    from st_concepts.attribution._group import Entries, GroupSums
    from st_concepts.attribution._plain import Plain
    from st_concepts.attribution._runner import Runner
    from st_concepts.attribution._spot import Chunk, SpotMaps

# genes of spots that run through the encoder together
_ENTRIES = 8192
# dense differences from the baseline held at a time
_MAX_DENSE = 2_000_000


def differences(
    features: FeatureMatrix, baseline: np.ndarray, genes: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Entries of ``features - baseline`` that are not zero: rows, genes and values, some spots at a time."""
    n, n_vars = features.shape
    wanted = np.arange(n_vars) if genes is None else genes
    if is_sparse(features) and not baseline[wanted].any():
        entries = (features if genes is None else features[:, wanted]).tocoo()
        keep = entries.data != 0
        yield entries.row[keep], wanted[entries.col[keep]], entries.data[keep]
        return
    step = max(1, _MAX_DENSE // max(1, len(wanted)))
    for first in range(0, n, step):
        block = features[first : first + step]
        block = (block if genes is None else block[:, wanted]) if not is_sparse(block) else block[:, wanted].toarray()
        gap = np.asarray(block, dtype=np.float64) - baseline[wanted]
        rows, columns = np.nonzero(gap)
        yield rows + first, wanted[columns], gap[rows, columns]


def occlusion_entries(
    run: Runner,
    features: FeatureMatrix,
    a: torch.Tensor,
    codes: torch.Tensor | None,
    baseline: np.ndarray,
    genes: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Fall of every latent dimension when one gene of one spot is set to its baseline ``(n_vars,)``.

    ``features`` are ``(n, n_vars)``, ``a`` pre-activations ``(n, n_hidden)`` of the same spots, ``genes`` distinct
    columns to occlude, all for `None`. Yields rows ``(e,)``, columns ``(e,)`` and falls ``(e, n_latent)``; pairs of
    spot and gene that are at the baseline already are left out, their fall is zero.
    """
    latent = run.latent(a, codes)
    for rows, columns, gaps in differences(features, baseline, genes):
        for first in range(0, len(rows), _ENTRIES):
            cut = slice(first, first + _ENTRIES)
            row, column = rows[cut], columns[cut]
            index = torch.as_tensor(row, dtype=torch.long, device=run.device)
            gap = run.tensor(gaps[cut])
            changed = a[index]
            if run.transposed is None:
                changed[torch.arange(len(row)), torch.as_tensor(column, dtype=torch.long, device=run.device)] -= gap
            else:
                changed -= gap[:, None] * run.tensor(run.transposed[column])
            yield row, column, latent[row] - run.latent(changed, None if codes is None else codes[index])


class OcclusionForm(Form):
    """No multipliers: the fall of the score itself."""

    needs_start = True

    def add_to_groups(self, sums: GroupSums, entries: Entries) -> None:
        """Falls of all genes of each spot."""
        run = sums.run
        for k, part in entries.parts:
            rows, code = entries.features[entries.spots[part]], entries.codes
            code = None if code is None else code[part]
            for entry, genes, drop in occlusion_entries(run, rows, entries.a[part], code, sums.baselines[k]):
                scores = (drop @ sums.directions[k].T) * entries.weight[part][entry, None]
                for j in range(scores.shape[1]):
                    sums.genes[k, j] += np.bincount(genes, scores[:, j], run.n_vars)

    def of_groups(self, sums: GroupSums) -> np.ndarray:
        """As they were added."""
        return sums.genes

    def of_spots(self, maps: SpotMaps, chunk: Chunk) -> Values:
        """Falls of the genes asked for."""
        run, features, wanted = maps.run, chunk.features, maps.genes
        # a gene may be asked for twice; each is occluded once
        unique, place = (None, None) if wanted is None else np.unique(wanted, return_inverse=True)
        n_columns = run.n_vars if unique is None else len(unique)
        found = [
            (rows, columns if unique is None else np.searchsorted(unique, columns), drop @ maps.concept)
            for rows, columns, drop in occlusion_entries(run, features, chunk.a, chunk.codes, maps.baseline, unique)
        ]
        rows, columns, drops = (np.concatenate([f[i] for f in found]) for i in range(3)) if found else ([], [], [])
        shape = (features.shape[0], n_columns)
        values = sp.csr_matrix((np.asarray(drops, dtype=run.numpy_dtype), (rows, columns)), shape=shape)
        values = values if place is None else values[:, place]
        at_zero = not (maps.baseline if wanted is None else maps.baseline[wanted]).any()
        return values.tocsr() if is_sparse(features) and at_zero else values.toarray()

    def of_inputs(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """Captum's, see `Occlusion.by_captum`."""
        return plain.by_captum(x)


class Occlusion(Method):
    """The form holds the engine."""

    def by_captum(
        self, module: nn.Module, score: Callable, x: torch.Tensor, start: torch.Tensor, options: Options
    ) -> torch.Tensor:
        """Patches that do not overlap."""
        from captum import attr

        window = options.window or (1,) * (x.ndim - 1)
        with torch.no_grad():
            return attr.Occlusion(score).attribute(x, window, strides=window, baselines=start)


register(
    Occlusion(
        "occlusion",
        "By how much does the score fall when one gene alone is set to its baseline?",
        "Zeiler & Fergus 2014, ECCV, arXiv 1311.2901",
        OcclusionForm(),
        needs_baseline=True,
        captum="Occlusion",
        runs_in_captum=True,
        options=("window",),
    )
)
