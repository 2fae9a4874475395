"""Whether saliency depends on what the model learned: it must change once weights are random."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import nn

from st_concepts._slots import KEYS
from st_concepts.attribution import Baseline, Explained, Options, get_method, modules_of
from st_concepts.models import Encoder, FeatureMatrix, FirstLayer
from st_concepts.stats import spearman

FIRST = "first layer"


def model_randomization(
    adata: AnnData,
    model: Any,
    *,
    concept: str | Sequence[str] | None = None,
    method: str = "integrated_gradients",
    order: Literal["cascade", "independent"] = "cascade",
    n_repeats: int = 3,
    baseline: Baseline = "others",
    options: Options | None = None,
    seed: int = 0,
    layer: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
) -> pd.DataFrame:
    """Rank correlation of saliency with itself as the encoder's layers are randomised (Adebayo et al. 2018).

    Layers of the encoder are randomised from the last to the first; the concept vectors, the spots with what is around
    them and the baseline stay. Saliency that hardly changes does not explain the model, but the data or the wiring.
    Layers that the latent mean does not depend on are left out.

    Parameters
    ----------
    adata
        With concepts; only read.
    model
        The model that they were made with; it is not changed.
    concept
        Name or names; by default all.
    method, baseline, options
        As in ``stc.tl.saliency``.
    order
        ``"cascade"``: each row adds one layer to those that are random already. ``"independent"``: each row randomises
        one layer alone.
    n_repeats
        Number of random encoders.
    seed
        Of the weights. Weights and biases are drawn from a normal distribution with the mean and standard deviation of
        those that they replace; where these are all the same, with standard deviation ``1 / sqrt(fan in)``.
    layer
        Layer with the counts; by default that of the model.
    concepts_key
        Entry of ``uns`` with the concepts.

    Returns
    -------
    DataFrame, one row per concept, repeat and step:

    - ``concept``, ``repeat``;
    - ``layer``: what was randomised last, ``""`` for the model as it is; ``n_random``: how many layers are random;
    - ``spearman``: rank correlation over genes with the saliency of the model;
    - ``spearman_abs``: the same of absolute values. Methods that multiply by ``x - baseline`` keep a high one: genes
      that do not differ have no attribution under any weights (Adebayo et al. 2018, section 4).

    Raises
    ------
    KeyError
        No concepts, or no such one.
    ValueError
        Unknown method or order; ``n_repeats`` below 1; an encoder without weights.

    References
    ----------
    Adebayo et al. 2018, *Sanity checks for saliency maps*, NeurIPS, arXiv 1810.03292.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> table = stc.evaluate.model_randomization(adata, model, n_repeats=1)
    >>> table["layer"].unique().tolist()
    ['', 'out', 'first layer']
    """
    if order not in ("cascade", "independent"):
        raise ValueError(f"order={order!r} is unknown; use 'cascade' or 'independent'.")
    if n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats} must be at least 1.")
    record, options = get_method(method), options or Options()
    section = Explained.read(adata, model, layer=layer, key=concepts_key)
    chosen = section.chosen(concept)

    def saliency(encoder: Encoder) -> np.ndarray:
        return section.attributions(chosen, method=record, baseline=baseline, options=options, encoder=encoder).values

    original = saliency(section.encoder)
    rows = []
    for repeat in range(n_repeats):
        rng = np.random.default_rng([seed, repeat])
        steps = [("", 0, original)]
        for name, n_random, encoder in randomized(section.encoder, rng, cascade=order == "cascade"):
            steps.append((name, n_random, saliency(encoder)))
        for name, n_random, values in steps:
            for i, j in enumerate(chosen):
                rows.append(
                    {
                        "concept": section.concepts.names[j],
                        "repeat": repeat,
                        "layer": name,
                        "n_random": n_random,
                        "spearman": spearman(original[i], values[i]),
                        "spearman_abs": spearman(np.abs(original[i]), np.abs(values[i])),
                    }
                )
    return pd.DataFrame(rows)


class RandomEncoder:
    """An encoder with another first layer or rest; features, genes and codes are those of the original."""

    def __init__(self, encoder: Encoder, first: FirstLayer) -> None:
        self._encoder, self._first = encoder, first
        self.var_names, self.n_latent, self.device = encoder.var_names, encoder.n_latent, encoder.device
        self.fingerprint = f"{encoder.fingerprint}-random"

    @property
    def first_layer(self) -> FirstLayer:
        """The layers that replace the original ones."""
        return self._first

    def features(self, counts: FeatureMatrix) -> FeatureMatrix:
        """As the original."""
        return self._encoder.features(counts)

    def codes(self, obs: pd.DataFrame) -> np.ndarray | None:
        """As the original."""
        return self._encoder.codes(obs)

    def encode(self, features: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Through the replaced layers."""
        bias = self._first.bias[0] if codes is None else self._first.bias[codes]
        return self._first.rest(features @ self._first.weight.T + bias)


