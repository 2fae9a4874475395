"""Results as tidy tables; nothing here writes."""

from st_concepts.get._tables import concept_scores, markers, saliency_parts

__all__ = ["concept_scores", "markers", "saliency_parts"]
