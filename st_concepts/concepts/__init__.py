"""Concept vectors: estimators, membership, and the set that is kept with the data."""

from st_concepts.concepts._concept_set import ConceptSet, read_concepts, score_frame
from st_concepts.concepts._membership import Membership, from_labels, from_masks, from_scores
from st_concepts.concepts._soft_labels import DOUBT_ABOVE, SoftLabels, soft_labels
from st_concepts.concepts._vectors import (
    ESTIMATORS,
    Estimator,
    discriminant,
    get_estimator,
    logistic,
    mean_difference,
    register,
    seed_regression,
)

__all__ = [
    "DOUBT_ABOVE",
    "ESTIMATORS",
    "ConceptSet",
    "Estimator",
    "Membership",
    "SoftLabels",
    "discriminant",
    "from_labels",
    "from_masks",
    "from_scores",
    "get_estimator",
    "logistic",
    "mean_difference",
    "read_concepts",
    "register",
    "score_frame",
    "seed_regression",
    "soft_labels",
]
