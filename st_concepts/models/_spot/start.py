"""The state in which a `SpotModule` begins: at the SVD of its own training counts, or random."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts._counts.elsewhere import callers_level
from st_concepts.models._spot.data import FIRM, SpotData
from st_concepts.models._spot.module import SpotModule
from st_concepts.models._spot.rows import SpotRows
from st_concepts.models._spot.svd import EXACT_BELOW, TruncatedSVD, start_dispersion, truncated_svd, warm_start

_DISPERSION_ENTRIES = 4e6  # dense entries that the first dispersion estimate looks at: a few seconds at most


@dataclass(frozen=True)
class StartOptions:
    """Sizes, seed and kind of start; see `SpotVAE` for the meaning of each."""

    n_latent: int
    n_hidden: int
    n_layers: int
    n_sections: int
    seed: int
    init: str
    target_sum: float

    @classmethod
    def of(cls, config: dict[str, Any]) -> StartOptions:
        """From the configuration of a `SpotVAE`."""
        same = ("n_latent", "n_hidden", "n_layers", "seed", "init", "target_sum")
        return cls(n_sections=max(len(config["sections"]), 1), **{name: config[name] for name in same})


def empty_module(n_vars: int, options: StartOptions) -> SpotModule:
    """A module of the right sizes with weights drawn from ``options.seed``."""
    return SpotModule(
        n_vars,
        n_latent=options.n_latent,
        n_hidden=options.n_hidden,
        n_layers=options.n_layers,
        n_sections=options.n_sections,
        generator=torch.Generator().manual_seed(options.seed),
    )


def start_module(data: SpotData, options: StartOptions, device: torch.device) -> SpotModule:
    """A module at its start for the training counts of ``data``.

    Where the data have fewer directions of variation than latent dimensions, the others stay unused, which is warned
    of.
    """
    proportions = section_proportions(data.gene_totals)
    module = empty_module(data.n_vars, options)
    if options.init == "random":
        with torch.no_grad():
            module.log_rate.copy_(torch.from_numpy(np.log(proportions)))
        return module.to(device)
    svd = _svd(data, options)
    rank = int((svd.sd > 0).sum())
    if rank < options.n_latent:
        warnings.warn(
            f"The spots vary along {rank} directions only, fewer than n_latent={options.n_latent}; the other latent "
            "dimensions stay unused. Are there duplicate spots?",
            UserWarning,
            stacklevel=callers_level(),
        )
    warm_start(module, svd, proportions)
    module.to(device)
    sample = data.sample
    most = max(256, min(2048, int(_DISPERSION_ENTRIES // data.n_vars)))
    some = sample.take(np.unique(np.linspace(0, sample.n - 1, min(most, sample.n)).astype(np.int64)))
    x = torch.from_numpy(some.csr().toarray()).to(device)
    codes = None if some.codes is None else torch.from_numpy(some.codes).to(device)
    start_dispersion(module, x, some.csr("counts"), codes)
    return module


def _svd(data: SpotData, options: StartOptions) -> TruncatedSVD:
    """Of the spots with enough counts; of all where too few have."""
    firm = data.n_firm.sum() > options.n_latent
    least = FIRM * options.target_sum if firm else 0.0

    def read(blocks: Iterable[SpotRows]) -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
        for part in blocks:
            used = part.size >= least
            x = part.csr() if used.all() else part.csr()[used]
            yield x, np.zeros(x.shape[0], dtype=np.int64) if part.codes is None else part.codes[used]

    known = (data.feature_sums / np.maximum(data.n_firm, 1)[:, None], data.n_firm) if firm else None
    shared = firm and data.n_obs > EXACT_BELOW
    return truncated_svd(
        lambda: read(data.blocks(share=shared)),
        n_sections=options.n_sections,
        k=options.n_latent,
        seed=options.seed,
        means=known,
        sample=None if data.kept else lambda: read([data.sample]),
        shared=shared,
    )


def section_proportions(totals: np.ndarray) -> np.ndarray:
    """Share of each gene in the counts of each section, float64 ``(n_sections, n_vars)``, all above zero.

    A gene without counts in a section gets what a tenth of a molecule would be, so that logarithms stay finite.
    """
    return np.maximum(totals, 0.1) / np.maximum(totals.sum(1, keepdims=True), 1.0)
