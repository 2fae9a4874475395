"""The scanpy-style surface: each function reads an AnnData, computes, and writes its slots."""

from st_concepts.tl._concepts import concepts
from st_concepts.tl._crossfit import cross_fit
from st_concepts.tl._embed import embed
from st_concepts.tl._gene_concepts import gene_concepts
from st_concepts.tl._predict_labels import predict_labels
from st_concepts.tl._rank_genes import STATISTICS as STATISTICS
from st_concepts.tl._rank_genes import rank_genes_concepts
from st_concepts.tl._saliency import saliency
from st_concepts.tl._saliency_map import saliency_map
from st_concepts.tl._score_concepts import score_concepts
from st_concepts.tl._spatial_saliency import spatial_saliency

__all__ = [
    "concepts",
    "cross_fit",
    "embed",
    "gene_concepts",
    "predict_labels",
    "rank_genes_concepts",
    "saliency",
    "saliency_map",
    "score_concepts",
    "spatial_saliency",
]
