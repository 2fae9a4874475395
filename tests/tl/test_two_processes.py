"""Two processes end with what one ends with."""

from __future__ import annotations

import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import st_concepts as stc

WORKER = """
import sys, warnings
warnings.simplefilter("error")
import anndata as ad, pandas as pd, torch, torch.distributed as dist
import st_concepts as stc
from st_concepts._distributed import size
torch.set_num_threads(1)
who, n, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if n > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=who, world_size=n)
assert size() == n
model = stc.SpotVAE.load(f"{folder}/model.stc")
# in memory, and on the disk
for number, adata in enumerate((ad.read_h5ad(f"{folder}/a.h5ad"), ad.read_h5ad(f"{folder}/a.h5ad", backed="r"))):
    stc.tl.embed(adata, model)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.saliency(adata, model, method="gradient", key_added="plain")
    stc.tl.saliency(adata, model, method="expected_gradients", key_added="expected",
                    options=stc.attribution.Options(n_samples=3))
    stc.tl.rank_genes_concepts(adata, n_null=30, section_key="slide")
    stc.tl.rank_genes_concepts(adata, n_null=10, null="permutation", key_added="shuffled")
    stc.tl.rank_genes_concepts(adata, n_null=0, null="none", target="score", key_added="independent")
    stc.tl.concepts(adata, model, genes=list(adata.var_names[:2]), key_added="seeds")
    stc.tl.concepts(adata, model, groupby="layer", groups=["GCL", "MCL"], context=3, key_added="wide")
    stc.tl.saliency(adata, model, concepts_key="wide")
    arrays = {f"{slot}/{k}": v for slot in ("obsm", "varm") for k, v in getattr(adata, slot).items()}
    pd.to_pickle(arrays, f"{folder}/{number}-{who}-of-{n}.pkl")
if n > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[tuple[int, int, int], dict]:
    """Results by store, rank and number of processes."""
    folder = tmp_path_factory.mktemp("two")
    # more than two batches, so that each process has some, and tiles
    adata = stc.datasets.simulated_bulb(n_obs=2300, n_vars=120, n_markers=10, n_smooth=10, density=0.3, seed=0)
    adata.obs["slide"] = pd.Categorical(np.where(adata.obsm["spatial"][:, 0] < 40, "a", "b"))
    adata.obs.loc[adata.obs_names[::9], "layer"] = np.nan
    model = stc.SpotVAE(adata, n_latent=5, n_hidden=16).fit(max_epochs=1, progress=False, validation_fraction=0.0)
    model.save(folder / "model.stc")
    ad.AnnData(adata.X, obs=adata.obs, var=adata.var[[]], obsm={"spatial": adata.obsm["spatial"]}).write_h5ad(
        folder / "a.h5ad"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(who), str(n), str(folder)], env=env, stderr=subprocess.PIPE, text=True
        )
        for n in (1, 2)
        for who in range(n)
    ]
    try:
        errors = [p.communicate(timeout=300)[1] for p in running]
    finally:
        for p in running:
            p.kill()
    assert [p.returncode for p in running] == [0] * len(running), "\n".join(errors)
    wanted = [(store, who, n) for store in range(2) for n in (1, 2) for who in range(n)]
    return {key: pd.read_pickle(folder / "{}-{}-of-{}.pkl".format(*key)) for key in wanted}


@pytest.mark.parametrize("store", [0, 1], ids=["memory", "disk"])
def test_two_processes_end_with_what_one_ends_with(found, store):
    alone = found[store, 0, 1]
    assert {"varm/concept_saliency", "varm/rank_genes_concepts_z", "obsm/seeds_score"} <= set(alone)
    for who in range(2):
        together = found[store, who, 2]
        assert set(together) == set(alone)
        for key, want in alone.items():
            a, b = np.asarray(want, dtype=np.float64), np.asarray(together[key], dtype=np.float64)
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6 * np.nanmax(np.abs(a)), err_msg=key)


def test_both_processes_end_with_the_same(found):
    for store in range(2):
        for key, want in found[store, 0, 2].items():
            assert np.array_equal(np.asarray(want), np.asarray(found[store, 1, 2][key]), equal_nan=True), key
