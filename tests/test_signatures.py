"""Every public function says what it takes and gives; tools can write into a copy, pictures have scanpy's options."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from importlib.resources import files
from types import ModuleType
from typing import Any

import pytest

import st_concepts as stc


def members(name: str, thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions behind a public name: itself, or the public methods and properties of a class of ours."""
    if not inspect.isclass(thing):
        if callable(thing):
            yield name, thing
        return
    for base in thing.__mro__:
        if not base.__module__.startswith("st_concepts"):
            continue
        for key, value in vars(base).items():
            if key.startswith("_") and key not in ("__init__", "__call__"):
                continue
            if isinstance(value, (classmethod, staticmethod)):
                value = value.__func__
            elif isinstance(value, property):
                value = value.fget
            # dataclasses and protocols write an __init__ of their own
            if inspect.isfunction(value) and value.__module__.startswith("st_concepts"):
                yield f"{name}.{key}", value


PUBLIC = [
    member
    for module in [f"st_concepts.{m}" for m in stc._SUBMODULES] + ["st_concepts"]
    for name in importlib.import_module(module).__all__
    if not name.startswith("__")
    for member in members(f"{module}.{name}", getattr(importlib.import_module(module), name))
]


def test_there_are_public_functions() -> None:
    names = {name for name, _ in PUBLIC}
    assert len(names) > 100
    assert {
        "st_concepts.tl.concepts",
        "st_concepts.SpotVAE.fit",
        "st_concepts.from_scvi",
        "st_concepts.pl.markers",
    } <= names


@pytest.mark.parametrize(("name", "function"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_parameter_and_result_has_a_type(name: str, function: Callable[..., Any]) -> None:
    signature = inspect.signature(function)
    bare = [
        p.name
        for p in signature.parameters.values()
        if p.annotation is inspect.Parameter.empty and p.name not in ("self", "cls")
    ]
    assert bare == []
    assert signature.return_annotation is not inspect.Signature.empty


def test_the_package_says_that_it_is_typed() -> None:
    assert (files("st_concepts") / "py.typed").is_file()


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in (stc.pp, stc.tl) for name in room.__all__])
def test_tools_can_write_elsewhere_or_into_a_copy(room: ModuleType, name: str) -> None:
    parameters = inspect.signature(getattr(room, name)).parameters
    for option in ("key_added", "copy"):
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["copy"].default is False
    assert next(iter(parameters)) == "adata"


@pytest.mark.parametrize("name", [n for n in stc.pl.__all__ if n not in ("faithfulness", "randomization", "stability")])
def test_pictures_have_the_options_of_scanpy(name: str) -> None:
    parameters = inspect.signature(getattr(stc.pl, name)).parameters
    for option in ("ax", "show", "save"):
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].default is None
