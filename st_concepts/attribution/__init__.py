"""Attribution of concept scores to genes: exact, factorised, on any encoder."""

from __future__ import annotations

from st_concepts.attribution._explain import Explanation, explain
from st_concepts.attribution._explained import Baseline as Baseline
from st_concepts.attribution._explained import Explained as Explained
from st_concepts.attribution._explained import mean_gradient as mean_gradient
from st_concepts.attribution._group import group_attributions
from st_concepts.attribution._inputs import modules_of as modules_of
from st_concepts.attribution._inputs import profile_baseline
from st_concepts.attribution._methods.base import METHODS, Method, Options, Pass
from st_concepts.attribution._methods.forms import FORMS, Form
from st_concepts.attribution._registry import get_method, methods_table
from st_concepts.attribution._result import Batch, GroupAttribution, iter_batches
from st_concepts.attribution._runner import Runner as Runner
from st_concepts.attribution._spot import SpotAttribution, spot_attributions

register = METHODS.add

__all__ = [
    "FORMS",
    "METHODS",
    "Batch",
    "Explanation",
    "Form",
    "GroupAttribution",
    "Method",
    "Options",
    "Pass",
    "SpotAttribution",
    "explain",
    "get_method",
    "group_attributions",
    "iter_batches",
    "methods_table",
    "profile_baseline",
    "register",
    "spot_attributions",
]
