"""An encoder made ready to run: its linear first layer as sparse products, the rest as a frozen net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np
import torch

from st_concepts._counts.kind import is_sparse
from st_concepts._counts.sparse import as_tensor, sparse_product
from st_concepts.attribution._inputs import check_features, evaluating, modules_of
from st_concepts.attribution._methods.base import Method, Options
from st_concepts.models import Encoder, FeatureMatrix

# random numbers held at a time
MAX_DRAWS = 8_000_000
# pre-activations held at a time; without a linear first layer these are dense features
_MAX_HIDDEN = 16_000_000


class Runner:
    """Products with the first layer's weights that never densify a sparse batch, and the net behind them.

    An encoder without a linear first layer is served by the identity: "pre-activations" are then the dense features of
    the batch and everything else stays as it is.

    Parameters
    ----------
    encoder
        See `st_concepts.models._encoder.Encoder`.
    dtype
        ``torch.float32`` or ``torch.float64``, in which everything is computed.

    Notes
    -----
    Use as a context manager: an encoder without first layer is in eval mode inside and as before afterwards. The net
    behind a first layer is a frozen copy, so the model's own modules are never touched.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float32) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, not {dtype}.")
        self.dtype, self.device, self.n_vars = dtype, encoder.device, len(encoder.var_names)
        self.numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
        self._encoder, self._stack = encoder, ExitStack()
        layer = encoder.first_layer
        self.factorised = layer is not None
        if layer is None:
            self.weight = self.transposed = self.bias = None
            parameters = [p for m in modules_of(encoder) for p in m.parameters() if p.is_floating_point()]
            own = parameters[0].dtype if parameters else torch.float32
            self.net: Callable[..., torch.Tensor] = lambda a, codes: encoder.encode(a.to(own), codes).to(dtype)
        else:
            self.weight = layer.weight.detach().to("cpu", dtype).numpy()
            # rows of W^T are what a sparse product reads, so they must lie together
            self.transposed = np.ascontiguousarray(self.weight.T)
            self.bias = layer.bias.detach().to("cpu", dtype).numpy()
            rest = copy.deepcopy(layer.rest).to(dtype).eval().requires_grad_(False)
            self.net = lambda a, codes: rest(a)

    def __enter__(self) -> Self:
        if not self.factorised:
            self._stack.enter_context(evaluating(modules_of(self._encoder)))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def n_codes(self) -> int | None:
        """Number of covariate codes; `None` where the encoder does not say."""
        return None if self.bias is None else len(self.bias)

    @property
    def n_hidden(self) -> int:
        """Width of the pre-activations."""
        return self.n_vars if self.weight is None else self.weight.shape[0]

    @property
    def hidden_shape(self) -> tuple[int, ...]:
        """Shape of what enters the net, of one spot."""
        return (self.n_hidden,)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """``array`` on the encoder's device, in the working type."""
        return as_tensor(np.asarray(array, dtype=self.numpy_dtype)).to(self.device)

    def bias_of(self, codes: np.ndarray | None) -> np.ndarray:
        """Bias of each spot, ``(n, n_hidden)`` or broadcastable to it."""
        if self.bias is None:
            return np.zeros((1, 1), dtype=self.numpy_dtype)
        return self.bias[:1] if codes is None else self.bias[codes]

    def project(self, features: FeatureMatrix) -> np.ndarray:
        """``features @ weight.T`` ``(n, n_hidden)``, without the bias."""
        features = features.astype(self.numpy_dtype, copy=False)
        if self.transposed is None:
            return features.toarray() if is_sparse(features) else np.asarray(features)
        if is_sparse(features):
            return sparse_product(features, self.transposed)
        return np.asarray(features) @ self.transposed

    def back(self, deltas: np.ndarray, genes: np.ndarray | None = None) -> np.ndarray:
        """``deltas @ weight[:, genes]``: ``(..., n_hidden)`` to ``(..., n_genes)``."""
        if self.weight is None:
            return deltas if genes is None else deltas[..., genes]
        return deltas @ (self.weight if genes is None else self.weight[:, genes])

    def cross(self, features: FeatureMatrix, deltas: np.ndarray) -> np.ndarray:
        """Sum over spots of ``features * (deltas @ weight)``, for each of ``m`` multipliers ``(m, n, n_hidden)``.

        ``features`` are ``(n, n_vars)``, CSR or dense; the result is float64 ``(m, n_vars)``. A sparse batch costs
        ``m * nnz * n_hidden``.
        """
        features = features.astype(self.numpy_dtype, copy=False)
        if self.transposed is None:
            dense = features.toarray() if is_sparse(features) else np.asarray(features)
            return np.einsum("ng,mng->mg", dense, deltas).astype(np.float64)
        turned = features.T.tocsr() if is_sparse(features) else np.asarray(features).T
        product = sparse_product if is_sparse(features) else np.matmul
        return np.stack([np.einsum("gh,gh->g", product(turned, d), self.transposed) for d in deltas]).astype(np.float64)

    def codes(self, codes: np.ndarray | None) -> torch.Tensor | None:
        """Covariate codes on the encoder's device."""
        return None if codes is None else torch.as_tensor(codes, device=self.device)

    def latent(self, a: torch.Tensor, codes: torch.Tensor | None) -> np.ndarray:
        """Latent means ``(n, n_latent)`` in float64."""
        with torch.no_grad():
            return self.net(a, codes).cpu().numpy().astype(np.float64)

    def mean_latent(self, start: torch.Tensor, codes: np.ndarray | None) -> np.ndarray:
        """Mean latent mean of reference spots under each spot's covariates, ``(n, n_latent)`` or ``(1, n_latent)``."""
        if codes is None:
            return self.latent(start + self.tensor(self.bias_of(None)), None).mean(0, keepdims=True)
        unique, back = np.unique(codes, return_inverse=True)
        means = []
        for code in unique:
            same = np.full(len(start), code)
            means.append(self.latent(start + self.tensor(self.bias_of(same)), self.codes(same)).mean(0))
        return np.stack(means)[back]

    def references(
        self, references: FeatureMatrix | Sequence[FeatureMatrix] | None, n_groups: int
    ) -> list[FeatureMatrix]:
        """One checked matrix of reference spots for each group."""
        if references is None:
            raise ValueError("expected_gradients needs references=: the features of the spots to compare with.")
        each = list(references) if isinstance(references, Sequence) else [references] * n_groups
        if len(each) != n_groups:
            raise ValueError(f"Got {len(each)} matrices of reference spots for {n_groups} groups.")
        each = [check_features(r, self.n_vars, "references") for r in each]
        if any(r.shape[0] == 0 for r in each):
            raise ValueError("A matrix of reference spots is empty.")
        return each

    def noise_factor(self) -> np.ndarray | None:
        """``F`` ``(n_hidden, n_hidden)`` with ``F F^T = weight weight^T``; `None` stands for the identity.

        It turns standard normal numbers into input noise of unit variance as the first layer sees it.
        """
        if self.weight is None:
            return None
        weight = self.weight.astype(np.float64)
        # the Gram matrix is singular where units outnumber genes or repeat each other, so no Cholesky
        values, vectors = np.linalg.eigh(weight @ weight.T)
        return (vectors * np.sqrt(np.clip(values, 0, None))).astype(self.numpy_dtype)

    def rows(self, method: Method, options: Options, at_most: int) -> int:
        """Spots that may run together within the memory that is meant for them."""
        drawn = method.n_drawn(options)
        fit = MAX_DRAWS // (drawn * self.n_hidden) if drawn else _MAX_HIDDEN // self.n_hidden
        return int(np.clip(fit, 1, at_most))
