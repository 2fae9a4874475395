from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import st_concepts as stc

PACKAGE = Path(stc.__file__).parent
# who may import whom: a module sees those of lower level, and its own
LEVELS = [
    {"_slots", "_names", "_distributed", "_log", "_files", "_registry", "_spreadsheet"},
    {"_counts"},
    {"_results"},
    {"io", "pp", "stats"},
    {"datasets", "models"},
    {"concepts"},
    {"attribution"},
    {"evaluate"},
    {"tl"},
    {"get"},
    {"pl"},
    {"report"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
HEAVY = ("squidpy", "scvi", "lightning", "lightning_fabric", "scanpy", "captum", "torch", "matplotlib.pyplot", "pooch")


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: ``tl`` for ``st_concepts/tl/_embed.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[tuple[str, int]]:
    """Parts of the package that a file imports, wherever in it, and the lines."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = path.relative_to(PACKAGE.parent).with_suffix("").parts
                base = ".".join([*here[: len(here) - node.level], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "st_concepts" and len(parts) > 1 and parts[1] in LEVEL:
                found.add((parts[1], node.lineno))
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def test_every_part_has_a_level():
    assert {part_of(p) for p in FILES} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward_only(path):
    own = part_of(path)
    upward = [
        f"line {line}: {own} imports {other}"
        for other, line in sorted(imports(path))
        if other != own and LEVEL[other] >= LEVEL[own] and not (own == "datasets" and other == "io")
    ]
    assert not upward


def test_the_import_reader_sees_every_way_to_import(tmp_path, monkeypatch):
    package = tmp_path / "st_concepts"
    (package / "io").mkdir(parents=True)
    file = package / "io" / "a.py"
    file.write_text(
        "import st_concepts.tl\nfrom st_concepts import pl\ndef f():\n    from ..get import markers\n"
        "    from st_concepts.models._encoder import X\nfrom ._rows import y\nfrom .. import _slots\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    assert {name for name, _ in imports(file)} == {"tl", "pl", "get", "models", "io", "_slots"}


def test_importing_the_package_pulls_in_nothing_heavy():
    code = f"import sys, st_concepts; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_asking_for_help_computes_nothing():
    code = (
        "import sys\nfrom st_concepts.cli import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit as e:\n"
        f"    assert e.code == 0\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", [n for n in stc.__all__ if not n.startswith("__")])
def test_public_names_are_there_and_say_what_they_are(name):
    assert name in dir(stc)
    thing = getattr(stc, name)
    assert inspect.getdoc(thing)
    if inspect.ismodule(thing):
        exported = getattr(thing, "__all__", [])
        assert len(set(exported)) == len(exported)
        for inner in exported:
            value = getattr(thing, inner)
            if callable(value):
                assert inspect.getdoc(value), f"{name}.{inner} has no docstring"


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing_like_it'"):
        _ = stc.nothing_like_it


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert version("st_concepts") == stc.__version__


def test_modules_are_imported_once():
    assert stc.tl is importlib.import_module("st_concepts.tl")
