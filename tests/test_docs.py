"""The documentation names every public name, and says of ten mistakes what the package says of them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main

DOCS = Path(__file__).parents[1] / "docs"
PUBLIC = [
    f"st_concepts.{module}.{name}"
    for module in stc._SUBMODULES
    for name in getattr(importlib.import_module(f"st_concepts.{module}"), "__all__", ())
]


def test_every_public_name_is_in_the_reference() -> None:
    documented = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE))
    shown = {name.rsplit(".", 1)[-1] for name in documented}
    assert [name for name in PUBLIC if name not in documented] == []
    assert [name for name in stc._NAMES if name not in shown] == []
    for name in documented:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_pages_build_without_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the extra [docs] is not installed")
    pytest.importorskip("myst_nb", reason="the extra [docs] is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api.html").is_file()
    equations = (tmp_path / "how_it_works.html").read_text(encoding="utf-8")
    assert equations.count("<math ") > 20
    assert 'display="block"' in equations
    # nothing is fetched from elsewhere: neither scripts, nor styles, nor pictures
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']([^\"']*)", text)
        loaded += re.findall(r"<link[^>]*\shref=[\"']([^\"']*)", text)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page.name


# ten mistakes


@pytest.fixture
def section() -> AnnData:
    return stc.datasets.simulated_bulb(n_obs=150, n_vars=120, n_markers=8, n_smooth=5, seed=2)


@pytest.fixture
def model(section: AnnData) -> stc.SpotVAE:
    return stc.SpotVAE(section, n_latent=4, seed=0).fit(max_epochs=0, progress=False)


@pytest.fixture
def says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Checks what Python and the command line say about a mistake, and that the page has it."""
    page = (DOCS / "errors.md").read_text(encoding="utf-8")

    def check(text: str, python: Callable[[], object] | None, *command: object, code: int = 2) -> None:
        assert f"`{text}`" in page
        if python is not None:
            with pytest.raises((ValueError, KeyError, OSError), match=re.escape(text)) as caught:
                python()
            assert "\n" not in str(caught.value)
        if command:
            with pytest.raises(SystemExit) as left:
                main(["run", *map(str, command), *("--max-epochs", "0", "--n-latent", "3")])
            lines = capsys.readouterr().err.strip().splitlines()
            assert left.value.code == code
            assert len(lines) == 1
            assert text in lines[0]

    return check


def saved(adata: AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path


def test_misspelt_column(section: AnnData, model: stc.SpotVAE, says: Callable[..., None], tmp_path: Path) -> None:
    source, out = saved(section, tmp_path / "a.h5ad"), tmp_path / "o.h5ad"
    says(
        "Did you mean",
        lambda: stc.tl.concepts(section, model, groupby="layers"),
        *(source, "--groupby", "layers", "--out", out),
    )


def test_log_normalised(section: AnnData, says: Callable[..., None], tmp_path: Path) -> None:
    sc.pp.normalize_total(section)
    sc.pp.log1p(section)
    source, out = saved(section, tmp_path / "a.h5ad"), tmp_path / "o.h5ad"
    says("raw counts are needed", lambda: stc.SpotVAE(section), source, "--groupby", "layer", "--out", out)


def test_outlines_on_no_spot(section: AnnData, says: Callable[..., None], tmp_path: Path) -> None:
    drawn, source = tmp_path / "a.geojson", saved(section, tmp_path / "a.h5ad")
    stc.io.write_annotation(section, drawn, scale=100.0)
    says(
        "no polygon touches any spot",
        lambda: stc.io.read_annotation(section, drawn),
        *(source, "--groupby", "layer", "--annotation", drawn, "--out", tmp_path / "o.h5ad"),
    )


def test_symbols_against_ids(section: AnnData, model: stc.SpotVAE, says: Callable[..., None]) -> None:
    section.var_names = [f"ENSMUSG{i:011d}" for i in range(section.n_vars)]
    says("the model gene symbols", lambda: stc.tl.concepts(section, model, groupby="layer"))


def test_missing_coordinates(section: AnnData, model: stc.SpotVAE, says: Callable[..., None], tmp_path: Path) -> None:
    del section.obsm["spatial"]
    source = saved(section, tmp_path / "a.h5ad")
    stc.tl.concepts(section, model, groupby="layer")
    says(
        "obsm['spatial']",
        lambda: stc.tl.rank_genes_concepts(section),
        *(source, "--groupby", "layer", "--null", "moran", "--out", tmp_path / "o.h5ad"),
    )


def test_one_label(section: AnnData, model: stc.SpotVAE, says: Callable[..., None], tmp_path: Path) -> None:
    section.obs["one"] = pd.Categorical(["GL"] * section.n_obs)
    source, out = saved(section, tmp_path / "a.h5ad"), tmp_path / "o.h5ad"
    says(
        "at least",
        lambda: stc.tl.concepts(section, model, groupby="one"),
        *(source, "--groupby", "one", "--out", out),
    )


def test_wrong_kind_and_unreadable(section: AnnData, says: Callable[..., None], tmp_path: Path) -> None:
    other, out = tmp_path / "a.dat", tmp_path / "o.h5ad"
    other.write_bytes(b"\x00\x01\x02")
    says("of no kind that can be read", lambda: stc.io.read(other), other, "--groupby", "layer", "--out", out)
    broken = tmp_path / "b.h5ad"
    broken.write_bytes(saved(section, tmp_path / "a.h5ad").read_bytes()[:3000])
    says("damaged or truncated", lambda: stc.io.read(broken), broken, "--groupby", "layer", "--out", out)


def test_output_that_cannot_be_written(
    section: AnnData, model: stc.SpotVAE, says: Callable[..., None], tmp_path: Path
) -> None:
    source = saved(section, tmp_path / "a.h5ad")
    below = source / "o.h5ad"  # a file is no folder, for the administrator neither
    says("folder", None, source, "--groupby", "layer", "--out", below)
    with pytest.raises(OSError, match=r"Folder .* cannot be made .*; name another\."):
        stc.io.write(section, below)
    stc.tl.concepts(section, model, groupby="layer")
    for call in (
        lambda: stc.report.write(section, source / "a.html"),
        lambda: stc.pl.concept_histograms(section, save=source / "a.png"),
    ):
        with pytest.raises(OSError, match=r"Folder .* cannot be made .*; name another\."):
            call()
    assert not plt.get_fignums()


def test_result_as_input(section: AnnData, model: stc.SpotVAE, says: Callable[..., None], tmp_path: Path) -> None:
    stc.tl.concepts(section, model, groupby="layer")
    source = saved(section, tmp_path / "a.h5ad")
    says("never changed", None, source, "--groupby", "layer", "--out", source)
    says(
        "earlier results",
        None,
        *(source, "--groupby", "layer", "--null", "none", "--out", tmp_path / "o.h5ad"),
        code=0,
    )
