"""Expected gradients: gradients between spots and drawn reference spots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from st_concepts.attribution._backward import pull_back
from st_concepts.attribution._methods.base import Hidden, Method, Options, Pass, given, register
from st_concepts.attribution._methods.forms import Form, Values

if TYPE_CHECKING:
    from st_concepts.attribution._group import Entries, GroupSums
    from st_concepts.attribution._plain import Plain
    from st_concepts.attribution._spot import Chunk, SpotMaps


def passes(
    spots: Pass, references: torch.Tensor, bias: torch.Tensor, draws: np.ndarray
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Gradients between spots and drawn references, one draw of every spot at a time (Erion et al. 2021, eq. 3).

    ``references`` are first-layer products of the reference spots without bias, ``(n_references, n_hidden)``; ``bias``
    that of each spot: on the way to its reference a spot keeps its covariates. ``draws`` are uniform numbers ``(n,
    n_samples, 2)``: which reference, and where on the way (stratified over the draws).

    Yields the row of the reference of each spot ``(n,)`` and multipliers ``(m, n, n_hidden)``.
    """
    a, n_samples = spots.a, draws.shape[1]
    for s in range(n_samples):
        which = np.minimum((draws[:, s, 0] * references.shape[0]).astype(np.int64), references.shape[0] - 1)
        alpha = torch.as_tensor((s + draws[:, s, 1]) / n_samples, dtype=a.dtype, device=a.device)
        alpha = alpha.view(-1, *[1] * (a.ndim - 1))
        start = references[torch.as_tensor(which, device=a.device)] + bias
        yield which, pull_back(spots.net, start + alpha * (a - start), spots.codes, spots.directions)


class ExpectedForm(Form):
    """``x * D W`` minus the same of the drawn reference spots."""

    needs_references = True
    complete = True
    zero_stays_zero = False

    def add_to_groups(self, sums: GroupSums, entries: Entries) -> None:
        """Multipliers are added up at the spots and at the references they were drawn for."""
        run, n_samples, draws = sums.run, sums.options.n_samples, given(entries.draws, "random numbers")
        latent = run.latent(entries.a, entries.codes)
        for k, part in entries.parts:
            spots = entries.cut(part, sums)
            shift = run.tensor(entries.bias if len(entries.bias) == 1 else entries.bias[part])
            weight = entries.weight[part, None]
            total = np.zeros((spots.directions.shape[0], part.stop - part.start, run.n_hidden), dtype=run.numpy_dtype)
            for which, deltas in passes(spots, sums.reference_start[k], shift, draws[part]):
                delta = deltas.cpu().numpy() * (weight / n_samples).astype(run.numpy_dtype)
                total += delta
                for j in range(len(delta)):
                    np.add.at(sums.reference_hidden[k][j], which, delta[j])
            sums.genes[k] += run.cross(entries.features[entries.spots[part]], total)
            mean = run.mean_latent(sums.reference_start[k], None if spots.codes is None else spots.codes.cpu().numpy())
            sums.latent_difference[k] += ((latent[part] - mean) * weight).sum(0)

    def of_groups(self, sums: GroupSums) -> np.ndarray:
        """Products with the spots less those with the references."""
        values = sums.genes
        for k, hidden in enumerate(sums.reference_hidden):
            values[k] -= sums.run.cross(sums.references[k], hidden.astype(sums.run.numpy_dtype))
        return values

    def of_spots(self, maps: SpotMaps, chunk: Chunk) -> Values:
        """Each spot less its references."""
        run, n_samples = maps.run, maps.options.n_samples
        own = maps.columns(chunk.features)
        values, sums, shift = np.zeros_like(own), np.zeros(len(own)), run.tensor(chunk.bias)
        spots = maps.spots(chunk)
        for which, delta in passes(spots, maps.reference_start, shift, given(chunk.draws, "random numbers")):
            step = chunk.a - maps.reference_start[torch.as_tensor(which, device=run.device)] - shift
            sums += (delta[0] * step).sum(1).cpu().numpy() / n_samples
            values += run.back(delta[0].cpu().numpy(), maps.genes) * (own - maps.reference_genes[which]) / n_samples
        maps.sums.append(sums)
        return values

    def of_inputs(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """The same on the inputs of a plain module."""
        total = torch.zeros_like(x)
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        draws = given(plain.draw(len(x)), "random numbers")
        references = given(plain.references, "references")
        for which, delta in passes(plain.spots(x, None), references, zero, draws):
            total += delta[0] * (x - references[torch.as_tensor(which, device=x.device)]) / draws.shape[1]
        return total


class ExpectedGradients(Method):
    """Mean over references and places on the way; the form holds the engine."""

    def draws(self, hidden: Hidden, options: Options) -> Callable[[int], np.ndarray | None]:
        """Which reference, and where on the way, ``(n, n_samples, 2)``."""
        rng = np.random.default_rng(options.seed)
        return lambda n: rng.random((n, options.n_samples, 2))


register(
    ExpectedGradients(
        "expected_gradients",
        "How is the score difference from a population of reference spots divided among the genes?",
        "Erion et al. 2021, Nat Mach Intell 3:620, arXiv 1906.10670",
        ExpectedForm(),
        needs_baseline=True,
        captum="GradientShap",
        options=("n_samples", "seed"),
    )
)
