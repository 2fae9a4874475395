"""Adapter: scvi-tools models as encoders."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from st_concepts._counts.frames import column
from st_concepts._counts.kind import is_sparse
from st_concepts.models._encoder import FeatureMatrix, FirstLayer

if TYPE_CHECKING:
    from scvi.model import SCANVI, SCVI, LinearSCVI


class _Rest(nn.Module):
    """scvi's encoder behind its first linear layer.

    Models that inject covariates into deeper layers need them there too: the last ``n_carried`` pre-activations are the
    one-hot covariates, which arrive through the bias and have no weights.
    """

    def __init__(self, blocks: list[list[nn.Module]], injected: list[bool], mean: nn.Module, n_carried: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.injected, self.mean, self.n_carried = injected, mean, n_carried

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        width = a.shape[1] - self.n_carried
        x, covariates = a[:, :width], a[:, width:]
        for block, injected in zip(self.blocks, self.injected, strict=True):
            for layer in block.children():
                if injected and isinstance(layer, nn.Linear):
                    x = torch.cat([x, covariates], dim=1)
                x = layer(x)
        return self.mean(x)


class ScviEncoder:
    """A trained scvi-tools model, following the encoder protocol.

    Holds a frozen copy of the encoder network: later training of the model does not change it. Built by `from_scvi`.

    Attributes
    ----------
    var_names, n_latent, fingerprint, device, first_layer
        See `st_concepts.models._encoder.Encoder`.
    section_key
        Column of ``obs`` with the batches that the model was set up with, or `None`.
    layer
        Layer that the model was set up with, which is read by default; `None` for X.
    """

    def __init__(
        self,
        first: FirstLayer,
        var_names: pd.Index,
        *,
        log_variational: bool,
        covariates: list[tuple[str, list[Any]]],
        section_key: str | None = None,
        layer: str | None = None,
    ) -> None:
        self.section_key = section_key
        self._first, self._var_names, self._log_variational = first, var_names, log_variational
        self._covariates, self._layer = covariates, layer
        self._fingerprint = _digest(first, var_names)

    @property
    def var_names(self) -> pd.Index:
        """Names of the features, in the order of the columns that `features` takes."""
        return self._var_names

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return self._first.rest.get_parameter("mean.weight").shape[0]

    @property
    def fingerprint(self) -> str:
        """Digest of weights and feature names."""
        return self._fingerprint

    @property
    def layer(self) -> str | None:
        """Layer that the model was set up with (``setup_anndata(layer=)``); `None` for X."""
        return self._layer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._first.weight.device

    @property
    def first_layer(self) -> FirstLayer:
        """Linear first layer, and the rest from its batch normalisation on."""
        return self._first

    def features(self, counts: FeatureMatrix) -> FeatureMatrix:
        """Counts to float32 ``log1p(counts)``, or the counts themselves for a model with ``log_variational=False``."""
        counts = counts.astype(np.float32)
        if not self._log_variational:
            return counts
        return counts.log1p() if is_sparse(counts) else np.log1p(counts)

    def codes(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Code of each spot's combination of covariates, int64 ``(n,)``; `None` where the encoder does not see them."""
        if not self._covariates:
            return None
        codes = np.zeros(obs.shape[0], dtype=np.int64)
        for key, categories in self._covariates:
            if key not in obs:
                raise ValueError(f"The scvi model was set up with obs[{key!r}], which is missing here.")
            values = column(obs, key)
            lookup = {str(c): i for i, c in enumerate(categories)}
            code = values.astype(str).map(lookup).to_numpy(dtype=np.float64)
            if np.isnan(code).any():
                unknown = sorted(set(values.astype(str)) - set(lookup))
                raise ValueError(
                    f"obs[{key!r}] holds {unknown[:5]}, which the scvi model was not trained with. "
                    f"Known: {list(lookup)[:10]}."
                )
            codes = codes * len(categories) + code.astype(np.int64)
        return codes

    def encode(self, features: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Dense features ``(n, n_vars)`` to posterior means ``(n, n_latent)``, differentiable."""
        bias = self._first.bias[0] if codes is None else self._first.bias[codes]
        return self._first.rest(features @ self._first.weight.T + bias)


def from_scvi(model: SCVI | LinearSCVI | SCANVI) -> ScviEncoder:
    """Use a trained scvi-tools model wherever this package takes an encoder.

    Parameters
    ----------
    model
        Trained ``SCVI``, ``LinearSCVI`` or ``SCANVI`` model, minified ones too. Its posterior mean, in eval mode and
        without sampling, is what is explained. Counts are read from the layer that it was set up with. Batch and
        categorical covariates that its encoder sees (``encode_covariates=True``) become covariate codes.

    Returns
    -------
    A `ScviEncoder`, whose latent means equal ``model.get_latent_representation()``.

    Raises
    ------
    ImportError
        If scvi-tools is not installed.
    TypeError
        If ``model`` is of another class.
    ValueError
        If the model is not trained, its latent distribution is not normal, or continuous covariates or batch embeddings
        enter its encoder.

    References
    ----------
    Lopez et al. 2018, Nat Methods 15:1053.

    Examples
    --------
    >>> encoder = from_scvi(scvi_model)                                      # doctest: +SKIP
    >>> x, codes = encoder.features(adata.X), encoder.codes(adata.obs)      # doctest: +SKIP
    """
    try:
        from scvi.model import SCANVI, SCVI, LinearSCVI
    except ImportError as error:
        raise ImportError("from_scvi needs scvi-tools: pip install 'st_concepts[scvi]'.") from error
    if not isinstance(model, SCVI | LinearSCVI | SCANVI):
        raise TypeError(
            f"from_scvi takes an SCVI, LinearSCVI or SCANVI model, not {type(model).__name__}. "
            "Other torch encoders can be explained with st_concepts.attribution.explain."
        )
    if not model.is_trained:
        raise ValueError(f"This {type(model).__name__} model is not trained yet. Call model.train() first.")
    encoder = model.module.z_encoder
    if encoder.distribution != "normal":
        raise ValueError(
            f"This model's latent distribution is {encoder.distribution!r}, whose mean has no closed form. "
            "Train it with latent_distribution='normal'."
        )
    var_names = pd.Index(model.adata.var_names)
    first, levels = _split(encoder, len(var_names))
    return ScviEncoder(
        first,
        var_names,
        log_variational=model.module.log_variational,
        covariates=_covariates(model, levels),
        section_key=_section_key(model),
        layer=_layer(model),
    )


def _layer(model: Any) -> str | None:
    """Layer that the counts of the model come from, by its own registry; `None` for X."""
    from scvi import REGISTRY_KEYS

    held = model.adata_manager.data_registry[REGISTRY_KEYS.X_KEY]
    return str(held.attr_key) if held.attr_name == "layers" else None


def _split(encoder: Any, n_vars: int) -> tuple[FirstLayer, list[int]]:
    """First layer and rest of scvi's encoder, and the number of levels of each covariate (0: not seen)."""
    layers = encoder.encoder
    levels = list(layers.n_cat_list)
    blocks = [
        [layer for layer in block if layer is not None and not isinstance(layer, nn.Dropout)]
        for block in copy.deepcopy(layers.fc_layers)
    ]
    linear = blocks[0].pop(0)
    n_one_hot = sum(levels)
    if linear.in_features != n_vars + n_one_hot:
        raise ValueError(
            "Continuous covariates or a batch embedding enter this model's encoder, which is not supported. "
            "Train the model with encode_covariates=False."
        )
    one_hot = _combinations(levels)
    with torch.no_grad():
        weight = linear.weight[:, :n_vars].clone()
        own = torch.zeros(len(weight), device=weight.device) if linear.bias is None else linear.bias
        bias = own + one_hot.to(weight) @ linear.weight[:, n_vars:].T
        injected = [i > 0 and n_one_hot > 0 and layers.inject_into_layer(i) for i in range(len(blocks))]
        n_carried = n_one_hot if any(injected) else 0
        if n_carried:
            weight = torch.cat([weight, weight.new_zeros(n_carried, n_vars)])
            bias = torch.cat([bias, one_hot.to(bias)], dim=1)
    rest = _Rest(blocks, injected, copy.deepcopy(encoder.mean_encoder), n_carried).eval().requires_grad_(False)
    return FirstLayer(weight, bias, rest), levels


def _combinations(levels: list[int]) -> torch.Tensor:
    """One-hot covariates of every combination, ``(n_codes, sum(levels))``, the last covariate changing fastest."""
    table = torch.zeros(1, 0)
    for n in levels:
        if n:
            table = torch.cat([table.repeat_interleave(n, 0), torch.eye(n).repeat(len(table), 1)], dim=1)
    return table


def _covariates(model: Any, levels: list[int]) -> list[tuple[str, list[Any]]]:
    """Column and categories of each covariate that the encoder sees, in the order of its one-hot inputs."""
    if not any(levels):
        return []
    from scvi import REGISTRY_KEYS

    manager = model.adata_manager
    batch = manager.get_state_registry(REGISTRY_KEYS.BATCH_KEY)
    found = [(batch.original_key, list(batch.categorical_mapping))]
    if len(levels) > 1:
        extra = manager.get_state_registry(REGISTRY_KEYS.CAT_COVS_KEY)
        found += [(key, list(extra.mappings[key])) for key in extra.field_keys]
    return [covariate for covariate, n in zip(found, levels, strict=True) if n]


def _section_key(model: Any) -> str | None:
    from scvi import REGISTRY_KEYS

    key = str(model.adata_manager.get_state_registry(REGISTRY_KEYS.BATCH_KEY).original_key)
    return None if key.startswith("_scvi") else key  # a column that scvi makes where none was named


def _digest(first: FirstLayer, var_names: pd.Index) -> str:
    digest = hashlib.sha256("\n".join(map(str, var_names)).encode())
    for tensor in (first.weight, first.bias, *first.rest.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
