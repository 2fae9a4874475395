"""`SpotVAE`: spots as samples, genes as features."""

from __future__ import annotations

import os
from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from st_concepts._counts.check import check_counts, count_matrix, where_of
from st_concepts._counts.obs import section_names
from st_concepts._counts.origins import refuse_inside
from st_concepts._counts.rows import in_memory
from st_concepts._counts.sections import one_key
from st_concepts.models import _checkpoint
from st_concepts.models._attach import check_attached
from st_concepts.models._headers import check_spot
from st_concepts.models._spot.data import Source, SpotData
from st_concepts.models._spot.encoder import SpotEncoder, as_device
from st_concepts.models._spot.fit import FitOptions, fit_module
from st_concepts.models._spot.runtime import Plan, Runtime
from st_concepts.models._spot.start import StartOptions, empty_module, start_module
from st_concepts.models._spot.state import Checkpoints

_MANY, _MANY_BATCH = 10_000, 128  # spots from which steps take more of them


class SpotVAE(SpotEncoder):
    r"""Variational autoencoder of spots, with a negative binomial likelihood of their counts.

    .. math::
        \mu(x) = W_e (x - m) + f(x), \qquad c \sim \mathrm{NB}(s \cdot \mathrm{softmax}(b + z W_d + g(z)), \theta)

    ``x`` are log1p of size-normalised counts. ``W_e``, ``W_d``, ``b`` and ``m`` start at a truncated SVD, the last
    layers of the small nets ``f`` and ``g`` at zero: the model starts at the PCA solution and may only improve on it.

    Parameters
    ----------
    adata
        Raw counts of ``n_obs`` spots x ``n_vars`` genes: dense, CSR or CSC, any integer or float type, views, backed
        and lazy ones too. The object is kept by reference and never changed.
    layer
        Layer that holds the counts; `None` for ``adata.X``.
    section_key
        Column of ``adata.obs`` that names the section of each spot. Each section gets its own centre in the encoder
        and its own base rates in the decoder. Spots of a section that the model never saw use the average ones.
    batch_key
        The same, by the name that scanpy and scvi-tools have for it.
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
        section_key: str | None = None,
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
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed} must be at least 0 and below 2**63.")
        key = one_key(section_key, batch_key=batch_key)
        summary = check_counts(adata, layer)
        counted = int((summary.spot_totals > 0).sum())
        if min(counted, adata.n_vars) < 2:
            raise ValueError(
                f"{counted} spots with counts and {adata.n_vars} genes are too few for any model: at least two "
                "of each are needed, and hundreds for a useful one."
            )
        if min(adata.n_obs, adata.n_vars) <= n_latent:
            raise ValueError(
                f"{adata.n_obs} spots and {adata.n_vars} genes are too few for n_latent={n_latent} latent dimensions; "
                f"pass n_latent below {min(adata.n_obs, adata.n_vars)}."
            )
        self._adata = adata
        self._names = pd.Index([str(v) for v in adata.var_names])
        self._config = {
            "layer": layer,
            "batch_key": key,
            "n_latent": int(n_latent),
            "n_hidden": int(n_hidden),
            "n_layers": int(n_layers),
            "init": init,
            "seed": int(seed),
            "sections": section_names(adata.obs, key, option="batch_key" if section_key is None else "section_key"),
            "target_sum": float(np.median(summary.spot_totals[summary.spot_totals > 0])),
        }
        self._history = []

    def __repr__(self) -> str:
        c = self._config
        state = "not fitted"
        if self._module is not None:
            known = [r["validation_nll"] for r in self._history if np.isfinite(r["validation_nll"])]
            judged = f", held-out NLL {min(known):.1f} per spot" if known else ""
            state = f"fitted, {self.fingerprint}, {max(len(self._history) - 1, 0)} epochs{judged}"
        return f"SpotVAE(n_vars={len(self._names)}, n_latent={c['n_latent']}, init={c['init']!r}; {state})"

    # ------------------------------------------------------------------------------------------------- fitting

    def fit(
        self,
        *,
        max_epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float = 0.0,
        kl_weight: float = 1.0,
        validation_fraction: float = 0.05,
        patience: int = 5,
        min_delta: float = 1e-4,
        device: str | torch.device = "auto",
        devices: int | str = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        precision: str = "32-true",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_minutes: float = 10.0,
        progress: bool = True,
    ) -> Self:
        """Fit by molecular cross-validation; the model is left in its best state, never worse than its start.

        A share of the *molecules* of every spot (of 5,000 spots where there are more) is kept aside, no spot is.
        Training goes on while their likelihood improves. Where no epoch beats the warm start, the warm start is made
        again from all counts.

        Counts may be in memory, in a backed h5ad, or lazy (``anndata.experimental.read_lazy``). Above 30 million
        nonzeros they are not held in memory but read block by block, 1,000 neighbouring spots at a time; blocks are
        drawn in random order, as many as hold 10 million nonzeros (4 to 64) at a time, and the spots of those are
        shuffled. The same counts give the same model wherever they are.

        Parameters
        ----------
        max_epochs
            Most epochs; by default as many as make about 4,000 steps, between 20 and 400 (``init="random"``: 400).
            0 stops at the start.
        batch_size
            Spots a step; by default 32, and 128 from 10,000 spots on. Over several processes it is that of all.
        lr, weight_decay
            Of AdamW; ``lr`` defaults to 2e-4 with the warm start (4e-4 from 128 spots a step on) and 1e-3 without.
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
        devices, num_nodes, strategy, precision
            As in ``lightning_fabric.Fabric``: processes (GPUs, or CPU processes) on each of so many machines, how they
            work together (``"ddp"``, ``"ddp_spawn"``...), and ``"32-true"`` or ``"bf16-mixed"``. The steps are those of
            one process, shared out: the result is the same to rounding. With ``"ddp"``, Fabric starts the other
            processes by running your script again, so they all go on after `fit` with the same model.
        checkpoint
            Folder in which to keep the state of the fit: after every epoch, and every ``checkpoint_minutes`` within
            one (0: not). Calling `fit` again with the same data, options and folder goes on from there, and ends
            with the same weights to the last bit, however it was stopped. ``max_epochs`` and ``patience`` may change.
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
            An option is out of range, the counts changed since the model was made, or the checkpoint is damaged or
            of another fit.
        FloatingPointError
            The loss became non-finite. The model stays as it was before the call.
        OSError
            A checkpoint cannot be written; the one before is left.
        """
        c = self._config
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"validation_fraction={validation_fraction} must be at least 0 and below 1.")
        if (batch_size is not None and batch_size < 1) or patience < 1 or (max_epochs is not None and max_epochs < 0):
            raise ValueError("batch_size and patience must be at least 1, max_epochs at least 0.")
        if lr is not None and not lr > 0:
            raise ValueError(f"lr={lr} must be above 0.")
        if checkpoint_minutes < 0:
            raise ValueError(f"checkpoint_minutes={checkpoint_minutes} must be at least 0.")
        svd_start = c["init"] == "svd"
        plan = Plan(as_device(device), devices, num_nodes, strategy, precision)
        source = self._source()
        if checkpoint is not None:
            refuse_inside(self._adata, checkpoint, "checkpoint")
        if "spawn" in strategy and not in_memory(source.X):
            raise ValueError(
                f"strategy={strategy!r} sends the counts to the other processes, but they are on the disk. Use "
                "strategy='ddp' in a script, or load them: adata.to_memory()."
            )
        n_obs = source.X.shape[0]
        if batch_size is None:
            batch_size = 32 if n_obs < _MANY else _MANY_BATCH
        if max_epochs is None:
            max_epochs = int(np.clip(4000 // -(-n_obs // batch_size), 20, 400)) if svd_start else 400
        if lr is None:
            lr = (2e-4 if batch_size < _MANY_BATCH else 4e-4) if svd_start else 1e-3
        options = FitOptions(
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            kl_weight=kl_weight,
            patience=patience,
            min_delta=min_delta,
            seed=c["seed"],
            progress=progress,
        )
        where = None if checkpoint is None else (checkpoint, checkpoint_minutes)
        state, history = plan.run(_fit, source, StartOptions.of(c), options, validation_fraction, where)
        module = empty_module(len(self._names), StartOptions.of(c))
        module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
        self._become(module.to(plan.device).eval(), history)
        return self

    def _source(self) -> Source:
        """The counts; the data may have changed since the model was made."""
        if self._adata is None:
            raise ValueError("This model was loaded from a file and has no data; make a new SpotVAE(adata) to fit.")
        names = self._adata.var_names
        if not pd.Index(names.astype(str)).equals(self._names):
            raise ValueError("adata.var_names changed after SpotVAE(adata) was made; make a new SpotVAE(adata).")
        return Source(
            count_matrix(self._adata, self.layer),
            self.codes(self._adata.obs),
            max(len(self._config["sections"]), 1),
            self.target_sum,
            pd.Index(names.astype(str)),
            where_of(self.layer),
        )

    # ------------------------------------------------------------------------------------------- on the disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, configuration, gene names and history to one file, through a temporary one."""
        header = self._header() | {"var_names": list(self._names)}
        _checkpoint.write(path, "SpotVAE", self.module.state_dict(), header)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        adata: AnnData | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> Self:
        """Read a model that `save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path
            The file.
        adata
            Data for the methods that take none, ``model.embed()`` for example, checked as `SpotVAE` checks them. They
            need not be those of the fit; genes are matched by name.
        device
            ``"auto"`` takes a CUDA device where there is one.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; not a model file, truncated, changed, or from a newer version.
        KeyError, ValueError
            ``adata`` lacks the column of sections or half of the genes, or holds no raw counts.
        """
        state, header = _checkpoint.read(path, "SpotVAE")
        check_spot(str(path), state, header)
        model = cls.__new__(cls)
        model._config = c = header["config"]
        model._names = pd.Index(header["var_names"])
        module = empty_module(len(model._names), StartOptions.of(c)).to(as_device(device))
        model._restore(str(path), module, state, header)
        if adata is not None:
            check_attached(adata, model._names, layer=c["layer"], section_key=c["batch_key"], sections=c["sections"])
            model._adata = adata
        return model


