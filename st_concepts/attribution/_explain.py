"""Explain any torch encoder on inputs of any shape."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from st_concepts.attribution._inputs import evaluating
from st_concepts.attribution._methods.base import Method, Options
from st_concepts.attribution._plain import Array, Explanation, Plain
from st_concepts.attribution._registry import get_method
from st_concepts.attribution._spot import spot_attributions
from st_concepts.models import Encoder, FeatureMatrix


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
        return Plain(encoder, inputs, concept, record, options, baseline, references).run(batch_size)


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
        codes=None if codes is None else _array(codes),
        baseline=None if baseline is None else _array(baseline),
        references=None if references is None else _array(references),
        options=options,
        dtype=torch.float64 if features.dtype == np.float64 else torch.float32,
    )
    values = found.values
    if isinstance(inputs, torch.Tensor):
        values = torch.as_tensor(values, device=inputs.device)
    gap = None if found.attribution_sum is None else found.attribution_sum - found.score_difference
    return Explanation(values, found.score, found.score_difference, gap, method, found.path)


def _array(value: Array) -> FeatureMatrix:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return value if sp.issparse(value) else np.asarray(value)
