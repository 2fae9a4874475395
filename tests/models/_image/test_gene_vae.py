from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts.models import GeneVAE, NotFittedError
from st_concepts.models._image.gene_images import gene_images, principal_scores
from st_concepts.models._image.raster import make_raster

SMALL = {"n_latent": 6, "channels": (8, 8), "hidden": (32,)}


@pytest.fixture(scope="module")
def section() -> AnnData:
    from st_concepts.datasets import simulated_bulb

    return simulated_bulb(n_obs=150, n_vars=160, n_markers=10, n_smooth=10, seed=0)


@pytest.fixture(scope="module")
def model(section) -> GeneVAE:
    return GeneVAE(section, **SMALL).fit(max_epochs=10, progress=False)


def slow_images(counts: np.ndarray, pixel: np.ndarray, n_pixels: int, *, fast: bool) -> np.ndarray:
    """The same images, gene by gene and spot by spot."""
    images = np.zeros((counts.shape[1], n_pixels))
    for gene in range(counts.shape[1]):
        for spot in range(counts.shape[0]):
            images[gene, pixel[spot]] += counts[spot, gene]
    if fast:
        depth = images.sum(0)
        middle = np.median(depth[depth > 0])
        images = np.sqrt(images * middle / np.maximum(depth, 0.1 * middle))
    for gene in range(len(images)):
        if images[gene].max() > 0:
            images[gene] /= images[gene].max()
    return images


