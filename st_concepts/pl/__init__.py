"""Pictures: layers, concept scores and saliency on the tissue, score histograms, marker panels, checks."""

from st_concepts.pl._evaluate import faithfulness, randomization, stability
from st_concepts.pl._finish import finish as finish
from st_concepts.pl._groups import INSIDE as INSIDE
from st_concepts.pl._groups import OUTSIDE as OUTSIDE
from st_concepts.pl._groups import colors_of as colors_of
from st_concepts.pl._groups import palette as palette
from st_concepts.pl._histograms import concept_histograms
from st_concepts.pl._markers import markers
from st_concepts.pl._spatial import annotation, concept_scores, saliency_map
from st_concepts.pl._tissue import end_of as end_of
from st_concepts.pl._tissue import panels as panels
from st_concepts.pl._tissue import pitch as pitch

__all__ = [
    "annotation",
    "concept_histograms",
    "concept_scores",
    "faithfulness",
    "markers",
    "randomization",
    "saliency_map",
    "stability",
]
