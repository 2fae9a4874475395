"""`SpotVAE`: spots as samples, genes as features."""

from __future__ import annotations

import os
from typing import Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts.io._rows import as_csr
from st_concepts.models import _checkpoint
from st_concepts.models._features import sizes
from st_concepts.models._fit import FitData, FitOptions, fit_module, thin
from st_concepts.models._sections import section_names
from st_concepts.models._spot_encoder import SpotEncoder, as_device
from st_concepts.models._start import StartOptions, empty_module, start_module
from st_concepts.models._validate import check_block, check_counts, check_var_names, count_matrix


class SpotVAE(SpotEncoder):
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
        n_latent: int = 20,
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
        self._adata = adata
        self._var_names = pd.Index([str(v) for v in adata.var_names])
        self._config = {
            "layer": layer,
            "batch_key": batch_key,
            "n_latent": int(n_latent),
            "n_hidden": int(n_hidden),
            "n_layers": int(n_layers),
            "init": init,
            "seed": int(seed),
            "sections": section_names(adata.obs, batch_key),
            "target_sum": float(np.median(summary.spot_totals[summary.spot_totals > 0])),
        }
        self._history = []
        self._module = None
        self._fingerprint = None

    def __repr__(self) -> str:
        c = self._config
        state = "not fitted"
        if self._module is not None:
            known = [r["validation_nll"] for r in self._history if np.isfinite(r["validation_nll"])]
            judged = f", held-out NLL {min(known):.1f} per spot" if known else ""
            state = f"fitted, {self.fingerprint}, {max(len(self._history) - 1, 0)} epochs{judged}"
        return f"SpotVAE(n_vars={len(self._var_names)}, n_latent={c['n_latent']}, init={c['init']!r}; {state})"

    # ------------------------------------------------------------------------------------------------- fitting

    def fit(
        self,
        *,
        max_epochs: int | None = None,
        batch_size: int = 32,
        lr: float | None = None,
        weight_decay: float = 0.0,
        kl_weight: float = 1.0,
        validation_fraction: float = 0.05,
        patience: int = 5,
        min_delta: float = 1e-4,
        device: str | torch.device = "auto",
        progress: bool = True,
    ) -> Self:
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
            Of AdamW; ``lr`` defaults to 2e-4 with the warm start and 1e-3 without.
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

        Warns
        -----
        UserWarning
            Interrupted with Ctrl-C: the best state so far is kept.

        Raises
        ------
        ValueError
            An option is out of range, or the counts changed since the model was made.
        FloatingPointError
            The loss became non-finite. The model stays as it was before the call.
        """
        c = self._config
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"validation_fraction={validation_fraction} must be at least 0 and below 1.")
        if batch_size < 1 or patience < 1 or (max_epochs is not None and max_epochs < 0):
            raise ValueError("batch_size and patience must be at least 1, max_epochs at least 0.")
        if lr is not None and not lr > 0:
            raise ValueError(f"lr={lr} must be above 0.")
        svd_start = c["init"] == "svd"
        target = as_device(device)
        counts, codes = self._training_counts()
        if max_epochs is None:
            steps = -(-counts.shape[0] // batch_size)
            max_epochs = int(np.clip(4000 // steps, 20, 400)) if svd_start else 400
        options = FitOptions(
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr if lr is not None else (2e-4 if svd_start else 1e-3),
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
        start = StartOptions.of(c)
        rows = _not_empty(train)
        module = start_module(train[rows], _take(codes, rows), start, target)
        data = FitData(train[rows], None if held is None else held[rows], _take(codes, rows), c["target_sum"])
        history, best_epoch = fit_module(module, data, options)
        if svd_start and held is not None and best_epoch == 0:
            rows = _not_empty(counts)
            module = start_module(counts[rows], _take(codes, rows), start, target)
        self._module, self._history, self._fingerprint = module.eval(), history, None
        return self

    def _training_counts(self) -> tuple[sp.csr_matrix, np.ndarray | None]:
        """Counts and section codes, checked once more: the data may have changed since the model was made."""
        if self._adata is None:
            raise ValueError("This model was loaded from a file and has no data; make a new SpotVAE(adata) to fit.")
        names = self._adata.var_names
        if not pd.Index(names.astype(str)).equals(self._var_names):
            raise ValueError("adata.var_names changed after SpotVAE(adata) was made; make a new SpotVAE(adata).")
        X = count_matrix(self._adata, self.layer)
        counts = as_csr(X if sp.issparse(X) or isinstance(X, np.ndarray) else X[:])
        check_block(counts, names, "adata.X" if self.layer is None else f"adata.layers[{self.layer!r}]")
        return counts, self.codes(self._adata.obs)

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
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "auto") -> Self:
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
        module = empty_module(len(model._var_names), StartOptions.of(c))
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} does not hold the weights that its header describes: {error}") from error
        model._module = module.to(as_device(device)).eval()
        model._fingerprint = None
        if model.fingerprint != header["fingerprint"]:
            raise ValueError(
                f"{str(path)!r} was changed after it was saved (fingerprint {model.fingerprint}, "
                f"expected {header['fingerprint']}). Save the model again."
            )
        return model


def _not_empty(counts: sp.csr_matrix) -> np.ndarray | slice:
    """Rows with counts; spots without any say nothing about expression and are left out of the fit."""
    full = sizes(counts) > 0
    return slice(None) if full.all() else np.flatnonzero(full)


def _take(codes: np.ndarray | None, rows: np.ndarray | slice) -> np.ndarray | None:
    return None if codes is None else codes[rows]