@pytest.mark.parametrize("fast", [False, True])
def test_images_against_a_loop(fast) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (30, 12)).astype(np.float32)
    counts[:, 3] = 0
    counts[5] = 0
    raster = make_raster(rng.random((30, 2)), pixel_size=0.25)
    assert raster.report()["spots_sharing_a_pixel"] > 5
    images, seen = gene_images(sp.csr_matrix(counts), raster, normalize=fast, transform="sqrt" if fast else "none")
    expected = slow_images(counts, raster.pixel, int(np.prod(raster.shape)), fast=fast)
    np.testing.assert_allclose(images.toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(seen, (counts > 0).sum(0))


def test_principal_scores_against_a_dense_svd() -> None:
    x = np.random.default_rng(0).random((40, 15)) * np.linspace(1, 3, 15)
    scores = principal_scores(sp.csr_matrix(x), np.arange(40), 4, seed=0)
    u, _, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = u[:, :4] * np.sqrt(40)
    np.testing.assert_allclose(np.abs((scores.T @ expected) / 40), np.eye(4), atol=1e-3)


def test_the_fit_never_ends_worse_than_its_start(model) -> None:
    loss = model.history["validation_loss"]
    assert loss.min() <= loss[0]
    assert model.history["train_loss"].iloc[-1] < model.history["train_loss"].iloc[1]


def test_embedding_is_the_encoder_on_images(model, section) -> None:
    genes = list(section.var_names[[4, 0, 9]])
    images = model.images(genes)
    assert images.max() <= 1
    assert not images[:, ~model.raster.mask].any()
    with torch.no_grad():
        expected = model.encoder(torch.from_numpy(images)[:, None])[0].numpy()
    np.testing.assert_allclose(model.embed(genes), expected, atol=1e-5)
    np.testing.assert_allclose(model.embed()[[4, 0, 9]], expected, atol=1e-4)


@pytest.mark.parametrize("form", ["dense", "csc", "reordered", "layer"])
def test_any_form_of_the_same_section_gives_the_same_latent(model, section, form) -> None:
    other, layer = section.copy(), None
    if form == "dense":
        other.X = other.X.toarray()
    elif form == "csc":
        other.X = other.X.tocsc()
    elif form == "layer":
        other.layers["raw"], layer = other.X.copy(), "raw"
        other.X = other.X * 0
    else:
        other = other[np.random.default_rng(1).permutation(other.n_obs)].copy()
    np.testing.assert_allclose(model.embed(adata=other, layer=layer), model.embed(), atol=1e-5)


def test_pictures_are_read_back_at_the_spots_in_their_order(model, section) -> None:
    picture = model.decode(np.eye(model.n_latent)[:2])
    assert picture.shape == (2, *model.raster.shape)
    turned = section[::-1].copy()
    np.testing.assert_array_equal(model.to_spots(picture, turned)[::-1], model.to_spots(picture))
    spots = model.spot_images(turned).toarray()
    np.testing.assert_array_equal(spots, model.to_spots(model.images(), turned).T)


def test_empty_pixels_do_not_count(section) -> None:
    # two sections that differ only in an empty margin learn the same from the pixels that hold spots
    a = GeneVAE(section, **SMALL)
    rim = ~a.raster.mask
    assert rim.any()
    a.fit(max_epochs=1, progress=False)
    x = torch.from_numpy(a.images()[:8])[:, None]
    from st_concepts.models._image.conv import elbo_terms

    mask = torch.from_numpy(a.raster.mask.astype(np.float32))
    logits = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    other = logits + 5 * torch.from_numpy(rim.astype(np.float32))
    zero = torch.zeros(8, 2)
    assert elbo_terms(logits, x, zero, zero, mask)[0] == elbo_terms(other, x, zero, zero, mask)[0]


def test_the_same_seed_gives_the_same_model(section) -> None:
    a, b, c = (GeneVAE(section, seed=s, **SMALL).fit(max_epochs=1, progress=False).fingerprint for s in (1, 1, 2))
    assert a == b != c


def test_the_recipe_of_the_paper(section) -> None:
    model = GeneVAE(section, recipe="paper", **SMALL)
    assert model.raster.shape == (32, 32)
    np.testing.assert_allclose(
        model.images().reshape(section.n_vars, -1),
        slow_images(section.X.toarray(), model.raster.pixel, 32 * 32, fast=False),
        rtol=1e-5,
    )
    history = model.fit(max_epochs=2, progress=False).history
    assert history["validation_loss"].isna().all()
    assert history.index.tolist() == [0, 1, 2]


def test_saved_and_loaded(model, section, tmp_path) -> None:
    model.save(tmp_path / "m.stc")
    again = GeneVAE.load(tmp_path / "m.stc")
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(again.embed(adata=section), model.embed())
    pd.testing.assert_frame_equal(again.history, model.history)
    assert again.raster.report() == model.raster.report()
    with pytest.raises(ValueError, match="holds no data"):
        again.embed()


def test_errors_say_what_to_do(section, model) -> None:
    with pytest.raises(KeyError, match="spatial_key"):
        GeneVAE(AnnData(section.X.copy(), obs=section.obs))
    with pytest.raises(ValueError, match="recipe='slow'"):
        GeneVAE(section, recipe="slow")
    with pytest.raises(NotFittedError, match="fit"):
        GeneVAE(section).embed()
    with pytest.raises(ValueError, match="whole section"):
        model.embed(adata=section[:50].copy())
    with pytest.raises(KeyError, match="nonsense"):
        model.embed(["nonsense"])
    with pytest.raises(ValueError, match="latent dimensions"):
        model.decode(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="validation_fraction"):
        GeneVAE(section).fit(validation_fraction=1.0)
    with pytest.raises(ValueError, match="Only 15 of 15 genes"):
        GeneVAE(section[:, np.argsort(-np.asarray(section.X.sum(0)).ravel())[:15]].copy()).fit()
    two = section.copy()
    two.obs["section"] = ["a"] * 75 + ["b"] * 75
    with pytest.raises(ValueError, match="2 sections"):
        GeneVAE(two)
    logged = section.copy()
    logged.X = logged.X.copy()
    logged.X.data = np.log1p(logged.X.data)
    with pytest.raises(ValueError, match="raw counts"):
        GeneVAE(logged)
