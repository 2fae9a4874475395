"""Attribution of each gene in each spot, for the genes that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts._counts.kind import is_sparse
from st_concepts.attribution._inputs import (
    check_baseline,
    check_codes,
    check_concepts,
    check_features,
    check_genes,
)
from st_concepts.attribution._methods.base import Method, Options, Pass
from st_concepts.attribution._registry import get_method
from st_concepts.attribution._runner import Runner
from st_concepts.models import Encoder, FeatureMatrix


@dataclass(frozen=True)
class SpotAttribution:
    """Attributions of single spots.

    Attributes
    ----------
    values
        ``(n, n_genes)`` in the working type; CSR where the method multiplies sparse features, dense otherwise.
    score
        float64 ``(n,)``: concept score of each spot.
    score_difference
        float64 ``(n,)``: score minus that of the baseline or references; `None` for methods without one.
    attribution_sum
        float64 ``(n,)``: sum over *all* genes, also those not asked for; `None` for methods without a baseline and for
        occlusion.
    method
        Record of the method.
    path
        ``"factorised"`` or ``"autograd"`` (no linear first layer).
    """

    values: np.ndarray | sp.csr_matrix
    score: np.ndarray
    score_difference: np.ndarray | None
    attribution_sum: np.ndarray | None
    method: Method
    path: str


def spot_attributions(
    encoder: Encoder,
    features: FeatureMatrix,
    concept: np.ndarray,
    *,
    genes: Sequence[int] | np.ndarray | None = None,
    method: str | Method = "integrated_gradients",
    codes: np.ndarray | None = None,
    baseline: np.ndarray | None = None,
    references: FeatureMatrix | None = None,
    options: Options | None = None,
    dtype: torch.dtype = torch.float32,
    chunk_size: int = 4096,
) -> SpotAttribution:
    """Attribution of chosen genes (columns; `None` is all) in every spot to one concept vector ``(n_latent,)``.

    ``features`` are ``(n, n_vars)`` as `Encoder.features` returns them; ``baseline`` ``(n_vars,)`` is in their units,
    `None` is zero; ``references`` are features of reference spots.

    Examples
    --------
    >>> spot_attributions(encoder, x, v, genes=[3, 17], method="gradient").values.shape  # doctest: +SKIP
    (261, 2)
    """
    record, options = get_method(method), options or Options()
    vectors = check_concepts(concept, encoder.n_latent)
    if len(vectors) != 1:
        raise ValueError(f"spot_attributions takes one concept vector, got {len(vectors)}. Call it once per concept.")
    with Runner(encoder, dtype) as run:
        features = check_features(features, run.n_vars)
        codes = check_codes(codes, features.shape[0], run.n_codes)
        genes = check_genes(genes, run.n_vars)
        maps = SpotMaps(run, record, options, vectors[0], genes, check_baseline(baseline, run.n_vars), references)
        size = run.rows(record, options, chunk_size)
        for first in range(0, features.shape[0], size):
            rows = slice(first, first + size)
            maps.add(features[rows], None if codes is None else codes[rows])
        return maps.result(sparse=is_sparse(features))


@dataclass(frozen=True)
class Chunk:
    """Some spots; attributes as in `Pass`, and their features and bias."""

    features: FeatureMatrix
    bias: np.ndarray
    a: torch.Tensor
    start: torch.Tensor | None
    codes: torch.Tensor | None
    draws: np.ndarray | None


class SpotMaps:
    """Results of the chunks so far."""

    def __init__(
        self,
        run: Runner,
        method: Method,
        options: Options,
        concept: np.ndarray,
        genes: np.ndarray | None,
        baseline: np.ndarray,
        references: FeatureMatrix | None,
    ) -> None:
        self.run, self.method, self.options = run, method, options
        self.form = method.effective_form(options)
        self.concept, self.genes, self.baseline = concept, genes, baseline
        self.directions = run.tensor(concept[None, None, :])
        self.start = run.project(baseline[None, :])
        self.draw = method.draws(run, options)
        if self.form.needs_references:
            (self.references,) = run.references(references, 1)
            self.reference_start = run.tensor(run.project(self.references))
            self.reference_genes = self.columns(self.references)
        self.values: list[np.ndarray | sp.csr_matrix] = []
        self.scores: list[np.ndarray] = []
        self.differences: list[np.ndarray] = []
        self.sums: list[np.ndarray] = []

    def columns(self, features: FeatureMatrix) -> np.ndarray:
        """The genes asked for, dense."""
        part = features if self.genes is None else features[:, self.genes]
        return np.asarray(part.toarray() if is_sparse(part) else part, dtype=self.run.numpy_dtype)

    def add(self, features: FeatureMatrix, codes: np.ndarray | None) -> None:
        """Add the spots of a chunk."""
        run = self.run
        bias = run.bias_of(codes)
        a = run.tensor(run.project(features) + bias)
        code = run.codes(codes)
        score = run.latent(a, code) @ self.concept
        self.scores.append(score)
        start = None
        if self.form.needs_start:
            start = run.tensor(np.broadcast_to(self.start + bias, a.shape))
            self.differences.append(score - run.latent(start, code) @ self.concept)
        elif self.form.needs_references:
            self.differences.append(score - run.mean_latent(self.reference_start, codes) @ self.concept)
        chunk = Chunk(features, bias, a, start, code, self.draw(features.shape[0]))
        self.values.append(self.form.of_spots(self, chunk))

    def spots(self, chunk: Chunk) -> Pass:
        """A chunk as a method takes it."""
        factorised = self.run.factorised
        net, directions = self.run.net, self.directions
        return Pass(net, chunk.a, chunk.start, chunk.codes, directions, self.options, chunk.draws, factorised)

    def multipliers(self, chunk: Chunk) -> torch.Tensor:
        """Multipliers of a chunk, ``(n, n_hidden)``."""
        return self.method.multipliers(self.spots(chunk))[0]

    def times(self, features: FeatureMatrix, values: np.ndarray) -> np.ndarray | sp.csr_matrix:
        """``features * values``, sparse where the features are."""
        if not is_sparse(features):
            return self.columns(features) * values
        part = (features if self.genes is None else features[:, self.genes]).tocsr()
        rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        data = (part.data * values[rows, part.indices]).astype(self.run.numpy_dtype)
        return sp.csr_matrix((data, part.indices.copy(), part.indptr.copy()), shape=part.shape)

    def result(self, *, sparse: bool) -> SpotAttribution:
        """All chunks together."""
        n_genes = self.run.n_vars if self.genes is None else len(self.genes)
        if not self.values:
            values: np.ndarray | sp.csr_matrix = np.zeros((0, n_genes), dtype=self.run.numpy_dtype)
        elif is_sparse(self.values[0]):
            values = sp.vstack(self.values, format="csr")
        else:
            values = np.concatenate(self.values)
        return SpotAttribution(
            values=values,
            score=_join(self.scores),
            score_difference=_join(self.differences) if self.differences else None,
            attribution_sum=_join(self.sums) if self.sums else None,
            method=self.method,
            path="factorised" if self.run.factorised else "autograd",
        )


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)
