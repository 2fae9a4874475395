"""The result of the main job, on disk and in the hands of scanpy and squidpy."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli._pipeline import Settings, analyse

# what the libraries say about themselves
pytestmark = [
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:No data for colormapping:UserWarning"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore:Transforming to str index"),
]


def equal(a: object, b: object) -> bool:
    """Exactly equal, type by type, as deep as it goes."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True, check_names=False)
        return True
    if sp.issparse(a):
        return a.shape == b.shape and a.dtype == b.dtype and (a != b).nnz == 0
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.names:
        return a.dtype.names == b.dtype.names and all(equal(a[n], b[n]) for n in a.dtype.names)
    floats = np.issubdtype(a.dtype, np.floating)
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=floats)) and (not floats or a.dtype == b.dtype)


def main_job(adata: AnnData) -> AnnData:
    analyse(adata, Settings(groupby="layer", n_maps=2, n_null=50, max_epochs=1, n_latent=10))
    return adata


@pytest.fixture(scope="module")
def planted() -> AnnData:
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=8, unlabelled=0.1, seed=4)
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    return main_job(adata)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_round_trips_are_exact(planted, tmp_path, form):
    path = tmp_path / f"r.{form}"
    if form == "h5ad":
        planted.write_h5ad(path)
        back = ad.read_h5ad(path)
    else:
        planted.write_zarr(path)
        back = ad.read_zarr(path)
    assert equal(planted.X, back.X)
    for name in ("obsm", "varm", "layers", "uns"):
        mine, theirs = dict(getattr(planted, name)), dict(getattr(back, name))
        assert set(mine) == set(theirs)
        for key in mine:
            assert equal(mine[key], theirs[key]), f"{name}[{key!r}]"
    pd.testing.assert_frame_equal(stc.get.markers(planted), stc.get.markers(back), check_dtype=False)
    pd.testing.assert_frame_equal(stc.get.concept_scores(planted), stc.get.concept_scores(back))


def test_a_slash_in_a_name_is_nowhere_in_the_slots_and_everywhere_in_the_tables(planted):
    keys = [*planted.obsm, *planted.varm, *planted.layers, *planted.uns, *planted.obs, *planted.var]
    for frame in [*planted.obsm.values(), *planted.varm.values()]:
        keys += list(frame.columns) if isinstance(frame, pd.DataFrame) else []
    assert not [key for key in keys if "/" in key]
    assert "L2/3" in planted.uns["rank_genes_concepts"]["names"].dtype.names
    assert "L2/3" in list(stc.get.concept_scores(planted))
    assert stc.get.markers(planted, "L2/3", n=5)["names"].str.startswith("MCL-marker").all()


def as_users_would(adata: AnnData) -> None:
    """The calls that scanpy and squidpy users make on a result."""
    import squidpy as sq

    try:
        sc.pl.rank_genes_groups_dotplot(
            adata, key="rank_genes_concepts", groupby="layer", n_genes=3, dendrogram=False, show=False
        )
        sc.pl.rank_genes_groups(adata, key="rank_genes_concepts", n_genes=5, show=False)
        names = list(adata.obs["layer"].cat.categories)
        table = sc.get.rank_genes_groups_df(adata, group=names, key="rank_genes_concepts")
        assert len(table) == len(names) * adata.n_vars
        labels = list(adata.obsm["concept_score"])
        shape = "circle" if "spatial" in adata.uns else None
        drawn = sq.pl.extract(adata, "concept_score")
        sq.pl.spatial_scatter(drawn, color=labels[:2], shape=shape, library_id=None if shape else "")
        sq.pl.spatial_scatter(adata, color="layer", shape=shape, library_id=None if shape else "")
        sq.gr.spatial_neighbors(adata, coord_type="generic")
        sq.gr.spatial_autocorr(drawn_with_graph(drawn, adata), attr="obs", genes=labels, n_jobs=1)
        sq.gr.spatial_autocorr(adata, genes=list(adata.var_names[:5]), n_jobs=1)
        assert adata.uns["moranI"].shape[0] == 5
    finally:
        plt.close("all")


def drawn_with_graph(drawn: AnnData, adata: AnnData) -> AnnData:
    for key in ("spatial_connectivities", "spatial_distances"):
        drawn.obsp[key] = adata.obsp[key]
    return drawn


def test_scanpy_and_squidpy_work_on_a_simulated_result_from_disk(planted, tmp_path):
    planted.write_h5ad(tmp_path / "r.h5ad")
    as_users_would(ad.read_h5ad(tmp_path / "r.h5ad"))


@pytest.mark.real_data
def test_scanpy_and_squidpy_work_on_the_real_result_from_disk(mob11, tmp_path: Path):
    seen = np.asarray((mob11.X > 0).sum(0)).ravel()
    result = main_job(mob11[:, seen >= 130].copy())
    result.write_h5ad(tmp_path / "r.h5ad")
    back = ad.read_h5ad(tmp_path / "r.h5ad")
    as_users_would(back)
    known = {
        "GCL": {"Penk", "Nrgn", "Gpsm1", "Gng4", "Pcp4", "Meis2", "Kcnh3"},
        "ONL": {"Omp", "Kctd12", "Fabp7", "Apod"},
    }
    for layer, genes in known.items():
        assert len(genes & set(stc.get.markers(back, layer, n=10)["names"])) >= 2
