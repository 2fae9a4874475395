"""Mean attribution over groups of spots, from a stream of sparse batches, without an array of spots by genes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from st_concepts._distributed import all_reduce
from st_concepts.attribution._inputs import check_baseline, check_codes, check_features
from st_concepts.attribution._methods.base import Method, Options, Pass
from st_concepts.attribution._registry import get_method
from st_concepts.attribution._result import Batch, GroupAttribution, expand_directions
from st_concepts.attribution._runner import Runner
from st_concepts.models import Encoder, FeatureMatrix


def group_attributions(
    encoder: Encoder,
    batches: Iterable[Batch],
    *,
    method: str | Method = "integrated_gradients",
    concepts: np.ndarray | None = None,
    paired: bool = False,
    baselines: np.ndarray | None = None,
    references: FeatureMatrix | Sequence[FeatureMatrix] | None = None,
    options: Options | None = None,
    dtype: torch.dtype = torch.float32,
    chunk_size: int = 4096,
    shared: bool = False,
) -> GroupAttribution:
    """Mean attribution of each gene over each group of spots, from a stream of `Batch` (see `iter_batches`), read once.

    The first layer is linear, so everything but the last product happens in its hidden space: a group's mean gradient
    is its mean hidden multiplier times the weights, and products with the features touch only their nonzero entries.
    The result equals the mean of the maps of single spots up to rounding. A group without weight has NaN everywhere.

    Parameters
    ----------
    concepts
        Concept vectors ``(n_concepts, n_latent)``: each group gets the attributions of every concept. Without them,
        those of every latent dimension, from which `GroupAttribution.contract` gives any concept's later.
    paired
        Give group ``k`` concept ``k`` only: one backward pass where the latent dimensions take ``n_latent``.
    baselines
        ``(n_vars,)`` for all groups or ``(n_groups, n_vars)``, in units of the features; `None` is zero.
    references
        Features of reference spots ``(n_references, n_vars)``, or one such matrix per group.
    shared
        Where several processes compute together, each gives the batches of its own spots (an empty one if it has none)
        and all get the means over the spots of all. Not for methods that draw random numbers spot by spot.

    Examples
    --------
    >>> result = group_attributions(encoder, iter_batches(x, one_hot_layers), method="gradient")  # doctest: +SKIP
    >>> result.contract(concept_vectors, paired=True).values[:, 0]  # (n_layers, n_vars)          # doctest: +SKIP
    """
    record, options = get_method(method), options or Options()
    if concepts is None and not record.linear_in_concept:
        raise ValueError(f"{record.name} is not linear in the concept vector: pass concepts=.")
    with Runner(encoder, dtype) as run:
        total: GroupSums | None = None
        for batch in batches:
            batch = _checked(batch, run)
            if total is None:
                n_groups = batch.weights.shape[1]
                directions = expand_directions(concepts, n_groups, encoder.n_latent, paired)
                total = GroupSums(run, record, options, directions, baselines, references, shared=not paired)
            elif batch.weights.shape[1] != total.n_groups:
                raise ValueError(f"A batch has {batch.weights.shape[1]} groups, earlier ones had {total.n_groups}.")
            total.add(batch, chunk_size)
        if total is None:
            raise ValueError("No spots: the stream of batches is empty. Do the groups contain any spot?")
        if shared:
            total.add_up()
        return total.result(per_latent=concepts is None)


def _checked(batch: Batch, run: Runner) -> Batch:
    features = check_features(batch.features, run.n_vars)
    weights = np.asarray(batch.weights, dtype=np.float64)
    if weights.ndim == 1:
        weights = weights[:, None]
    if weights.ndim != 2 or len(weights) != features.shape[0]:
        raise ValueError(f"weights have shape {weights.shape}, but the batch has {features.shape[0]} spots.")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("Group weights must be finite and not negative.")
    return Batch(features, weights, check_codes(batch.codes, features.shape[0], run.n_codes))


@dataclass(frozen=True)
class Entries:
    """Some spots, once for each group that they belong to, group by group.

    Attributes
    ----------
    features
        Of the chunk that the spots lie in.
    spots
        Row of each entry in it.
    parts
        Groups, and where their entries are.
    weight
        Weight of each entry ``(n,)``.
    bias
        Of the first layer, ``(n, n_hidden)`` or ``(1, n_hidden)``.
    a, start, codes, directions
        As in `Pass`.
    draws
        Random numbers of each entry, or `None`.
    """

    features: FeatureMatrix
    spots: np.ndarray
    parts: list[tuple[int, slice]]
    weight: np.ndarray
    bias: np.ndarray
    a: torch.Tensor
    start: torch.Tensor | None
    codes: torch.Tensor | None
    directions: torch.Tensor
    draws: np.ndarray | None

    def cut(self, part: slice, sums: GroupSums) -> Pass:
        """Some of them, as a method takes them."""
        one = self.directions.shape[1] == 1
        return Pass(
            sums.run.net,
            self.a[part],
            None if self.start is None else self.start[part],
            None if self.codes is None else self.codes[part],
            self.directions if one else self.directions[:, part],
            sums.options,
            None if self.draws is None else self.draws[part],
            sums.run.factorised,
        )


class GroupSums:
    """Sums over the stream; one row per group."""

    def __init__(
        self,
        run: Runner,
        method: Method,
        options: Options,
        directions: np.ndarray,
        baselines: np.ndarray | None,
        references: FeatureMatrix | Sequence[FeatureMatrix] | None,
        *,
        shared: bool,
    ) -> None:
        self.run, self.method, self.options, self.shared = run, method, options, shared
        self.n_groups = n_groups = len(directions)
        self.form = method.effective_form(options)
        self.directions = directions
        self.direction_tensor = run.tensor(directions)
        m = directions.shape[1]
        self.weight = np.zeros(n_groups)
        self.hidden = np.zeros((n_groups, m, run.n_hidden))
        self.genes = np.zeros((n_groups, m, run.n_vars))
        self.latent_difference = np.zeros((n_groups, directions.shape[2]))
        self.baselines = self._baselines(baselines)
        self.start = run.project(self.baselines)
        self.draw = method.draws(run, options)
        self.references = run.references(references, n_groups) if self.form.needs_references else []
        self.reference_hidden = [np.zeros((m, r.shape[0], run.n_hidden)) for r in self.references]
        self.reference_start = [run.tensor(run.project(r)) for r in self.references]

    def _baselines(self, baselines: np.ndarray | None) -> np.ndarray:
        if baselines is None or np.ndim(baselines) == 1:
            one = check_baseline(baselines, self.run.n_vars)
            return np.broadcast_to(one, (self.n_groups, self.run.n_vars))
        if len(baselines) != self.n_groups:
            raise ValueError(f"Got {len(baselines)} baselines for {self.n_groups} groups.")
        return np.stack([check_baseline(b, self.run.n_vars) for b in np.asarray(baselines)])

    def add(self, batch: Batch, chunk_size: int) -> None:
        """Add the spots of a batch."""
        run = self.run
        size = run.rows(self.method, self.options, chunk_size)
        for first in range(0, batch.features.shape[0], size):
            rows = slice(first, first + size)
            features, weights = batch.features[rows], batch.weights[rows]
            codes = None if batch.codes is None else batch.codes[rows]
            bias = run.bias_of(codes)
            hidden = run.project(features) + bias
            draws = self.draw(features.shape[0])
            # one entry per spot and group it belongs to, group by group
            groups, spots = np.nonzero(weights.T)
            for begin in range(0, len(spots), size):
                cut = slice(begin, begin + size)
                self._add_entries(features, weights, codes, hidden, bias, draws, groups[cut], spots[cut])

    def _add_entries(
        self,
        features: FeatureMatrix,
        weights: np.ndarray,
        codes: np.ndarray | None,
        hidden: np.ndarray,
        bias: np.ndarray,
        draws: np.ndarray | None,
        groups: np.ndarray,
        spots: np.ndarray,
    ) -> None:
        run = self.run
        present = np.unique(groups)
        parts = [(k, slice(*np.searchsorted(groups, [k, k + 1]))) for k in present]
        weight = weights[spots, groups]
        self.weight += np.bincount(groups, weight, self.n_groups)
        bias = bias if len(bias) == 1 else bias[spots]
        a = run.tensor(hidden[spots])
        code = run.codes(None if codes is None else codes[spots])
        if self.shared:
            directions = self.direction_tensor[0][:, None, :]
        else:
            directions = self.direction_tensor[torch.as_tensor(groups, device=run.device)].transpose(0, 1)
        start = run.tensor(self.start[groups] + bias) if self.form.needs_start else None
        if start is not None:
            difference = (run.latent(a, code) - run.latent(start, code)) * weight[:, None]
            for k, part in parts:
                self.latent_difference[k] += difference[part].sum(0)
        drawn = None if draws is None else draws[spots]
        entries = Entries(features, spots, parts, weight, bias, a, start, code, directions, drawn)
        self.form.add_to_groups(self, entries)

    def multipliers(self, entries: Entries) -> np.ndarray:
        """Multipliers of the entries times their weights, ``(m, n, n_hidden)``."""
        deltas = self.method.multipliers(entries.cut(slice(None), self))
        return deltas.cpu().numpy() * entries.weight[:, None].astype(self.run.numpy_dtype)

    def add_up(self) -> None:
        """Sums over all processes."""
        self.weight, self.hidden, self.genes, self.latent_difference, *self.reference_hidden = all_reduce(
            self.weight, self.hidden, self.genes, self.latent_difference, *self.reference_hidden
        )

    def result(self, *, per_latent: bool) -> GroupAttribution:
        """Means over the stream."""
        run = self.run
        values = self.form.of_groups(self)
        weight = np.where(self.weight > 0, self.weight, np.nan)[:, None]
        difference = None
        if self.form.complete:
            difference = np.einsum("kml,kl->km", self.directions, self.latent_difference) / weight
        return GroupAttribution(
            values=values / weight[..., None],
            directions=np.array(self.directions),
            weight=self.weight,
            score_difference=difference,
            per_latent=per_latent,
            method=self.method,
            path="factorised" if run.factorised else "autograd",
            parameters={"method": self.method.name, **self.options.used_by(self.method)},
        )