def randomized(encoder: Encoder, rng: np.random.Generator, *, cascade: bool) -> Iterator[tuple[str, int, Encoder]]:
    """Name of the layer, number of random layers, and a copy in which they are random, from the last to the first."""
    first = encoder.first_layer
    if first is None:
        yield from _without_first_layer(encoder, rng, cascade=cascade)
        return
    rest = copy.deepcopy(first.rest)
    names = [name for name, _ in _used_layers(rest, lambda net: net(_probe(first)))]
    for i, name in enumerate(reversed(names)):
        if not cascade:
            rest = copy.deepcopy(first.rest)
        _randomize(rest.get_submodule(name), rng)
        changed = FirstLayer(first.weight, first.bias, copy.deepcopy(rest))
        yield name or type(rest).__name__, i + 1 if cascade else 1, RandomEncoder(encoder, changed)
    weight, bias = (_draw(t, rng, fan_in=first.weight.shape[1]) for t in (first.weight, first.bias))
    last = FirstLayer(weight, bias, rest if cascade else first.rest)
    yield FIRST, len(names) + 1 if cascade else 1, RandomEncoder(encoder, last)


def _without_first_layer(
    encoder: Encoder, rng: np.random.Generator, *, cascade: bool
) -> Iterator[tuple[str, int, Encoder]]:
    def run(net: Any) -> torch.Tensor:
        parameter = next(p for m in modules_of(net) for p in m.parameters())
        return net.encode(torch.ones(2, len(encoder.var_names), dtype=parameter.dtype, device=parameter.device))

    current = copy.deepcopy(encoder)
    modules = modules_of(current)
    if not any(True for m in modules for _ in m.parameters()):
        raise ValueError(f"{type(encoder).__name__} holds no torch module with weights, so nothing can be randomised.")
    names = [(k, name) for k, m in enumerate(modules) for name, _ in _used_layers(m, lambda _: run(current))]
    for i, (k, name) in enumerate(reversed(names)):
        if not cascade:
            current = copy.deepcopy(encoder)
        _randomize(modules_of(current)[k].get_submodule(name), rng)
        yield name or type(encoder).__name__, i + 1 if cascade else 1, copy.deepcopy(current)


def _used_layers(module: nn.Module, run: Callable[[nn.Module], torch.Tensor]) -> list[tuple[str, nn.Module]]:
    """Submodules with weights of their own that the output depends on, in the order of registration."""
    own = [(name, m) for name, m in module.named_modules() if any(True for _ in m.parameters(recurse=False))]
    state = [(p, p.requires_grad) for _, m in own for p in m.parameters(recurse=False)]
    for p, _ in state:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            total = run(module).sum()
        gradients = torch.autograd.grad(total, [p for p, _ in state], allow_unused=True)
    finally:
        for p, wanted in state:
            p.requires_grad_(wanted)
    used = {id(p) for (p, _), g in zip(state, gradients, strict=True) if g is not None}
    return [(name, m) for name, m in own if any(id(p) in used for p in m.parameters(recurse=False))]


def _probe(first: FirstLayer) -> torch.Tensor:
    return first.bias.detach()[:1].expand(2, -1).clone()


def _randomize(module: nn.Module, rng: np.random.Generator) -> None:
    own = dict(module.named_parameters(recurse=False))
    fan_in = next((p.shape[1:].numel() for p in own.values() if p.ndim > 1), 1)
    with torch.no_grad():
        for parameter in own.values():
            parameter.copy_(_draw(parameter, rng, fan_in=fan_in))


def _draw(tensor: torch.Tensor, rng: np.random.Generator, *, fan_in: int) -> torch.Tensor:
    """Normal numbers with the mean and standard deviation of ``tensor``."""
    values = tensor.detach().to("cpu", torch.float64).numpy()
    sd = float(values.std()) or 1.0 / np.sqrt(fan_in)
    return torch.as_tensor(rng.normal(values.mean(), sd, values.shape)).to(tensor)
