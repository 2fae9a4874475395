"""Results as tidy tables; nothing here writes."""

from st_concepts.get._concepts import concept_labels, concepts
from st_concepts.get._tables import concept_scores, markers, saliency_parts

__all__ = ["concept_labels", "concept_scores", "concepts", "markers", "saliency_parts"]
