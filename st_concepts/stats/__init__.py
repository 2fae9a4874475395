"""Spatial null models, association tests and false discovery control: arrays in, arrays out."""

from __future__ import annotations

from st_concepts._counts.stream import RowStream
from st_concepts.stats._association import AssociationResult, association_test
from st_concepts.stats._concept_test import ConceptTestResult, concept_test
from st_concepts.stats._covariance import shrinkage as shrinkage
from st_concepts.stats._covariance import shrunk_covariance as shrunk_covariance
from st_concepts.stats._distance import DistanceNull, distance_null
from st_concepts.stats._dutilleul import dutilleul_test
from st_concepts.stats._fdr import fdr_bh
from st_concepts.stats._graph import check_graph, section_codes, spatial_graph
from st_concepts.stats._moran import MoranNull, moran_i, moran_null, moran_surrogates
from st_concepts.stats._null import NULLS, NullModel, null_model
from st_concepts.stats._null import find_null as find_null
from st_concepts.stats._permutation import PermutationNull, permutation_null
from st_concepts.stats._ranks import auroc as auroc
from st_concepts.stats._ranks import spearman as spearman
from st_concepts.stats._ranks import top_overlap as top_overlap
from st_concepts.stats._sections import CombinedResult, association_by_section, combine_sections
from st_concepts.stats._sums import Sums
from st_concepts.stats._target import TARGETS as TARGETS
from st_concepts.stats._target import Targets as Targets
from st_concepts.stats._tiles import balanced_tiles

register = NULLS.add

__all__ = [
    "NULLS",
    "AssociationResult",
    "CombinedResult",
    "ConceptTestResult",
    "DistanceNull",
    "MoranNull",
    "NullModel",
    "PermutationNull",
    "RowStream",
    "Sums",
    "association_by_section",
    "association_test",
    "balanced_tiles",
    "check_graph",
    "combine_sections",
    "concept_test",
    "distance_null",
    "dutilleul_test",
    "fdr_bh",
    "moran_i",
    "moran_null",
    "moran_surrogates",
    "null_model",
    "permutation_null",
    "register",
    "section_codes",
    "spatial_graph",
]
