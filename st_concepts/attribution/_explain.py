"""Explain any torch encoder on inputs of any shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from st_concepts.attribution._hookable import check_hookable
from st_concepts.attribution._inputs import check_concepts, evaluating
from st_concepts.attribution._methods.gradient import expected_passes, multipliers
from st_concepts.attribution._registry import Method, Options, effective_form, get_method
from st_concepts.attribution._runner import MAX_DRAWS
from st_concepts.attribution._spot import spot_attributions
from st_concepts.models._encoder import Encoder, FeatureMatrix

Array = np.ndarray | sp.csr_matrix | torch.Tensor


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


def explain(
    encoder: Encoder | nn.Module,
    inputs: Array,
    concept: np.ndarray | torch.Tensor,
    *,
    method: str | Method = "integrated_gradients",
    codes: np.ndarray | None = None,
    baseline: np.ndarray | torch.Tensor | None = None,
    references: Array | None = None,
    options: Options | None = None,
    batch_size: int = 64,
) -> Explanation:
    """Attribute a concept score ``concept . mu(x)`` to the elements of the inputs.

    Parameters
    ----------
    encoder
        An encoder of this package (`SpotVAE`, `from_scvi`), explained through its linear first layer where it has one;
        or any `torch.nn.Module` whose output is the latent mean, or a tuple that starts with it.
    inputs
        ``(n, ...)``: features for an encoder (CSR, array or tensor), anything the module takes otherwise.
    concept
        Concept vector ``(n_latent,)``; a module's latent mean of several axes is flattened.
    method
        Name of a method, see `methods_table`.
    codes
        Covariate codes ``(n,)``, for encoders that have them.
    baseline
        One baseline of the shape of an input; `None` is zero.
    references
        For `expected_gradients`: reference inputs ``(n_references, ...)``.
    options
        Settings of the method.
    batch_size
        Inputs that run through a module together.

    Returns
    -------
    See `Explanation`; its ``path`` says how it was computed.

    Raises
    ------
    TypeError
        If ``encoder`` is neither an encoder nor a module.
    ValueError
        If the concept vector's length is wrong, inputs are not finite, the method needs ReLUs that are not there, or
        (for `deeplift`) the module calls its non-linear functions in a way that captum cannot follow.

    Notes
    -----
    The module is in eval mode meanwhile, and every submodule's mode is restored afterwards. Inputs are moved to the
    module's device and type, attributions back to that of the inputs.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> result = explain(net, torch.ones(5, 2, 2), [1.0, -1.0], method="gradient")
    >>> result.attributions.shape, result.path
    (torch.Size([5, 2, 2]), 'autograd')
    """
    record, options = get_method(method), options or Options()
    if isinstance(encoder, Encoder):
        return _explain_encoder(encoder, inputs, concept, record, codes, baseline, references, options)
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"explain takes an encoder or a torch.nn.Module, not {type(encoder).__name__}. "
            "For an scvi-tools model use st_concepts.from_scvi(model)."
        )
    if codes is not None:
        raise ValueError("codes are for encoders of this package; a plain module takes its inputs only.")
    with evaluating([encoder]):
        return _Plain(encoder, inputs, concept, record, options, baseline, references).run(batch_size)


def _explain_encoder(
    encoder: Encoder,
    inputs: Array,
    concept: np.ndarray | torch.Tensor,
    method: Method,
    codes: np.ndarray | None,
    baseline: np.ndarray | torch.Tensor | None,
    references: Array | None,
    options: Options,
) -> Explanation:
    features = _array(inputs)
    found = spot_attributions(
        encoder,
        features,
        _array(concept),
        method=method,
        codes=_array(codes),
        baseline=_array(baseline),
        references=_array(references),
        options=options,
        dtype=torch.float64 if features.dtype == np.float64 else torch.float32,
    )
    values = found.values
    if isinstance(inputs, torch.Tensor):
        values = torch.as_tensor(values, device=inputs.device)
    gap = None if found.attribution_sum is None else found.attribution_sum - found.score_difference
    return Explanation(values, found.score, found.score_difference, gap, method, found.path)


def _array(value: Any) -> FeatureMatrix | None:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return value if value is None or sp.issparse(value) else np.asarray(value)


class _Plain:
    """One call of `explain` on a plain module."""

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
        if method.form == "expected":
            if self.references is None or not len(self.references):
                raise ValueError("expected_gradients needs references=: the inputs to compare with.")
            if self.references.shape[1:] != shape:
                raise ValueError(f"References have shape {tuple(self.references.shape[1:])}, inputs {tuple(shape)}.")
        with torch.no_grad():
            n_latent = self.net(self.inputs[:1]).shape[1]
        self.concept = check_concepts(concept, n_latent)
        if len(self.concept) != 1:
            raise ValueError(f"explain takes one concept vector, got {len(self.concept)}.")
        self.vector = torch.as_tensor(self.concept[0], dtype=self.dtype, device=self.device)

    def _tensor(self, value: Any, what: str) -> torch.Tensor:
        value = value.toarray() if sp.issparse(value) else value
        tensor = torch.as_tensor(value).detach().to(self.device, self.dtype)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{what} hold NaN or infinite values.")
        return tensor

    def net(self, x: torch.Tensor, codes: None = None) -> torch.Tensor:
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

    def run(self, batch_size: int) -> Explanation:
        """Attributions of all inputs, some at a time."""
        rng = np.random.default_rng(self.options.seed)
        in_captum = self.method.runs_in_captum
        if self.method.name == "deeplift":
            check_hookable(self.module, self.inputs[:1])
        if self.method.name == "smoothgrad":
            batch_size = int(np.clip(MAX_DRAWS // (self.options.n_samples * self.inputs[0].numel()), 1, batch_size))
        parts = []
        for first in range(0, len(self.inputs), batch_size):
            x = self.inputs[first : first + batch_size]
            parts.append(self._captum(x) if in_captum else self._autograd(x, rng))
        attributions = torch.cat(parts)
        with torch.no_grad():
            score = self._scores(self.inputs, batch_size)
            start = None
            if self.method.form in ("difference", "occlusion"):
                start = self._scores(self.baseline[None], batch_size)
            elif self.method.form == "expected":
                start = self._scores(self.references, batch_size).mean(keepdims=True)
        difference = None if start is None else score - start
        gap = None
        if difference is not None and self.method.form != "occlusion":
            gap = attributions.flatten(1).double().sum(1).cpu().numpy() - difference
        values = attributions.cpu().numpy() if self.home is None else attributions.to(self.home)
        return Explanation(values, score, difference, gap, self.method, "captum" if in_captum else "autograd")

    def _scores(self, x: torch.Tensor, batch_size: int) -> np.ndarray:
        return np.concatenate([self.score(part).cpu().numpy().astype(np.float64) for part in x.split(batch_size)])

    def _autograd(self, x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        directions = self.vector[None, None, :]
        n_samples = self.options.n_samples
        form = effective_form(self.method, self.options)
        if form == "expected":
            total = torch.zeros_like(x)
            draws = rng.random((len(x), n_samples, 2))
            zero = torch.zeros((), dtype=self.dtype, device=self.device)
            for which, delta in expected_passes(self.net, x, self.references, zero, None, directions, draws):
                total += delta[0] * (x - self.references[torch.as_tensor(which, device=self.device)]) / n_samples
            return total
        noise = None
        if self.method.name == "smoothgrad":
            noise = rng.standard_normal((len(x), n_samples, *x.shape[1:]), dtype=np.float32) * self.options.noise_sd
            noise = torch.as_tensor(noise, dtype=self.dtype, device=self.device)
        start = self.baseline.expand_as(x)
        delta = multipliers(
            self.method, self.options, self.net, x, start, None, directions, noise=noise, factorised=False
        )[0]
        if form == "gradient":
            return delta
        return delta * (x if form == "input" else x - start)

    def _captum(self, x: torch.Tensor) -> torch.Tensor:
        from captum import attr

        start = self.baseline.expand_as(x).clone()
        with warnings.catch_warnings():
            # captum announces its hooks, and that gradients had to be required
            warnings.filterwarnings("ignore", category=UserWarning, module="captum")
            if self.method.name == "deeplift":
                # captum wants a module, and calls it on spots and baselines together
                wrapped = _Score(self.score)
                wrapped.module = self.module
                return attr.DeepLift(wrapped).attribute(x.clone().requires_grad_(True), start).detach()
            window = self.options.window or (1,) * (x.ndim - 1)
            with torch.no_grad():
                return attr.Occlusion(self.score).attribute(x, window, strides=window, baselines=start)


class _Score(nn.Module):
    def __init__(self, score: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x)
