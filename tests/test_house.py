"""The floor plan: who may import what. Read from the syntax trees, so that imports inside functions count too."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import st_concepts as stc

PACKAGE = Path(stc.__file__).parent


def name_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules_of(package: Path) -> frozenset[str]:
    return frozenset(name_of(p, package) for p in package.rglob("*.py"))


def imported(path: Path, package: Path = PACKAGE) -> Iterator[tuple[str, int, bool]]:
    """Modules of the package that a file imports, the line, and whether that happens as the file is imported."""
    modules = modules_of(package)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = path.relative_to(package.parent).with_suffix("").parts
                base = ".".join([*here[: len(here) - node.level], *([base] if base else [])])
            # a name that is a module is that module; any other is a name in the base
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == package.name:
                yield name, node.lineno, id(node) not in late


def foreign_private(path: Path, package: Path = PACKAGE) -> list[str]:
    """Imports of a private module of another folder; the rooms at the root belong to all."""
    own = name_of(path, package).split(".")
    top = own[1] if len(own) > 1 else ""
    found = []
    for name, line, _ in imported(path, package):
        parts = name.split(".")
        if len(parts) > 2 and parts[1] != top and not parts[1].startswith("_"):
            found += [f"{name} (line {line})" for part in parts[2:] if part.startswith("_")]
    return found


def circles(package: Path = PACKAGE) -> list[list[str]]:
    """Circles among modules that import each other as they are imported."""
    graph = {
        name_of(p, package): sorted({name for name, _, early in imported(p, package) if early} - {name_of(p, package)})
        for p in package.rglob("*.py")
    }
    found: list[list[str]] = []
    state: dict[str, int] = {}

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for other in graph.get(name, []):
            if state.get(other) == 1:
                found.append([*path[path.index(other) :], other])
            elif other not in state:
                visit(other, [*path, other])
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, [name])
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_private_module_of_another_folder_is_imported(path):
    assert not foreign_private(path)


def test_modules_import_each_other_in_no_circle():
    assert not circles()


def test_files_stay_short():
    assert Path(__file__) in TESTS
    long = {str(p): n for p in (*FILES, *TESTS) if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_tests_stand_in_the_folder_of_the_room_that_they_test():
    rooms = {str(p.parent.relative_to(PACKAGE)) for p in FILES}
    folders = {str(p.parent.relative_to(Path(__file__).parent)) for p in TESTS}
    assert folders <= rooms


def test_the_reader_of_imports_sees_what_it_should(tmp_path):
    package = tmp_path / "house"
    for folder in ("a", "b", "_c"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "a" / "_one.py").write_text("from house.b._two import x\nfrom house._c import y\nfrom ..b import _two\n")
    (package / "b" / "_two.py").write_text("def f():\n    from house.a import _one\nfrom ._three import z\n")
    (package / "b" / "_three.py").write_text("from typing import TYPE_CHECKING\nfrom . import _two\n")
    assert foreign_private(package / "a" / "_one.py", package) == ["house.b._two (line 1)", "house.b._two (line 3)"]
    assert foreign_private(package / "b" / "_two.py", package) == ["house.a._one (line 2)"]
    assert not foreign_private(package / "b" / "_three.py", package)
    assert circles(package) == [["house.b._two", "house.b._three", "house.b._two"]]
