from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from st_concepts.datasets import celeba
from st_concepts.datasets._celeba import crop_box
from st_concepts.models import ImageVAE

POINTS = ["lefteye_x", "lefteye_y", "righteye_x", "righteye_y", "nose_x", "nose_y"]
POINTS += ["leftmouth_x", "leftmouth_y", "rightmouth_x", "rightmouth_y"]
FACE = [69, 109, 106, 113, 77, 142, 73, 152, 108, 154]


@pytest.fixture
def root(tmp_path):
    """Ten images in the original layout: 4th missing, 5th no image, 6th truncated, 7th without a face."""
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    names = [f"{i + 1:06d}.jpg" for i in range(10)]
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
        pixels[..., 0] = 20 * i
        if i != 3:
            Image.fromarray(pixels).save(folder / name, quality=95)
    (folder / names[4]).write_text("not an image")
    (folder / names[5]).write_bytes((folder / names[5]).read_bytes()[:3000])
    attributes = pd.DataFrame({"image_id": names, "Smiling": [1, -1] * 5, "Wearing_Hat": [-1] * 9 + [1]})
    attributes.to_csv(tmp_path / "list_attr_celeba.csv", index=False)
    points = pd.DataFrame([FACE] * 10, columns=POINTS)
    points.loc[6, ["lefteye_x", "righteye_x"]] = [400, 420]
    points.insert(0, "image_id", names)
    points.to_csv(tmp_path / "list_landmarks_align_celeba.csv", index=False)
    return tmp_path


def test_images_are_cropped_as_in_the_paper(root) -> None:
    data = celeba(root, size=16)
    images = data.load([0, 1])
    pixels = np.asarray(Image.open(root / "img_align_celeba" / "000002.jpg"))
    box = pixels[142 - 105 : 152 + 35, 69 - 50 : 106 + 50]
    expected = np.asarray(Image.fromarray(box).resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(images[1], expected)
    assert images.dtype == np.uint8
    whole = celeba(root, size=16, crop=False).load([1])[0]
    assert not np.array_equal(whole, expected)


def test_a_box_is_cut_to_the_image() -> None:
    point = pd.Series({"lefteye_x": 10, "righteye_x": 170, "nose_y": 50, "leftmouth_y": 200})
    assert crop_box(point, (178, 218)) == (0, 0, 178, 218)
    assert crop_box(point + 1000, (178, 218)) is None


def test_what_cannot_be_read_is_reported_and_not_fatal(root) -> None:
    data = celeba(root, size=8)
    batches = list(data.batches(3))
    assert sum(len(images) for images, _ in batches) == 6
    for images, table in batches:
        assert len(images) == len(table)
    assert data.problems.to_dict() == {
        "000004.jpg": "missing",
        "000005.jpg": "unreadable: UnidentifiedImageError",
        "000006.jpg": "unreadable: OSError",
        "000007.jpg": "landmarks outside the image",
    }
    assert "4 unreadable" in repr(data)


def test_selections_share_what_went_wrong(root) -> None:
    data = celeba(root, size=8)
    smiling, serious = data.having("Smiling"), data.having("Smiling", False)
    assert list(smiling.names) == ["000001.jpg", "000003.jpg", "000005.jpg", "000007.jpg", "000009.jpg"]
    assert len(serious) == 5
    serious.load([1])
    assert list(data.problems.index) == ["000004.jpg"]
    with pytest.raises(KeyError, match="Smiling, Wearing_Hat"):
        data.having("Frowning")


def test_a_model_is_fitted_on_it_and_finds_a_concept(root) -> None:
    data = celeba(root, size=12)
    model = ImageVAE((3, 12, 12), n_latent=3, channels=(4,), hidden=(8,)).fit(data, max_epochs=2, progress=False)
    assert np.isnan(model.embed(data)).all(1).nonzero()[0].tolist() == [3, 4, 5, 6]
    concept = model.concept(data.having("Smiling"), data.having("Smiling", False))
    assert np.isfinite(concept).all()


def test_two_hundred_thousand_rows_without_reading_an_image(tmp_path) -> None:
    n = 202_599
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    (tmp_path / "img_align_celeba").mkdir()  # empty: opening any image would be noticed
    values = np.where(np.random.default_rng(0).random((n, 40)) > 0.5, 1, -1).astype(np.int8)
    table = pd.DataFrame(values, columns=[f"attribute_{j}" for j in range(40)])
    table.insert(0, "image_id", names)
    table.to_csv(tmp_path / "list_attr_celeba.csv", index=False)
    del table
    tracemalloc.start()
    data = celeba(tmp_path, crop=False)
    chosen = data.having("attribute_7")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) == n
    assert len(chosen) == (values[:, 7] == 1).sum()
    assert kept < 60 * 2**20
    assert data.problems.empty


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: (root / "list_attr_celeba.csv").unlink(), FileNotFoundError, "lacks list_attr_celeba.csv"),
        (lambda root: (root / "list_landmarks_align_celeba.csv").unlink(), FileNotFoundError, "crop=False"),
        (lambda root: (root / "list_attr_celeba.csv").write_text("a,b\n1,1\n"), ValueError, "image_id"),
        (lambda root: (root / "list_attr_celeba.csv").write_text("image_id,b\nx,5\n"), ValueError, "1 and -1"),
        (lambda root: (root / "list_attr_celeba.csv").write_text("image_id,b\nx,y\n"), ValueError, "whole numbers"),
        (lambda root: (root / "list_attr_celeba.csv").write_text("image_id,b\nx,1\nx,1\n"), ValueError, "twice"),
        (lambda root: (root / "list_landmarks_align_celeba.csv").write_text("image_id,b\nx,1\n"), ValueError, "nose_y"),
    ],
)
def test_errors_name_the_file(root, change, error, message) -> None:
    change(root)
    with pytest.raises(error, match=message):
        celeba(root)
