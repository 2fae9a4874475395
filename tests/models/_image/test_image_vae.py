from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from st_concepts.datasets import faces
from st_concepts.models import ImageVAE

SMALL = {"n_latent": 4, "channels": (6, 6), "hidden": (16,)}


class Listed:
    """A source whose third image cannot be read."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.largest = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: np.ndarray) -> np.ndarray:
        self.largest = max(self.largest, len(index))
        return self.images[[i for i in index if i != 2]]


@pytest.fixture(scope="module")
def colour() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 3, 11, 14), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(colour) -> ImageVAE:
    return ImageVAE((3, 11, 14), **SMALL).fit(colour, max_epochs=2, progress=False)


def test_any_layout_of_the_same_images(model, colour) -> None:
    expected = model.embed(colour)
    np.testing.assert_allclose(model.embed(colour.astype(np.float32) / 255), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed(colour.transpose(0, 2, 3, 1)), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed(torch.from_numpy(colour), batch_size=7), expected, atol=1e-5)
    assert model.decode(expected).shape == colour.shape


def test_a_source_is_read_in_batches_and_gaps_stay_gaps(colour) -> None:
    source = Listed(colour)
    model = ImageVAE((3, 11, 14), **SMALL).fit(source, max_epochs=1, batch_size=8, progress=False)
    latent = model.embed(source, batch_size=8)
    assert source.largest < len(colour)
    assert np.isnan(latent[2]).all()
    np.testing.assert_allclose(np.delete(latent, 2, 0), np.delete(model.embed(colour), 2, 0), atol=1e-5)


def test_a_concept_is_a_difference_of_means(model, colour) -> None:
    z = model.embed(colour).astype(np.float64)
    concept = model.concept(colour[:20], colour[20:], max_images=8)
    np.testing.assert_allclose(concept, z[:8].mean(0) - z[20:28].mean(0), atol=1e-5)
    np.testing.assert_allclose(model.score(colour, concept), z @ concept, atol=1e-5)
    np.testing.assert_allclose(
        model.concept(Listed(colour), colour[20:], max_images=8),
        z[[0, 1, 3, 4, 5, 6, 7]].mean(0) - z[20:28].mean(0),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="lacking"):
        model.concept(colour, colour[:0])


def test_saved_and_loaded(model, colour, tmp_path) -> None:
    model.save(tmp_path / "m.stc")
    again = ImageVAE.load(tmp_path / "m.stc")
    np.testing.assert_array_equal(again.embed(colour), model.embed(colour))
    assert again.shape == (3, 11, 14)
    from st_concepts.models import GeneVAE

    with pytest.raises(ValueError, match="ImageVAE"):
        GeneVAE.load(tmp_path / "m.stc")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 3, 5, 5), np.float32), "do not fit"),
        (np.full((4, 3, 11, 14), 2.0, np.float32), "between 0 and 1"),
        (np.full((4, 3, 11, 14), np.nan, np.float32), "between 0 and 1"),
        (np.zeros((1, 3, 11, 14), np.float32), "too few"),
    ],
)
def test_errors_say_what_is_wrong(images, message) -> None:
    with pytest.raises(ValueError, match=message):
        ImageVAE((3, 11, 14), **SMALL).fit(images, progress=False)


def test_faces_are_told_from_other_images_never_seen() -> None:
    images, is_face = faces()
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:140], order[140:]
    model = ImageVAE((25, 25)).fit(images[train], batch_size=16, kl_weight=0.3, max_epochs=60, progress=False)
    concept = model.concept(images[train][is_face[train]], images[train][~is_face[train]])
    assert roc_auc_score(is_face[test], model.score(images[test], concept)) >= 0.9
