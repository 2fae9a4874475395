from __future__ import annotations

import bz2
import gzip
import hashlib
import struct
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import st_concepts as stc

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]
# spots, genes, spots per layer, median counts per spot: counted on the upstream files apart from this package
FACTS = {
    1: (267, 16573, [43, 82, 42, 21, 79], 23601),
    2: (280, 15981, [36, 86, 32, 27, 99], 9142),
    11: (262, 16218, [40, 92, 19, 29, 82], 27377.5),
}
# full-resolution width and height of the images
SIZES = {1: (2318, 2483), 2: (2324, 2478), 11: (2319, 2478)}

pytestmark = pytest.mark.real_data


@pytest.fixture(params=[1, 2, 11])
def bulb(request):
    return request.param, request.getfixturevalue(f"mob{request.param}")


def test_shapes_layers_and_depths_are_those_of_the_upstream_files(bulb):
    replicate, adata = bulb
    n_obs, n_vars, sizes, median = FACTS[replicate]
    assert adata.shape == (n_obs, n_vars)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert (adata.X.data > 0).all()
    assert np.median(np.asarray(adata.X.sum(axis=1))) == median
    layer = adata.obs["layer"]
    assert layer.cat.ordered
    assert layer.cat.categories.tolist() == LAYERS
    assert layer.value_counts(sort=False).tolist() == sizes
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert adata.obs["section"].unique().tolist() == [f"MOB_rep{replicate}"]


def test_spots_lie_on_the_array_and_in_the_image(bulb):
    replicate, adata = bulb
    width, height = SIZES[replicate]
    x, y = adata.obs["array_x"], adata.obs["array_y"]
    assert x.between(1, 33).all()
    assert y.between(1, 35).all()
    np.testing.assert_allclose(adata.obsm["spatial"][:, 0], (x - 1) / 32 * (width - 1))
    np.testing.assert_allclose(adata.obsm["spatial"][:, 1], (y - 1) / 34 * (height - 1))
    spatial = adata.uns["spatial"][f"MOB_rep{replicate}"]
    # half of the 200 micrometres between spots
    expected = 0.5 * np.sqrt((width - 1) / 32 * (height - 1) / 34)
    assert spatial["scalefactors"]["spot_diameter_fullres"] == pytest.approx(expected)
    for name in ("hires", "lowres"):
        factor = spatial["scalefactors"][f"tissue_{name}_scalef"]
        assert spatial["images"][name].shape == (round(height * factor), round(width * factor), 3)
    assert max(spatial["images"]["hires"].shape) <= 1200


def test_spots_cover_the_tissue(bulb):
    """Tissue is darker than glass: at the spots, but not at the mirrored spots."""
    replicate, adata = bulb
    spatial = adata.uns["spatial"][f"MOB_rep{replicate}"]
    grey = spatial["images"]["hires"].mean(axis=2)
    at = (adata.obsm["spatial"] * spatial["scalefactors"]["tissue_hires_scalef"]).astype(int)
    on_spots = np.median(grey[at[:, 1], at[:, 0]])
    swapped = np.median(grey[grey.shape[0] - 1 - at[:, 1], at[:, 0]])
    assert on_spots < np.median(grey) - 20
    assert on_spots < swapped


def test_known_genes_peak_where_anatomy_says(bulb):
    _, adata = bulb
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 100].copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    known = {"GCL": "Penk Meis2 Pcp4", "MCL": "Slc17a7 Reln Cdhr1", "GL": "Th", "ONL": "Kctd12 Omp S100a5 Fabp7"}
    for layer, genes in known.items():
        for gene in genes.split():
            mean = pd.Series(adata.obs_vector(gene)).groupby(adata.obs["layer"].to_numpy()).mean()
            assert mean.idxmax() == layer, gene


def test_rdata_agrees_with_the_bytes_of_the_file(mob1, mob2):
    """The integer vectors found in the decompressed file by their length, without a parser of the format."""
    from st_concepts.datasets._fetch import find_local

    raw = find_local("MOB.RData").read_bytes()
    content = (bz2 if raw[:3] == b"BZh" else gzip).decompress(raw)
    for adata in (mob1, mob2):
        start = content.index(struct.pack(">i", adata.n_obs * adata.n_vars)) + 4
        values = np.frombuffer(content, ">i4", adata.n_obs * adata.n_vars, start)
        np.testing.assert_array_equal(adata.X.toarray(), values.reshape(adata.shape))
        # the names follow in the order of the matrix
        first, last = (content.index(f"{name}".encode(), start) for name in (adata.var_names[0], adata.var_names[-1]))
        assert start + 4 * values.size < first < last < content.index(adata.obs_names[0].encode(), start)


def test_tsv_agrees_with_pandas(mob11):
    from st_concepts.datasets._fetch import find_local

    frame = pd.read_csv(find_local("Rep11_MOB_count_matrix-1.tsv.gz"), sep="\t", index_col=0)
    pd.testing.assert_frame_equal(mob11.to_df(), frame.astype(np.float32), check_names=False)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trips_are_exact(tmp_path, mob11, kind):
    path = tmp_path / f"mob.{kind}"
    with warnings.catch_warnings():
        # zarr warns of its own format's future
        warnings.simplefilter("ignore")
        getattr(mob11, f"write_{kind}")(path)
        back = getattr(ad, f"read_{kind}")(path)
    assert (back.X != mob11.X).nnz == 0
    pd.testing.assert_frame_equal(back.obs, mob11.obs)
    np.testing.assert_array_equal(back.obsm["spatial"], mob11.obsm["spatial"])
    np.testing.assert_array_equal(back.uns["layer_colors"], mob11.uns["layer_colors"])
    kept, expected = back.uns["spatial"]["MOB_rep11"], mob11.uns["spatial"]["MOB_rep11"]
    assert kept["scalefactors"] == expected["scalefactors"]
    np.testing.assert_array_equal(kept["images"]["hires"], expected["images"]["hires"])


def test_squidpy_draws_every_spot_in_the_colour_of_its_layer(mob11):
    import matplotlib.pyplot as plt
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgb

    with warnings.catch_warnings():
        # squidpy and its dependencies warn of their own deprecations
        warnings.simplefilter("ignore")
        import squidpy as sq

        figure, axes = plt.subplots()
        sq.pl.spatial_scatter(mob11, color="layer", ax=axes)
    assert len(axes.images) == 1
    (spots,) = (c for c in axes.collections if isinstance(c, PatchCollection))
    colours = np.array([to_rgb(c) for c in mob11.uns["layer_colors"]])[mob11.obs["layer"].cat.codes]
    np.testing.assert_allclose(spots.get_facecolor()[:, :3], colours)
    plt.close(figure)


def test_fixtures_are_fresh_copies(mob11, request):
    digest = hashlib.sha256(mob11.X.data.tobytes()).hexdigest()
    mob11.X.data[:] = 0
    assert hashlib.sha256(stc.datasets.mouse_olfactory_bulb(11).X.data.tobytes()).hexdigest() == digest
