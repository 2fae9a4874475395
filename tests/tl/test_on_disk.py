"""Whatever holds the counts, the results are those of memory."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import read_elem, sparse_dataset

import st_concepts as stc
from st_concepts._counts.frames import as_frame, column
from st_concepts._counts.rows import in_memory
from st_concepts.concepts import read_concepts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*zarr v3 autosharding:UserWarning"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:zarr"),
]
KINDS = ["backed", "backed dense", "zarr", "dask", "lazy zarr", "lazy h5ad"]


def on_disk(adata: ad.AnnData, kind: str, folder: Path) -> ad.AnnData:
    """The same AnnData with its counts on the disk."""
    if kind == "backed dense":
        adata = adata.copy()
        adata.X = adata.X.toarray()
    if kind in ("backed", "backed dense"):
        adata.write_h5ad(folder / "a.h5ad")
        return ad.read_h5ad(folder / "a.h5ad", backed="r")
    if kind == "lazy h5ad":
        adata.write_h5ad(folder / "a.h5ad")
        return ad.experimental.read_lazy(h5py.File(folder / "a.h5ad", "r"))
    adata.write_zarr(folder / "a.zarr")
    if kind == "lazy zarr":
        return ad.experimental.read_lazy(str(folder / "a.zarr"))
    group = zarr.open_group(str(folder / "a.zarr"), mode="r")
    parts = {k: read_elem(group[k]) for k in ("obs", "var", "uns", "obsm", "varm")}
    X = sparse_dataset(group["X"]) if kind == "zarr" else ad.experimental.read_elem_lazy(group["X"], chunks=(70, -1))
    return ad.AnnData(X, **parts)


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def pair(trained, kind, tmp_path) -> tuple[ad.AnnData, ad.AnnData, stc.SpotVAE]:
    """In memory and on the disk, with unlabelled spots."""
    adata, model = trained
    adata.X = sp.csr_matrix(adata.X)
    layer = adata.obs["layer"].astype(object)
    layer.iloc[::7] = np.nan
    adata.obs["layer"] = pd.Categorical(layer)
    return adata, on_disk(adata, kind, tmp_path), model


def same(a, b, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    a, b = as_frame(a), as_frame(b)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, rtol=rtol, atol=atol, check_names=False)
    else:
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=rtol, atol=atol)


def test_the_whole_path(pair):
    memory, disk, model = pair
    assert not in_memory(disk.X)
    for adata in pair[:2]:
        stc.tl.embed(adata, model)
        stc.tl.concepts(adata, model, groupby="layer")
        stc.tl.saliency(adata, model, method="integrated_gradients")
        stc.tl.saliency_map(adata, model, concept="GCL", genes=list(adata.var_names[:3]))
        stc.tl.rank_genes_concepts(adata, n_null=20)
    for slot in ("obsm", "varm"):
        mine, theirs = getattr(memory, slot), getattr(disk, slot)
        assert set(mine) <= set(theirs)
        for key in mine:
            same(mine[key], theirs[key])
    assert not in_memory(disk.X)
    found = disk.layers["concept_saliency_GCL"]
    same(memory.layers["concept_saliency_GCL"].toarray(), found.toarray())
    for field in ("scores", "logfoldchanges", "pvals"):
        for concept in read_concepts(memory).names:
            a, b = (x.uns["rank_genes_concepts"][field][concept] for x in (memory, disk))
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    same(column(memory.obs, "concept_disagreement"), column(disk.obs, "concept_disagreement"), atol=1e-5)
    # once more over what is there, as a boolean mask, which drops the column of the layers
    stc.tl.concepts(disk, model, mask=np.arange(disk.n_obs) % 2 == 0, unlabelled="ignore", n_null=0)
    assert "concept_disagreement" not in disk.obs or column(disk.obs, "concept_disagreement").isna().all()


def test_results_that_were_written_are_read_lazily(trained, tmp_path):
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    adata.obs["section"] = pd.Categorical(np.where(np.arange(adata.n_obs) < 150, "a", "b"))
    stc.tl.rank_genes_concepts(adata, n_null=0, method="saliency", section_key="section")
    for kind in ("lazy zarr", "lazy h5ad"):
        (tmp_path / kind).mkdir()
        lazy = on_disk(adata, kind, tmp_path / kind)
        made = read_concepts(lazy)
        assert made.names == read_concepts(adata).names
        stc.tl.rank_genes_concepts(lazy, n_null=0, method="saliency", section_key="section")
        for key in ("z", "lfc", "pct_in", "z_combined", "n_sections"):
            same(adata.varm[f"rank_genes_concepts_{key}"], lazy.varm[f"rank_genes_concepts_{key}"])
        stc.tl.saliency(lazy, model)
        same(adata.varm["concept_saliency"], lazy.varm["concept_saliency"])


def test_concepts_of_another_section(trained, other, kind, tmp_path):
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer")
    disk = on_disk(other, kind, tmp_path)
    for section in (other, disk):
        stc.tl.score_concepts(section, model, concepts=adata)
    for key in ("concept_score", "concept_members"):
        same(other.obsm[key], disk.obsm[key])
    same(other.varm["concept_gradient"], disk.varm["concept_gradient"])


def test_spatial_folds(simulated, kind, tmp_path):
    disk = on_disk(simulated, kind, tmp_path)
    for adata in (simulated, disk):
        stc.tl.cross_fit(adata, "layer", n_folds=2, model_options={"n_latent": 4}, fit_options={"max_epochs": 0})
    same(simulated.obsm["concept_score_crossfit"], disk.obsm["concept_score_crossfit"], atol=1e-4)


def test_the_gene_view(tmp_path):
    memory = stc.datasets.simulated_bulb(n_obs=120, n_vars=150, n_markers=10, seed=0)
    model = stc.GeneVAE(memory, n_latent=4, channels=(8,), hidden=(16,)).fit(max_epochs=1, progress=False)
    sections = [memory]
    for kind in ("backed", "lazy zarr"):
        sections.append(on_disk(memory, kind, tmp_path))
    for adata in sections:
        stc.tl.gene_concepts(adata, model, groupby="layer", n_top=8)
        stc.tl.spatial_saliency(adata, model, method="gradient")
    for disk in sections[1:]:
        for key in ("concept_pattern", "spatial_saliency"):
            same(memory.obsm[key], disk.obsm[key])


def test_a_copy_is_made_or_refused_before_anything_is_computed(pair, kind):
    _, disk, model = pair
    before = set(disk.obsm)
    if kind.startswith("backed") or kind == "zarr":
        for function in (
            lambda: stc.tl.embed(disk, model, copy=True),
            lambda: stc.tl.concepts(disk, model, groupby="layer", copy=True),
            lambda: stc.tl.cross_fit(disk, "layer", copy=True),
        ):
            with pytest.raises(ValueError, match="copy=True cannot copy"):
                function()
    else:
        copied = stc.tl.embed(disk, model, copy=True)
        assert "X_stc" in copied.obsm
        assert not in_memory(copied.X)
    assert set(disk.obsm) == before


@pytest.mark.parametrize("kind", ["backed", "zarr"])
def test_results_next_to_counts_on_the_disk_can_be_written(pair, kind, tmp_path):
    memory, disk, model = pair
    stc.tl.concepts(disk, model, groupby="layer")
    disk.write_h5ad(tmp_path / "new.h5ad")
    again = ad.read_h5ad(tmp_path / "new.h5ad")
    same(disk.obsm["concept_score"], again.obsm["concept_score"])
    assert (again.X != memory.X).nnz == 0


def test_counts_by_columns_on_the_disk_are_refused(trained, tmp_path):
    adata, model = trained
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="stored by columns"):
        stc.tl.embed(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"), model)
