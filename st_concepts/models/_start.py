"""The state in which a `SpotModule` begins: at the SVD of its own training counts, or random."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts.io._rows import iter_rows
from st_concepts.models._features import log_normalize, sizes
from st_concepts.models._fit import dense
from st_concepts.models._modules import SpotModule
from st_concepts.models._warmstart import start_dispersion, truncated_svd, warm_start

_BATCH = 1024
_LEAST_SHARE = 0.01  # of the median total: spots below are all noise on the log scale, each would claim a component
_DISPERSION_ENTRIES = 2.5e7  # dense entries that the first dispersion estimate looks at: 100 MB


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


def start_module(
    counts: sp.csr_matrix, codes: np.ndarray | None, options: StartOptions, device: torch.device
) -> SpotModule:
    """A module at its start for ``counts``.

    Parameters
    ----------
    counts
        CSR ``(n_obs, n_vars)``, no empty rows.
    codes
        Section of each spot ``(n_obs,)``, or `None`.
    options
        Sizes and kind of start.
    device
        Where the module goes.

    Warns
    -----
    UserWarning
        The data have fewer directions of variation than latent dimensions; the others stay unused.
    """
    section = np.zeros(counts.shape[0], dtype=np.int64) if codes is None else codes
    proportions = section_proportions(counts, section, options.n_sections)
    module = empty_module(counts.shape[1], options)
    if options.init == "random":
        with torch.no_grad():
            module.log_rate.copy_(torch.from_numpy(np.log(proportions)))
        return module.to(device)
    firm = np.flatnonzero(sizes(counts) >= _LEAST_SHARE * options.target_sum)
    if len(firm) <= options.n_latent:
        firm = np.arange(counts.shape[0])
    some, where = (counts, section) if len(firm) == counts.shape[0] else (counts[firm], section[firm])

    def stream() -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
        for rows, block in iter_rows(some, _BATCH):
            yield log_normalize(block, options.target_sum), where[rows]

    svd = truncated_svd(stream, n_sections=options.n_sections, k=options.n_latent, seed=options.seed)
    rank = int((svd.sd > 0).sum())
    if rank < options.n_latent:
        warnings.warn(
            f"The spots vary along {rank} directions only, fewer than n_latent={options.n_latent}; the other latent "
            "dimensions stay unused. Are there duplicate spots?",
            UserWarning,
            stacklevel=4,
        )
    warm_start(module, svd, proportions)
    module.to(device)
    most = max(256, min(2048, int(_DISPERSION_ENTRIES // counts.shape[1])))
    rows = np.unique(np.linspace(0, counts.shape[0] - 1, min(most, counts.shape[0])).astype(np.int64))
    block = counts[rows]
    x = dense(log_normalize(block, options.target_sum), device)
    start_dispersion(module, x, block, None if codes is None else torch.from_numpy(codes[rows]).to(device))
    return module


def section_proportions(counts: sp.csr_matrix, section: np.ndarray, n_sections: int) -> np.ndarray:
    """Share of each gene in the counts of each section, float64 ``(n_sections, n_vars)``, all above zero.

    A gene without counts in a section gets what a tenth of a molecule would be, so that logarithms stay finite.
    """
    shares = np.zeros((n_sections, counts.shape[1]))
    for s in range(n_sections):
        total = np.asarray(counts[section == s].sum(0), dtype=np.float64).ravel()
        shares[s] = np.maximum(total, 0.1) / max(total.sum(), 1.0)
    return shares
