"""Attribution of concept scores to genes: exact, factorised, on any encoder."""

from __future__ import annotations

from st_concepts.attribution._explain import Explanation, explain
from st_concepts.attribution._explained import Baseline as Baseline
from st_concepts.attribution._explained import Explained as Explained
from st_concepts.attribution._explained import concept_gradients as concept_gradients
from st_concepts.attribution._group import group_attributions as group_attributions
from st_concepts.attribution._inputs import modules_of as modules_of
from st_concepts.attribution._inputs import profile_baseline as profile_baseline
from st_concepts.attribution._methods.base import METHODS, Method, Options, Pass
from st_concepts.attribution._methods.forms import FORMS, Form
from st_concepts.attribution._registry import get_method as get_method
from st_concepts.attribution._registry import methods_table
from st_concepts.attribution._result import Batch as Batch
from st_concepts.attribution._result import GroupAttribution as GroupAttribution
from st_concepts.attribution._result import iter_batches as iter_batches
from st_concepts.attribution._runner import Runner as Runner
from st_concepts.attribution._spot import SpotAttribution as SpotAttribution
from st_concepts.attribution._spot import spot_attributions as spot_attributions

register = METHODS.add

__all__ = [
    "Explanation",
    "FORMS",
    "Form",
    "METHODS",
    "Method",
    "Options",
    "Pass",
    "explain",
    "methods_table",
    "register",
]
