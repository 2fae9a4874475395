"""The worked examples of the contributor page run, in the order of the page."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import st_concepts as stc
from st_concepts import _registry
from st_concepts.concepts import Estimator

PAGE = Path(__file__).parents[1] / "docs" / "contributing.md"


@pytest.fixture
def registries():
    held = [stc.attribution.METHODS, stc.concepts.ESTIMATORS, stc.stats.NULLS, stc.io.READERS]
    before = [dict(r) for r in held]
    yield held
    for registry, names in zip(held, before, strict=True):
        registry._held = names


@pytest.mark.filterwarnings("ignore:Expression does not tell:UserWarning")  # one of the models is a random projection
def test_the_examples_of_the_page_run(registries):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    space: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), space)  # the page is ours
    adata = space["adata"]
    assert stc.io.READERS["puck"].what == "Beads of a puck"
    assert adata.uns["concepts"]["params"]["estimator"] == "median_difference"
    assert adata.uns["rank_genes_concepts"]["params"]["null"] == "sign_flips"
    assert adata.uns["concept_saliency"]["params"]["method"] == "signed_gradient"
    assert set(adata.uns["random"]["names"]) == set(adata.obs["layer"].cat.categories)


def test_registering_is_checked(registries):
    own = Estimator("own", lambda z, a, b: z[a].mean(0), "none")
    assert stc.concepts.register(own) is own
    assert stc.concepts.register(own) is own  # again: nothing happens
    with pytest.raises(ValueError, match="is there already; choose another name"):
        stc.concepts.register(Estimator("own", own.function, "none"))
    replaced = stc.concepts.register(Estimator("own", own.function, "none"), replace=True)
    assert stc.concepts.get_estimator("own") is replaced
    with pytest.raises(TypeError, match="takes a Estimator"):
        stc.concepts.register("own")
    with pytest.raises(ValueError, match="needs a name that is a word"):
        stc.concepts.register(Estimator("my own", own.function, "none"))
    with pytest.raises(TypeError, match="subclass of NullModel"):
        stc.stats.register(own)
    with pytest.raises(ValueError, match=r"Did you mean 'own'\?"):
        stc.concepts.get_estimator("owm")


def test_one_of_the_package_can_be_replaced_before_anything_was_asked() -> None:
    code = (
        "import st_concepts as stc\nkind = stc.concepts.Estimator('logistic', lambda z, a, b: z[a].mean(0), 'own')\n"
        "stc.concepts.register(kind, replace=True)\nassert stc.concepts.get_estimator('logistic') is kind\n"
        "own = type('Own', (stc.attribution.Method,), {})('gradient', 'q', 'c', stc.attribution.FORMS['gradient'])\n"
        "stc.attribution.register(own, replace=True)\nassert stc.attribution.get_method('gradient') is own"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plugins_are_loaded_once_and_a_broken_one_is_left_out(registries, monkeypatch, tmp_path):
    (tmp_path / "good_plugin.py").write_text(
        "import st_concepts as stc\ncalls = []\ndef setup():\n    calls.append(1)\n"
        "    stc.concepts.register(stc.concepts.Estimator('of_a_plugin', lambda z, a, b: z[a].mean(0), 'none'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("good", "good_plugin:setup", _registry.PLUGINS),
        EntryPoint("bad", "no_such_plugin_module", _registry.PLUGINS),
    ]
    monkeypatch.setattr(_registry, "entry_points", lambda group: points)
    monkeypatch.setattr(_registry, "_loaded", set())
    with pytest.warns(UserWarning, match="Plugin 'bad'.*left out"):
        _registry.load_plugins()
    _registry.load_plugins()
    assert stc.concepts.get_estimator("of_a_plugin").citation == "none"
    import good_plugin

    assert good_plugin.calls == [1]