def _fit(
    runtime: Runtime,
    source: Source,
    start: StartOptions,
    options: FitOptions,
    fraction: float,
    checkpoint: tuple[str | os.PathLike[str], float] | None,
) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """Weights and history of a fit; what every process runs."""
    data = SpotData(source, fraction=fraction, seed=start.seed)
    if data.n_obs < 2 or not data.sample.n:
        raise ValueError(
            f"{data.n_obs} of {source.X.shape[0]} spots have counts to train on, {data.sample.n} to judge the fit by; "
            f"that is too few. Lower validation_fraction={fraction}, or remove spots without counts: "
            "sc.pp.filter_cells(adata, min_counts=1)."
        )
    checkpoints = None
    if checkpoint is not None:
        free = {"max_epochs", "patience", "progress"}
        identity = {k: v for k, v in vars(options).items() if k not in free}
        identity |= vars(start) | {"validation_fraction": fraction, "data": data.digest()}
        checkpoints = Checkpoints(checkpoint[0], identity, minutes=checkpoint[1])
    if checkpoints is not None and checkpoints.exist():
        module = empty_module(data.n_vars, start).to(runtime.device)
    else:
        module = start_module(data, start, runtime.device)
    history, best_epoch = fit_module(module, data, options, runtime, checkpoints)
    if start.init == "svd" and fraction > 0 and best_epoch == 0:
        module = start_module(SpotData(source, fraction=0.0, seed=start.seed), start, runtime.device)
    # arrays: tensors would be sent by way of a file that ends with the process
    return {k: v.detach().cpu().numpy() for k, v in module.state_dict().items()}, history
