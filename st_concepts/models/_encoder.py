"""What an encoder must offer so that concepts and attributions can be computed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import nn

FeatureMatrix: TypeAlias = sp.csr_matrix | np.ndarray


@dataclass(frozen=True)
class FirstLayer:
    """A linear first layer and the rest of the encoder behind it.

    ``encode(x, codes) == rest(x @ weight.T + bias[codes])``: what the factorised attribution engine stands on.

    Attributes
    ----------
    weight
        ``(n_hidden, n_vars)`` tensor.
    bias
        ``(n_codes, n_hidden)`` tensor: one row per covariate code (section, batch); one row where there are none.
    rest
        Module from pre-activations ``(n, n_hidden)`` to latent means ``(n, n_latent)``, in eval mode.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    rest: nn.Module


@runtime_checkable
class Encoder(Protocol):
    """Features in, latent mean out, names of features.

    Everything is deterministic: eval mode, posterior mean, no sampling.
    """

    @property
    def var_names(self) -> pd.Index:
        """Names of the ``n_vars`` features, in the order of the columns that `features` takes."""

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""

    @property
    def fingerprint(self) -> str:
        """Short hexadecimal digest of weights and feature names; changes when either does."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def first_layer(self) -> FirstLayer | None:
        """The factorisation, or `None` where the encoder has no linear first layer."""

    def features(self, counts: FeatureMatrix) -> FeatureMatrix:
        """Counts ``(n, n_vars)`` to float32 features of the same shape and kind; zero stays zero."""

    def codes(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Covariate code of each spot, int64 ``(n,)``, indexing `FirstLayer.bias`; `None` where there are none."""

    def encode(self, features: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Dense features ``(n, n_vars)`` to latent means ``(n, n_latent)``, differentiable."""
