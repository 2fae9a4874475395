"""Concept vectors: estimators, membership, and the set that is kept with the data."""

from st_concepts.concepts._calibration import Calibration as Calibration
from st_concepts.concepts._concept_set import Averages as Averages
from st_concepts.concepts._concept_set import ConceptSet, read_concepts
from st_concepts.concepts._concept_set import score_frame as score_frame
from st_concepts.concepts._definitions import Defined as Defined
from st_concepts.concepts._definitions import Masks as Masks
from st_concepts.concepts._definitions import definition_of as definition_of
from st_concepts.concepts._gene_concepts import GeneConcept as GeneConcept
from st_concepts.concepts._gene_concepts import latent_correlation as latent_correlation
from st_concepts.concepts._gene_concepts import layer_loading as layer_loading
from st_concepts.concepts._gene_concepts import make_gene_concept as make_gene_concept
from st_concepts.concepts._membership import Membership as Membership
from st_concepts.concepts._membership import asked_for as asked_for
from st_concepts.concepts._membership import check_names as check_names
from st_concepts.concepts._membership import defining_labels as defining_labels
from st_concepts.concepts._membership import from_labels as from_labels
from st_concepts.concepts._membership import from_masks as from_masks
from st_concepts.concepts._membership import from_scores as from_scores
from st_concepts.concepts._membership import reference_labels as reference_labels
from st_concepts.concepts._place import Place as Place
from st_concepts.concepts._place import check_context as check_context
from st_concepts.concepts._place import kept_neighbours as kept_neighbours
from st_concepts.concepts._place import neighbours as neighbours
from st_concepts.concepts._place import place_of as place_of
from st_concepts.concepts._seen import DEFAULT_WIDTH as DEFAULT_WIDTH
from st_concepts.concepts._seen import ContextOption as ContextOption
from st_concepts.concepts._seen import Seen as Seen
from st_concepts.concepts._soft_labels import soft_labels as soft_labels
from st_concepts.concepts._vectors import ESTIMATORS, Estimator, discriminant, logistic, mean_difference
from st_concepts.concepts._vectors import get_estimator as get_estimator
from st_concepts.concepts._vectors import seed_regression as seed_regression
from st_concepts.concepts._view import ConceptView as ConceptView
from st_concepts.concepts._view import membership as membership
from st_concepts.concepts._view import scores as scores

register = ESTIMATORS.add

__all__ = [
    "ConceptSet",
    "ESTIMATORS",
    "Estimator",
    "discriminant",
    "logistic",
    "mean_difference",
    "read_concepts",
    "register",
]
