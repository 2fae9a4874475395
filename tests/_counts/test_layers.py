from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
from anndata import AnnData

import st_concepts as stc
from st_concepts._counts.layers import layer_names, layers_of

PACKAGE = Path(stc.__file__).parent


class NewLayers(dict):
    """As in anndata 0.13, where a walk over the layers meets `None` too, which stands for X."""


def test_x_is_no_layer() -> None:
    class Section:
        layers = NewLayers({None: "X", "counts": "C"})

    assert layer_names(Section) == ["counts"]
    assert layers_of(Section) == {"counts": "C"}
    adata = AnnData(np.ones((2, 3), dtype=np.float32), layers={"a": np.zeros((2, 3), dtype=np.float32)})
    assert layer_names(adata) == ["a"]
    assert list(layers_of(adata)) == ["a"]


def _walks(tree: ast.AST) -> list[int]:
    """Lines where ``x.layers`` is walked over, or taken as a whole."""
    found = []
    for node in ast.walk(tree):
        inner = [
            *([node.iter] if isinstance(node, ast.For | ast.comprehension) else ()),
            *(node.args if isinstance(node, ast.Call) else ()),
            *([node.value] if isinstance(node, ast.Starred) else ()),
            *([node.operand] if isinstance(node, ast.UnaryOp) else ()),
            *([node.test] if isinstance(node, ast.If | ast.IfExp) else ()),
        ]
        if isinstance(node, ast.Attribute) and node.attr in ("items", "keys", "values"):
            inner.append(node.value)
        found += [n.lineno for n in inner if isinstance(n, ast.Attribute) and n.attr == "layers"]
    return found


def test_the_search_for_walks_finds_them() -> None:
    for line in (
        "for k in a.layers: pass",
        "dict(a.layers)",
        "a.layers.items()",
        "[k for k in a.layers]",
        "not a.layers",
    ):
        assert _walks(ast.parse(line)), line
    for line in ("a.layers['x']", "'x' in a.layers", "a.layers['x'] = 1", "del a.layers['x']"):
        assert not _walks(ast.parse(line)), line


def test_layers_are_walked_over_in_one_place_only() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in _walks(ast.parse(path.read_text(encoding="utf-8")))
        if path != PACKAGE / "_counts" / "layers.py"
        and "dask.layers" not in path.read_text(encoding="utf-8").splitlines()[line - 1]
    }
    assert not found, "use st_concepts._counts.layers"
