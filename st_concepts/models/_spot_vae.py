"""`SpotVAE`: spots as samples, genes as features."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts.io._rows import as_csr, iter_rows
from st_concepts.models import _checkpoint
from st_concepts.models._encoder import FeatureMatrix, FirstLayer
from st_concepts.models._features import log_normalize
from st_concepts.models._fit import FitData, FitOptions, dense, fit_module, thin
from st_concepts.models._likelihood import nb_log_prob
from st_concepts.models._modules import SpotModule
from st_concepts.models._validate import (
    align_genes,
    check_block,
    check_counts,
    check_var_names,
    count_matrix,
    take_genes,
)
from st_concepts.models._warmstart import start_dispersion, truncated_svd, warm_start

_BATCH = 1024  # rows a batch where nothing is trained


class NotFittedError(RuntimeError):
    """The model has no weights yet."""


class SpotVAE:
    r"""Variational autoencoder of spots, with a negative binomial likelihood of their counts.

    .. math::
        \mu(x) = W_e (x - m) + f(x), \qquad c \sim \mathrm{NB}(s \cdot \mathrm{softmax}(b + z W_d + g(z)), \theta)

    ``x`` are log1p of size-normalised counts. ``W_e``, ``W_d``, ``b`` and ``m`` start at a truncated SVD, the last
    layers of the small nets ``f`` and ``g`` at zero: the model starts at the PCA solution and may only improve on it.

    Parameters
    ----------
    adata
        Raw counts of ``n_obs`` spots x ``n_vars`` genes: dense, CSR or CSC, any integer or float type, views too.
        The object is kept by reference and never changed.
    layer
        Layer that holds the counts; `None` for ``adata.X``.
    batch_key
        Column of ``adata.obs`` that names the section of each spot. Each section gets its own centre in the encoder
        and its own base rates in the decoder. Spots of a section that the model never saw use the average ones.
    n_latent
        Number of latent dimensions.
    n_hidden, n_layers
        Width and number of hidden layers of the residual nets.
    init
        ``"svd"`` for the warm start; ``"random"`` for the plain VAE of Brocki & Chung 2019.
    seed
        Seed of everything random. The same seed on the same machine, with the same number of threads, gives the same
        result bit for bit; on a GPU it may differ in the last bits.

    Raises
    ------
    ValueError, KeyError
        Anything but raw counts, duplicate gene names, fewer spots or genes than latent dimensions, a missing column.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=2, progress=False)
    >>> model.embed().shape
    (200, 5)
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        n_latent: int = 15,
        n_hidden: int = 128,
        n_layers: int = 1,
        init: Literal["svd", "random"] = "svd",
        seed: int = 0,
    ) -> None:
        if init not in ("svd", "random"):
            raise ValueError(f"init={init!r} is unknown; use 'svd' (warm start) or 'random'.")
        for name, value in (("n_latent", n_latent), ("n_hidden", n_hidden), ("n_layers", n_layers)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        summary = check_counts(adata, layer)
        if min(adata.n_obs, adata.n_vars) <= n_latent:
            raise ValueError(
                f"{adata.n_obs} spots and {adata.n_vars} genes are too few for n_latent={n_latent} latent dimensions; "
                f"pass n_latent below {min(adata.n_obs, adata.n_vars)}."
            )
        if batch_key is not None:
            _require_sections(adata, batch_key)
            sections = [str(s) for s in pd.Categorical(adata.obs[batch_key]).remove_unused_categories().categories]
        else:
            sections = []
        self._adata: AnnData | None = adata
        self._var_names = pd.Index([str(v) for v in adata.var_names])
        self._config: dict[str, Any] = {
            "layer": layer,
            "batch_key": batch_key,
            "n_latent": int(n_latent),
            "n_hidden": int(n_hidden),
            "n_layers": int(n_layers),
            "init": init,
            "seed": int(seed),
            "sections": sections,
            "target_sum": float(np.median(summary.spot_totals[summary.spot_totals > 0])),
        }
        self._history: list[dict[str, float]] = []
        self._module: SpotModule | None = None
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        c = self._config
        state = f"fitted, {self.fingerprint}" if self._module is not None else "not fitted"
        return f"SpotVAE(n_vars={len(self._var_names)}, n_latent={c['n_latent']}, init={c['init']!r}; {state})"

    # ------------------------------------------------------------------------------------------------- fitting

    def fit(
        self,
        *,
        max_epochs: int | None = None,
        batch_size: int = 64,
        lr: float | None = None,
        weight_decay: float = 0.0,
        kl_weight: float = 1.0,
        validation_fraction: float = 0.1,
        patience: int = 5,
        min_delta: float = 1e-4,
        device: str | torch.device = "auto",
        progress: bool = True,
    ) -> SpotVAE:
        """Fit by molecular cross-validation; the model is left in its best state, never worse than its start.

        A share of the *molecules* of every spot is kept aside, no spot is. Training goes on while their likelihood
        improves. Where no epoch beats the warm start, the warm start is made again from all counts.

        Parameters
        ----------
        max_epochs
            Most epochs; by default as many as make about 4,000 steps, between 20 and 400 (``init="random"``: 400).
            0 stops at the start.
        batch_size
            Spots a step.
        lr, weight_decay
            Of AdamW; ``lr`` defaults to 1e-4 with the warm start and 1e-3 without.
        kl_weight
            Weight of the KL term.
        validation_fraction
            Share of the molecules to stop on (Batson, Royce & Webber 2019); 0 trains for ``max_epochs`` on all.
        patience
            Epochs without improvement after which to stop.
        min_delta
            Smallest relative improvement that counts.
        device
            ``"auto"`` takes a CUDA device where there is one.
        progress
            Show a progress bar.

        Returns
        -------
        The model itself. ``history`` has a row per epoch.

        Raises
        ------
        ValueError
            An option is out of range.
        """
        c = self._config
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"validation_fraction={validation_fraction} must be at least 0 and below 1.")
        if batch_size < 1 or patience < 1 or (max_epochs is not None and max_epochs < 0):
            raise ValueError("batch_size and patience must be at least 1, max_epochs at least 0.")
        if self._adata is None:
            raise ValueError("This model was loaded from a file and has no data; make a new SpotVAE(adata) to fit.")
        svd_start = c["init"] == "svd"
        counts = as_csr(count_matrix(self._adata, c["layer"])[:])
        codes = self._section_codes(self._adata.obs)
        if max_epochs is None:
            steps = -(-counts.shape[0] // batch_size)
            max_epochs = int(np.clip(4000 // steps, 20, 400)) if svd_start else 400
        options = FitOptions(
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr if lr is not None else (1e-4 if svd_start else 1e-3),
            weight_decay=weight_decay,
            kl_weight=kl_weight,
            patience=patience,
            min_delta=min_delta,
            seed=c["seed"],
            progress=progress,
        )
        if validation_fraction > 0:
            train, held = thin(counts, validation_fraction, c["seed"])
        else:
            train, held = counts, None
        target = _device(device)
        module = self._start(train, codes, target)
        history, best_epoch = fit_module(module, FitData(train, held, codes, c["target_sum"]), options)
        if svd_start and held is not None and best_epoch == 0:
            module = self._start(counts, codes, target)
        self._module, self._history = module.eval(), history
        self._fingerprint = None
        return self

    def _start(self, counts: sp.csr_matrix, codes: np.ndarray | None, device: torch.device) -> SpotModule:
        c = self._config
        n_sections = max(len(c["sections"]), 1)
        generator = torch.Generator().manual_seed(c["seed"])
        module = SpotModule(
            counts.shape[1],
            n_latent=c["n_latent"],
            n_hidden=c["n_hidden"],
            n_layers=c["n_layers"],
            n_sections=n_sections,
            generator=generator,
        )
        section = np.zeros(counts.shape[0], dtype=np.int64) if codes is None else codes
        proportions = np.zeros((n_sections, counts.shape[1]))
        for s in range(n_sections):
            proportions[s] = np.asarray(counts[section == s].sum(0)).ravel()
            proportions[s] /= max(proportions[s].sum(), 1.0)
        if c["init"] == "random":
            with torch.no_grad():
                floor = 1e-3 / counts.shape[1]
                module.log_rate.copy_(torch.from_numpy(np.log(np.maximum(proportions, floor))))
            return module.to(device)

        def stream() -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
            for rows, block in iter_rows(counts, _BATCH):
                yield log_normalize(block, c["target_sum"]), section[rows]

        svd = truncated_svd(stream, n_sections=n_sections, k=c["n_latent"], seed=c["seed"])
        warm_start(module, svd, proportions)
        module.to(device)
        start_dispersion(module, self._dispersion_spots(counts, codes, device))
        return module

    def _dispersion_spots(
        self, counts: sp.csr_matrix, codes: np.ndarray | None, device: torch.device
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """A few thousand evenly spread spots, dense, for the first estimate of the dispersions."""
        most = max(256, min(2048, int(2.5e7 // counts.shape[1])))  # at most 100 MB
        rows = np.unique(np.linspace(0, counts.shape[0] - 1, min(most, counts.shape[0])).astype(np.int64))
        block = counts[rows]
        x = dense(log_normalize(block, self._config["target_sum"]), device)
        return [(x, dense(block, device), None if codes is None else torch.from_numpy(codes[rows]).to(device))]

    # ------------------------------------------------------------------------------------- encoder protocol

    @property
    def module(self) -> SpotModule:
        """The torch module, in eval mode."""
        if self._module is None:
            raise NotFittedError("The model is not fitted yet: call model.fit() first.")
        return self._module

    @property
    def var_names(self) -> pd.Index:
        """Genes of the model, in the order of its columns."""
        return self._var_names

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

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the weights or the genes do."""
        if self._fingerprint is None:
            self._fingerprint = _checkpoint.fingerprint(self.module.state_dict(), self._var_names)
        return self._fingerprint

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, indexed by ``epoch``; row 0 is the start. ``validation_nll`` is per spot."""
        columns = ["epoch", "train_loss", "validation_nll"]
        return pd.DataFrame(self._history, columns=columns).set_index("epoch")

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
        return self._section_codes(obs)

    def encode(self, features: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Dense features ``(n, n_vars)`` to posterior means ``(n, n_latent)``, differentiable."""
        first = self.first_layer
        return first.rest(features @ first.weight.T + (first.bias[-1] if codes is None else first.bias[codes]))

    def _section_codes(self, obs: pd.DataFrame) -> np.ndarray | None:
        sections = self._config["sections"]
        if not sections:
            return None
        key = self._config["batch_key"]
        if key not in obs:
            return np.full(len(obs), len(sections), dtype=np.int64)
        codes = pd.Index(sections).get_indexer(obs[key].astype(str))
        return np.where(codes < 0, len(sections), codes).astype(np.int64)

    # --------------------------------------------------------------------------------------------- using it

    def batches(
        self, adata: AnnData | None = None, *, layer: str | None = None, batch_size: int = _BATCH
    ) -> Iterator[tuple[slice, sp.csr_matrix, np.ndarray | None]]:
        """Row batches of checked counts, columns in the order of the model.

        Yields
        ------
        Slice of rows, CSR counts ``(b, n_vars)``, section codes ``(b,)`` or `None`.
        """
        adata = self._data(adata)
        X = count_matrix(adata, layer if layer is not None else self.layer_in(adata))
        index = align_genes(pd.Index(adata.var_names.astype(str)), self._var_names)
        codes = self._section_codes(adata.obs)
        for rows, block in iter_rows(X, batch_size):
            check_block(block, adata.var_names, "the count matrix")
            yield rows, take_genes(block, index), None if codes is None else codes[rows]

    def layer_in(self, adata: AnnData) -> str | None:
        """The model's layer where ``adata`` has it, else `None` (``X``)."""
        return self.layer if self.layer in adata.layers else None

    @torch.no_grad()
    def embed(self, adata: AnnData | None = None, *, layer: str | None = None, batch_size: int = _BATCH) -> np.ndarray:
        """Posterior mean of each spot, float32 ``(n_obs, n_latent)``.

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
        module = self.module
        adata = self._data(adata)
        first = self.first_layer
        weight = first.weight.cpu().numpy().T
        bias = first.bias.cpu().numpy()
        out = np.empty((adata.n_obs, self.n_latent), dtype=np.float32)
        for rows, block, codes in self.batches(adata, layer=layer, batch_size=batch_size):
            a = self.features(block) @ weight + (bias[-1] if codes is None else bias[codes])
            out[rows] = module.rest(torch.from_numpy(a.astype(np.float32)).to(self.device)).cpu().numpy()
        return out

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
        latent = np.atleast_2d(np.asarray(latent, dtype=np.float32))
        if latent.shape[1] != self.n_latent:
            raise ValueError(f"latent has {latent.shape[1]} columns; the model has {self.n_latent} latent dimensions.")
        sections = self._config["sections"]
        if section is not None and section not in sections:
            raise ValueError(
                f"Section {section!r} is not one the model was fitted on: {', '.join(sections) or 'none'}."
            )
        code = len(sections) if section is None else sections.index(section)
        z = torch.from_numpy(latent).to(self.device)
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
        columns = self._var_names if genes is None else pd.Index(list(genes))
        index = self._var_names.get_indexer(columns)
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
            yield rows, block, torch.softmax(self._logits(z, c), dim=1), c

    def _data(self, adata: AnnData | None) -> AnnData:
        if adata is not None:
            return adata
        if self._adata is None:
            raise ValueError("This model was loaded from a file and holds no data: pass adata.")
        return self._adata

    # ------------------------------------------------------------------------------------------- on the disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, configuration, gene names and history to one file, through a temporary one."""
        header = {
            "config": self._config,
            "var_names": list(self._var_names),
            "history": [[None if np.isnan(v) else v for v in r.values()] for r in self._history],
            "fingerprint": self.fingerprint,
        }
        _checkpoint.write(path, "SpotVAE", self.module.state_dict(), header)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "auto") -> SpotVAE:
        """Read a model that `save` wrote. Nothing in the file is executed.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; not a model file, truncated, changed, or from a newer version.
        """
        state, header = _checkpoint.read(path, "SpotVAE")
        model = cls.__new__(cls)
        model._adata = None
        model._config = c = header["config"]
        model._var_names = pd.Index(header["var_names"])
        check_var_names(model._var_names)
        keys = ("epoch", "train_loss", "validation_nll")
        model._history = [
            dict(zip(keys, [np.nan if v is None else v for v in r], strict=True)) for r in header["history"]
        ]
        module = SpotModule(
            len(model._var_names),
            n_latent=c["n_latent"],
            n_hidden=c["n_hidden"],
            n_layers=c["n_layers"],
            n_sections=max(len(c["sections"]), 1),
            generator=torch.Generator().manual_seed(0),
        )
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} does not hold the weights that its header describes: {error}") from error
        model._module = module.to(_device(device)).eval()
        model._fingerprint = None
        if model.fingerprint != header["fingerprint"]:
            raise ValueError(
                f"{str(path)!r} was changed after it was saved (fingerprint {model.fingerprint}, "
                f"expected {header['fingerprint']}). Save the model again."
            )
        return model


def _require_sections(adata: AnnData, key: str) -> None:
    if key not in adata.obs:
        have = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise KeyError(f"batch_key={key!r} is not a column of adata.obs (it has: {have}).")
    if adata.obs[key].isna().any():
        raise ValueError(f"adata.obs[{key!r}] has missing values; every spot needs its section.")


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
