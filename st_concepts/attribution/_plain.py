"""A plain torch module, explained on inputs of any shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from st_concepts.attribution._inputs import check_concepts
from st_concepts.attribution._methods.base import Method, Options, Pass
from st_concepts.attribution._runner import MAX_DRAWS

Array: TypeAlias = np.ndarray | sp.csr_matrix | torch.Tensor


@dataclass(frozen=True)
class Explanation:
    """Attribution of a concept score to every element of every input.

    Attributes
    ----------
    attributions
        Shape of the inputs; a tensor on the inputs' device for tensors, otherwise an array (CSR where the method
        multiplies sparse inputs).
    score
        float64 ``(n,)``: concept score of each input.
    score_difference
        float64 ``(n,)``: score minus that of the baseline or references; `None` for methods without one.
    completeness_gap
        float64 ``(n,)``: sum of attributions minus score difference; `None` for methods without one.
    method
        Record of the method.
    path
        ``"factorised"`` (behind a linear first layer), ``"autograd"`` or ``"captum"``.
    """

    attributions: Array
    score: np.ndarray
    score_difference: np.ndarray | None
    completeness_gap: np.ndarray | None
    method: Method
    path: str


class Plain:
    """A plain module, its inputs and what they are compared with."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Array,
        concept: np.ndarray | torch.Tensor,
        method: Method,
        options: Options,
        baseline: np.ndarray | torch.Tensor | None,
        references: Array | None,
    ) -> None:
        self.module, self.method, self.options = module, method, options
        weights = next((p for p in module.parameters() if p.is_floating_point()), None)
        self.home = inputs.device if isinstance(inputs, torch.Tensor) else None
        self.device = torch.device("cpu") if weights is None else weights.device
        self.dtype = torch.float32 if weights is None else weights.dtype
        self.inputs = self._tensor(inputs, "inputs")
        if self.inputs.ndim < 2 or not len(self.inputs):
            raise ValueError(f"inputs must be (n, ...) with at least one input, got shape {tuple(self.inputs.shape)}.")
        shape = self.inputs.shape[1:]
        self.baseline = torch.zeros(shape, dtype=self.dtype, device=self.device)
        if baseline is not None:
            self.baseline = self._tensor(baseline, "baseline")
        self.references = None if references is None else self._tensor(references, "references")
        if self.baseline.shape != shape:
            raise ValueError(f"The baseline has shape {tuple(self.baseline.shape)}, an input {tuple(shape)}.")
        if method.form.needs_references:
            if self.references is None or not len(self.references):
                raise ValueError("expected_gradients needs references=: the inputs to compare with.")
            if self.references.shape[1:] != shape:
                raise ValueError(f"References have shape {tuple(self.references.shape[1:])}, inputs {tuple(shape)}.")
        with torch.no_grad():
            n_latent = self.net(self.inputs[:1]).shape[1]
        self.concept = check_concepts(concept, n_latent)
        if len(self.concept) != 1:
            raise ValueError(f"explain takes one concept vector, got {len(self.concept)}.")
        self.draw = method.draws(self, options)
        self.vector = torch.as_tensor(self.concept[0], dtype=self.dtype, device=self.device)

    def _tensor(self, value: Any, what: str) -> torch.Tensor:
        value = value.toarray() if sp.issparse(value) else value
        tensor = torch.as_tensor(value).detach().to(self.device, self.dtype)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{what} hold NaN or infinite values.")
        return tensor

    def net(self, x: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Latent means ``(n, n_latent)``."""
        out = self.module(x)
        out = out[0] if isinstance(out, tuple | list) else out
        if not isinstance(out, torch.Tensor) or out.shape[0] != len(x):
            raise ValueError(
                "The module must return the latent mean, one row per input, or a tuple that starts with it; "
                f"got {type(out).__name__}."
            )
        return out.flatten(1)

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Concept scores ``(n,)``."""
        return self.net(x) @ self.vector

    @property
    def hidden_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def numpy_dtype(self) -> Any:
        """Type of the inputs, float32 for half precision."""
        return np.float64 if self.dtype == torch.float64 else np.float32

    def noise_factor(self) -> None:
        """Noise on the inputs is independent."""

    def spots(self, x: torch.Tensor, start: torch.Tensor | None) -> Pass:
        """Inputs as a method takes them."""
        drawn = self.draw(len(x)) if self.method.n_drawn(self.options) else None
        return Pass(self.net, x, start, None, self.vector[None, None, :], self.options, drawn, factorised=False)

    def multipliers(self, x: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """What arrives at the inputs."""
        return self.method.multipliers(self.spots(x, start))[0]

    def by_captum(self, x: torch.Tensor) -> torch.Tensor:
        """Attributions by captum's class."""
        start = self.baseline.expand_as(x).clone()
        return self.method.by_captum(self.module, self.score, x, start, self.options)

    def run(self, batch_size: int) -> Explanation:
        """Attributions of all inputs, some at a time."""
        method, form = self.method, self.method.effective_form(self.options)
        if n_drawn := method.n_drawn(self.options):
            batch_size = int(np.clip(MAX_DRAWS // (n_drawn * self.inputs[0].numel()), 1, batch_size))
        attribute = self.by_captum if method.runs_in_captum else lambda x: form.of_inputs(self, x)
        attributions = torch.cat([attribute(x) for x in self.inputs.split(batch_size)])
        with torch.no_grad():
            score = self._scores(self.inputs, batch_size)
            start = None
            if form.needs_start:
                start = self._scores(self.baseline[None], batch_size)
            elif form.needs_references and self.references is not None:
                start = self._scores(self.references, batch_size).mean(keepdims=True)
        difference = None if start is None else score - start
        gap = None
        if difference is not None and form.complete:
            gap = attributions.flatten(1).double().sum(1).cpu().numpy() - difference
        values = attributions.cpu().numpy() if self.home is None else attributions.to(self.home)
        path = "captum" if method.runs_in_captum else "autograd"
        return Explanation(values, score, difference, gap, method, path)

    def _scores(self, x: torch.Tensor, batch_size: int) -> np.ndarray:
        return np.concatenate([self.score(part).cpu().numpy().astype(np.float64) for part in x.split(batch_size)])
