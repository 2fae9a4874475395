"""One decorator checks, writes and returns for every function of `tl`."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import st_concepts as stc
from st_concepts._results import Result, writes


@writes
def put(adata, *, fail=False, copy=False):
    if fail:
        raise RuntimeError("half way")
    return Result(
        obsm={"new": np.zeros((adata.n_obs, 1))}, uns={"new": {"a": 1}}, stale=[("obs", "old"), ("uns", "gone")]
    )


@pytest.fixture
def adata():
    made = stc.datasets.simulated_bulb(n_obs=60, n_vars=100, seed=0)
    made.obs["old"], made.uns["gone"] = 1, 2
    return made


def test_slots_are_put_and_stale_ones_removed(adata) -> None:
    assert put(adata) is None
    assert adata.obsm["new"].shape == (60, 1)
    assert "old" not in adata.obs
    assert "gone" not in adata.uns
    put(adata)  # nothing stale is there any more


def test_a_copy_leaves_the_original(adata) -> None:
    made = put(adata, copy=True)
    assert "new" in made.obsm
    assert "new" not in adata.obsm
    assert adata.uns["gone"] == 2


def test_nothing_is_written_before_all_is_there(adata) -> None:
    with pytest.raises(RuntimeError):
        put(adata, fail=True)
    assert "new" not in adata.obsm
    assert "old" in adata.obs


@pytest.mark.parametrize("name", list(stc.tl.__all__))
def test_a_view_of_backed_data_is_refused_before_the_work(adata, tmp_path, name) -> None:
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    before = path.read_bytes()
    view = ad.read_h5ad(path, backed="r")[:30]
    arguments = {"cross_fit": ("layer",), "rank_genes_concepts": (), "score_concepts": (None,)}.get(name, (None,))
    more = {"score_concepts": {"concepts": adata}, "saliency_map": {"concept": "GCL", "genes": ["x"]}}.get(name, {})
    with pytest.raises(ValueError, match=r"a view of one whose matrix stays on the disk.*to_memory"):
        getattr(stc.tl, name)(view, *arguments, **more)
    assert path.read_bytes() == before
    copied = view.to_memory()
    assert put(copied) is None
