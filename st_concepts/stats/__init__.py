"""Spatial null models, association tests and false discovery control: arrays in, arrays out."""

from __future__ import annotations

from st_concepts._counts.stream import RowStream
from st_concepts.stats._association import AssociationResult, association_test
from st_concepts.stats._concept_test import ConceptTestResult, concept_test
from st_concepts.stats._concept_test import p_text as p_text
from st_concepts.stats._contrast import Contrast as Contrast
from st_concepts.stats._covariance import shrinkage as shrinkage
from st_concepts.stats._covariance import shrunk_covariance as shrunk_covariance
from st_concepts.stats._distance import distance_null
from st_concepts.stats._dutilleul import dutilleul_test
from st_concepts.stats._fdr import fdr_bh
from st_concepts.stats._graph import check_graph as check_graph
from st_concepts.stats._graph import section_codes as section_codes
from st_concepts.stats._graph import spatial_graph
from st_concepts.stats._moran import MoranNull as MoranNull
from st_concepts.stats._moran import moran_i, moran_null
from st_concepts.stats._moran import moran_surrogates as moran_surrogates
from st_concepts.stats._null import NULLS, NullModel
from st_concepts.stats._null import find_null as find_null
from st_concepts.stats._null import null_model as null_model
from st_concepts.stats._permutation import PermutationNull as PermutationNull
from st_concepts.stats._permutation import permutation_null
from st_concepts.stats._ranks import auroc as auroc
from st_concepts.stats._ranks import spearman as spearman
from st_concepts.stats._ranks import top_overlap as top_overlap
from st_concepts.stats._sections import CombinedResult as CombinedResult
from st_concepts.stats._sections import association_by_section as association_by_section
from st_concepts.stats._sections import combine_sections as combine_sections
from st_concepts.stats._sums import Sums
from st_concepts.stats._tails import TAILS as TAILS
from st_concepts.stats._tails import Tail as Tail
from st_concepts.stats._target import RANKED as RANKED
from st_concepts.stats._target import TARGETS as TARGETS
from st_concepts.stats._target import Targets as Targets
from st_concepts.stats._tiles import balanced_tiles as balanced_tiles

register = NULLS.add

__all__ = [
    "AssociationResult",
    "NULLS",
    "ConceptTestResult",
    "NullModel",
    "RowStream",
    "Sums",
    "association_test",
    "concept_test",
    "distance_null",
    "dutilleul_test",
    "fdr_bh",
    "moran_i",
    "moran_null",
    "permutation_null",
    "register",
    "spatial_graph",
]
