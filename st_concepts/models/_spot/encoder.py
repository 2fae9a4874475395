"""What a model of spots offers once it has weights: encoder protocol, embedding, decoding, likelihood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts._counts.features import log_normalize, sizes
from st_concepts._counts.obs import section_codes
from st_concepts._names import as_names
from st_concepts.models._encoder import FeatureMatrix, FirstLayer
from st_concepts.models._fitted import Fitted
from st_concepts.models._section import Section
from st_concepts.models._spot.likelihood import nb_log_prob
from st_concepts.models._spot.module import SpotModule

_BATCH = 1024  # rows a batch where nothing is trained


def dense(block: sp.csr_matrix, device: torch.device) -> torch.Tensor:
    """A CSR batch as a dense float32 tensor."""
    return torch.from_numpy(block.toarray().astype(np.float32, copy=False)).to(device)


def as_device(device: str | torch.device) -> torch.device:
    """The torch device of a name; ``"auto"`` is CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; use 'auto', 'cpu' or 'cuda'.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={str(device)!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices here. "
            "Use device='auto', or install a torch built for CUDA."
        )
    return device


class SpotEncoder(Fitted[SpotModule]):
    """A `SpotModule` with its genes, sections and feature scale; follows the `Encoder` protocol.

    `SpotVAE` adds how it is made, fitted, saved and loaded.
    """

    _measured = ("epoch", "train_loss", "validation_nll")

    # ------------------------------------------------------------------------------------- encoder protocol

    @property
    def var_names(self) -> pd.Index:
        """Genes of the model, in the order of its columns."""
        return self._names

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return self._config["n_latent"]

    @property
    def layer(self) -> str | None:
        """Layer that the counts came from; `None` for X."""
        return self._config["layer"]

    @property
    def target_sum(self) -> float:
        """Counts that every spot is scaled to before log1p: the median total of the training spots."""
        return self._config["target_sum"]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.weight.device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to a device (``"auto"``: CUDA where there is one) and return the model.

        Raises
        ------
        ValueError
            There is no such device.
        """
        self.module.to(as_device(device))
        return self

    @property
    def section_key(self) -> str | None:
        """Column of ``obs`` with the section of each spot; `None` where the model knows no sections."""
        return self._config["batch_key"]  # its name in model files

    batch_key = section_key  # what scanpy and scvi-tools call it

    @property
    def first_layer(self) -> FirstLayer:
        """Stacked first layer of ``W_e`` and ``f``; the last bias row, the mean, serves sections never seen."""
        m = self.module
        bias = torch.cat([m.bias, m.bias.mean(0, keepdim=True)]) if self._config["sections"] else m.bias
        return FirstLayer(m.weight.detach(), bias.detach(), m.rest)

    def features(self, counts: FeatureMatrix) -> FeatureMatrix:
        """Counts ``(n, n_vars)`` to float32 log1p of size-normalised counts, of the same kind."""
        return log_normalize(counts, self.target_sum)

    def codes(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Section of each spot, int64 ``(n,)``; the number of sections stands for one never seen."""
        return section_codes(obs, self._config["batch_key"], self._config["sections"])

    def encode(self, features: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Dense features ``(n, n_vars)`` to posterior means ``(n, n_latent)``, differentiable."""
        first = self.first_layer
        return first.rest(features @ first.weight.T + (first.bias[-1] if codes is None else first.bias[codes]))

    # --------------------------------------------------------------------------------------------- using it

    def batches(
        self, adata: AnnData | None = None, *, layer: str | None = None, batch_size: int = _BATCH
    ) -> Iterator[tuple[slice, sp.csr_matrix, np.ndarray | None]]:
        """Row batches of checked counts, columns in the order of the model.

        Yields
        ------
        Slice of rows, CSR counts ``(b, n_vars)``, section codes ``(b,)`` or `None`.
        """
        yield from Section.open(self._data(adata), self, layer=layer).counts(batch_size=batch_size)

    def embed(self, adata: AnnData | None = None, *, layer: str | None = None, batch_size: int = _BATCH) -> np.ndarray:
        """Posterior mean of each spot, float32 ``(n_obs, n_latent)``; that of a spot without counts is the prior's, 0.

        Parameters
        ----------
        adata
            Spots to embed; by default those that the model was made with. Genes are matched by name; missing ones
            count as zero (a warning says how many) and at least half must be there.
        layer
            Layer with the counts; by default that of the model.
        batch_size
            Spots a batch.
        """
        return Section.open(self._data(adata), self, layer=layer).embed(batch_size=batch_size).latent

    @torch.no_grad()
    def decode(self, latent: np.ndarray, *, section: str | None = None) -> np.ndarray:
        """Expected share of each gene in the counts of a spot, float32 ``(n, n_vars)``; rows sum to 1.

        Parameters
        ----------
        latent
            ``(n, n_latent)``.
        section
            Section whose base rates to use; by default their mean (on the log scale).
        """
        z = self._latent(latent, self.n_latent)
        sections = self._config["sections"]
        if section is not None and section not in sections:
            raise ValueError(
                f"Section {section!r} is not one the model was fitted on: {', '.join(sections) or 'none'}."
            )
        code = len(sections) if section is None else sections.index(section)
        codes = torch.full((len(z),), code, device=self.device) if sections else None
        return torch.softmax(self._logits(z, codes), dim=1).cpu().numpy()

    def _logits(self, z: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
        module = self.module
        if codes is None or int(codes.max()) < len(self._config["sections"]):
            return module.logits(z, codes)
        table = torch.cat([module.log_rate, module.log_rate.mean(0, keepdim=True)])
        return module.logits(z, torch.zeros_like(codes)) - module.log_rate[0] + table[codes]

    @torch.no_grad()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        *,
        genes: Sequence[str] | None = None,
        library_size: float = 1e4,
        layer: str | None = None,
    ) -> pd.DataFrame:
        """Denoised expression: the decoded mean at the posterior mean, in counts per ``library_size``.

        Returns
        -------
        float32 DataFrame, spots x ``genes`` (all genes by default: that is a dense array).
        """
        adata = self._data(adata)
        columns = self._names if genes is None else pd.Index(as_names(genes))
        index = self._names.get_indexer(columns)
        if (index < 0).any():
            raise KeyError(f"Not genes of the model: {', '.join(map(repr, columns[index < 0][:5]))}.")
        out = np.empty((adata.n_obs, len(columns)), dtype=np.float32)
        for rows, _, p, _ in self._decoded(adata, layer):
            out[rows] = p[:, torch.from_numpy(index)].cpu().numpy() * library_size
        return pd.DataFrame(out, index=adata.obs_names, columns=columns)

    @torch.no_grad()
    def get_likelihood(
        self, adata: AnnData | None = None, *, target: AnnData | None = None, layer: str | None = None
    ) -> pd.Series:
        """Log likelihood of each spot's counts at its posterior mean, float64 ``(n_obs,)``, in nats.

        Parameters
        ----------
        adata
            Counts that the latent position is inferred from; by default those of the model.
        target
            Counts to explain, of the same spots and genes, for example molecules kept aside; by default ``adata``.
            Their total per spot is taken as known.
        layer
            Layer with the counts, in both.
        """
        adata = self._data(adata)
        target = adata if target is None else target
        if target.n_obs != adata.n_obs:
            raise ValueError(f"target has {target.n_obs} spots, adata {adata.n_obs}; they must be the same spots.")
        out = np.empty(adata.n_obs)
        theta = self.module.log_theta.exp().double()
        other: Iterable[Any] = self.batches(target, layer=layer, batch_size=_BATCH // 4)
        for (rows, _, p, _), (_, block, _) in zip(self._decoded(adata, layer), other, strict=True):
            counts = dense(block, self.device).double()
            mean = p.double() * counts.sum(1, keepdim=True)
            out[rows] = nb_log_prob(counts, mean, theta).sum(1).cpu().numpy()
        return pd.Series(out, index=adata.obs_names, name="log_likelihood")

    def _decoded(
        self, adata: AnnData, layer: str | None
    ) -> Iterator[tuple[slice, sp.csr_matrix, torch.Tensor, torch.Tensor | None]]:
        """Proportions of each batch at the posterior mean."""
        for rows, block, codes in self.batches(adata, layer=layer, batch_size=_BATCH // 4):
            c = None if codes is None else torch.from_numpy(codes).to(self.device)
            z = self.encode(dense(self.features(block), self.device), c)
            z = z * torch.from_numpy(sizes(block) > 0).to(z)[:, None]
            yield rows, block, torch.softmax(self._logits(z, c), dim=1), c
