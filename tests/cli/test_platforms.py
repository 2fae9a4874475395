"""``run`` on every platform, and ``report``, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main

pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
]

FAST = ("--n-latent", "3", "--max-epochs", "0", "--null", "none")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in args])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


def halves(adata: AnnData, path: Path) -> Path:
    """A table of barcode and label: the left and the right half of a section."""
    x = adata.obsm["spatial"][:, 0]
    frame = pd.DataFrame({"Barcode": adata.obs_names, "side": np.where(x < np.median(x), "left", "right")})
    frame.to_csv(path, index=False)
    return path


def drawn_by_scanpy_and_squidpy(result: AnnData, concept: str) -> None:
    import matplotlib.pyplot as plt
    import scanpy as sc
    import squidpy as sq

    plt.close("all")
    sc.pl.rank_genes_groups(result, key="rank_genes_concepts", n_genes=3, show=False)
    panels = [ax for ax in plt.gcf().axes if ax.texts]
    assert {t.get_text() for ax in panels for t in ax.texts} <= set(result.var_names)
    assert len(panels) == len(result.obsm["concept_score"].columns)
    shape = "circle" if "spatial" in result.uns else None
    _, ax = plt.subplots()
    sq.pl.spatial_scatter(
        sq.pl.extract(result, "concept_score"), color=concept, shape=shape, library_id=library(result), ax=ax
    )
    drawn = [c.get_array() for c in ax.collections if c.get_array() is not None]
    np.testing.assert_allclose(drawn[0], result.obsm["concept_score"][concept], rtol=1e-5)
    plt.close("all")


def library(result: AnnData) -> str:
    """The image to draw on; any name will do where there is none."""
    return next(iter(result.uns.get("spatial", {})), "")


@pytest.mark.parametrize(
    ("platform", "said"),
    [("visium_folder", "Visium,"), ("visium_hd_folder", "Visium HD"), ("xenium_folder", "Xenium")],
)
def test_run_on_platforms(
    cli: Callable[..., tuple[int, str, str]],
    platform: str,
    said: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip("spatialdata_io", reason="the extra [spatialdata] is not installed")
    folder: Path = request.getfixturevalue(platform)
    labels = halves(stc.io.read(folder), tmp_path / "labels.csv")
    out, page = tmp_path / "result.h5ad", tmp_path / "report.html"
    code, text, error = cli(
        "run", folder, "--groupby", "side", "--annotation", labels, "--out", out, "--report", page, *FAST
    )
    assert code == 0, error
    assert said in text
    result = stc.io.read(out)
    assert list(result.obsm["concept_score"]) == ["left", "right"]
    assert result.var["gene_ids"].is_unique
    assert page.stat().st_size > 2e6  # its libraries are in it, compressed
    drawn_by_scanpy_and_squidpy(result, "left")


def test_run_on_spatialdata(
    cli: Callable[..., tuple[int, str, str]], spatialdata_store: Callable[..., Path], tmp_path: Path
) -> None:
    sd = pytest.importorskip("spatialdata", reason="the extra [spatialdata] is not installed")
    source, out = spatialdata_store(), tmp_path / "result.zarr"
    code, text, error = cli("run", source, "--groupby", "layer", "--out", out, *FAST)
    assert code == 0, error
    assert "SpatialData" in text
    sdata = sd.read_zarr(out)
    assert list(sdata["table"].obsm["concept_score"]) == ["bottom", "top"]
    assert sorted(sdata.images) == ["he"]
    code, text, error = cli("report", out, "-o", tmp_path / "a.html")
    assert code == 0, error
    assert "written" in text
    for target, complaint in ((source, "never changed"), (tmp_path, "must end in")):
        code, _, error = cli("run", source, "--groupby", "layer", "--out", target, *FAST)
        assert code == 2
        assert complaint in error
        assert error.count("\n") == 1
    drawn_by_scanpy_and_squidpy(stc.io.read(out), "top")
    # spatialdata-plot draws what landed in the table
    pytest.importorskip("spatialdata_plot", reason="the extra [spatialdata] is not installed")
    import matplotlib.pyplot as plt

    table = sdata["table"]
    table.obs["top"] = table.obsm["concept_score"]["top"]
    _, ax = plt.subplots()
    sdata.pl.render_images("he").pl.render_shapes("spots", color="top").pl.show(ax=ax)
    assert ax.collections
    plt.close("all")


def test_report_refuses(cli: Callable[..., tuple[int, str, str]], simulated: AnnData, tmp_path: Path) -> None:
    source = tmp_path / "section.h5ad"
    simulated.write_h5ad(source)
    for args, complaint in (
        ((source, "-o", tmp_path / "a.html"), "holds no result"),
        ((source, "-o", tmp_path / "a.pdf"), "must end in .html"),
        ((source, "-o", tmp_path / "a.h5ad"), "must end in .html"),
        ((tmp_path / "no.h5ad", "-o", tmp_path / "a.html"), "does not exist"),
    ):
        code, _, error = cli("report", *args)
        assert code == 2
        assert complaint in error
        assert error.count("\n") == 1


@pytest.mark.real_data
def test_bulb_from_its_raw_table_and_qupath(
    cli: Callable[..., tuple[int, str, str]], mob11: AnnData, tmp_path: Path
) -> None:
    from st_concepts.datasets._fetch import fetch

    drawn = tmp_path / "layers.geojson"
    stc.io.write_annotation(mob11, drawn)
    table = Path(fetch("Rep11_MOB_count_matrix-1.tsv.gz", None))
    image = Path(fetch("11.jpg", None))
    wanted = ("--groupby", "layer", "--annotation", drawn, "--out", tmp_path / "a.h5ad", "--min-spots", "20", *FAST)
    # without the image the spots are in array positions, and the outlines in its pixels: both boxes are shown
    code, _, error = cli("run", table, *wanted)
    assert code == 2
    assert "The polygons span x" in error
    assert "the spots x" in error
    code, text, error = cli("run", table, "--image", image, "--report", tmp_path / "a.html", *wanted)
    assert code == 0, error
    assert f"labels: {int(mob11.obs['layer'].notna().sum())} of {mob11.n_obs} spots" in text
    result = stc.io.read(tmp_path / "a.h5ad")
    assert result.obs["layer"].astype(str).tolist() == mob11.obs["layer"].astype(str).tolist()
    np.testing.assert_allclose(result.obsm["spatial"], mob11.obsm["spatial"])
    assert (tmp_path / "a.html").stat().st_size < 10e6
    drawn_by_scanpy_and_squidpy(result, "GCL")


def test_no_image(visium_folder: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    (visium_folder / "spatial" / "tissue_hires_image.png").write_bytes(b"broken")
    wanted = ("run", visium_folder, "--groupby", "nowhere", "--out", tmp_path / "a.h5ad")
    code, _, error = cli(*wanted)
    assert code == 2
    assert "--no-image" in error
    assert "no readable image" in error
    code, _, error = cli(*wanted, "--no-image")  # read, so that the next mistake is found
    assert code == 2
    assert "--groupby nowhere: obs has no such column" in error
    table = tmp_path / "t.tsv"
    table.write_text("\tPenk\tOmp\n17x9\t3\t0\n")
    code, _, error = cli("run", table, *wanted[2:], "--no-image", "--image", tmp_path / "i.png")
    assert code == 2
    assert "exclude each other" in error
