"""Pictures: layers, concept scores and saliency on the tissue, score histograms, marker panels."""

from st_concepts.pl._histograms import concept_histograms
from st_concepts.pl._markers import markers
from st_concepts.pl._spatial import annotation, concept_scores, saliency_map

__all__ = ["annotation", "concept_histograms", "concept_scores", "markers", "saliency_map"]
