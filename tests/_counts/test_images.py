"""Which image lies under which section, and what is left out."""

from __future__ import annotations

import re

import numpy as np
import pytest
from anndata import AnnData

from st_concepts._counts.images import read_images
from st_concepts._counts.sections import sections_of

HIRES, LOWRES = np.full((60, 50, 3), 200, np.uint8), np.full((30, 25, 3), 100, np.uint8)
FACTORS = {"tissue_hires_scalef": 2.0, "tissue_lowres_scalef": 1.0, "spot_diameter_fullres": 0.8}


def tissue(spatial: object, sections: tuple[str, ...] = ("A", "B")) -> AnnData:
    n = 20 * len(sections)
    at = np.arange(n) % 20
    adata = AnnData(np.ones((n, 2), np.float32), obsm={"spatial": np.c_[at % 5, at // 5].astype(float)})
    adata.obs["slide"] = np.repeat(sections, 20)
    if spatial is not None:
        adata.uns["spatial"] = spatial
    return adata


def entry(images: object = None, factors: object = FACTORS) -> dict:
    return {"images": {"hires": HIRES, "lowres": LOWRES} if images is None else images, "scalefactors": factors}


def found(adata: AnnData) -> tuple[list, list[str]]:
    return read_images(adata, sections_of(adata, "slide", warn=False))


def test_each_section_has_the_image_that_is_called_like_it() -> None:
    images, remarks = found(tissue({"B": entry(), "A": entry(factors={"tissue_lowres_scalef": 1.0})}))
    assert [i.library for i in images] == ["A", "B"]
    assert [(i.resolution, i.scale, i.diameter) for i in images] == [("lowres", 1.0, None), ("hires", 2.0, 0.8)]
    assert len(remarks) == 1
    assert "['A']: there is no usable scale factor 'tissue_hires_scalef'" in remarks[0]
    assert "'lowres' is drawn" in remarks[0]
    images, remarks = found(tissue({"A": entry()}))  # not under the spots of B
    assert [i and i.library for i in images] == ["A", None]
    assert not remarks


@pytest.mark.parametrize(
    ("spatial", "remark"),
    [
        (None, None),
        ({}, None),
        ({"A": {"scalefactors": FACTORS}}, None),
        ({"is_single": np.True_, "A": {"images": {}}}, None),
        ("junk", r"uns\['spatial'\] is 'junk', not images"),
        (np.zeros((3, 2)), r"is an array of shape \(3, 2\), not images"),
        ({"A": "junk"}, r"\['A'\] is 'junk', not an image"),
        ({"A": {"images": HIRES}}, r"\['A'\]\['images'\] is an array of shape \(60, 50, 3\); it is left out"),
        ({"A": entry({"hires": None})}, "all its images are None; no image is drawn"),
        ({"A": entry(factors=None)}, "no usable scale factor"),
        ({"A": entry(factors={"tissue_hires_scalef": np.nan, "tissue_lowres_scalef": "x"})}, "no usable scale factor"),
        ({"A": entry({"hires": "path/to/image.png"})}, "the image 'hires' is .*not .height, width, 3. numbers"),
        ({"A": entry({"hires": np.zeros((60, 50, 2))})}, r"is an array of shape \(60, 50, 2\)"),
        ({"A": entry({"hires": np.zeros((0, 50, 3))})}, r"is an array of shape \(0, 50, 3\)"),
        ({"A": entry({"hires": HIRES[:1, :1]}, {"tissue_hires_scalef": 1e6})}, None),  # spot 0 lies on its corner
        ({"x": entry(), "y": entry()}, r"images of x, y, but the sections in adata.obs\['slide'\] are A, B"),
        ({"x": entry()}, "images of x, but the sections"),
    ],
)
def test_what_cannot_be_drawn_is_left_out_with_a_remark(spatial, remark) -> None:
    images, remarks = found(tissue(spatial))
    if remark is None:
        assert not remarks
    else:
        assert images == [None, None]
        (text,) = remarks
        assert "\n" not in text
        assert re.search(remark, text), text


def test_an_image_beside_the_spots_is_none_of_theirs() -> None:
    adata = tissue({"A": entry()}, ("A",))
    adata.obsm["spatial"] += 1e4
    images, remarks = found(adata)
    assert images == [None]
    assert "none of its spots lies on it" in remarks[0]


def test_one_section_and_one_image_need_no_common_name() -> None:
    adata = tissue({"V1": entry()}, ("A",))
    assert found(adata)[0][0].library == "V1"
    # without the level of names
    adata.uns["spatial"] = entry()
    assert found(adata)[0][0].scale == 2.0
    adata.uns["spatial"] = {"V1": entry(), "V2": entry()}
    del adata.obs["slide"]
    with pytest.raises(ValueError, match=r"images of V1, V2, but no column .* section_key="):
        read_images(adata, sections_of(adata, warn=False))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((60, 50), 100, np.uint8),
        np.full((60, 50, 1), 100, np.int64),
        np.full((60, 50, 3), 100 / 255),
        np.where(np.arange(50)[:, None] < 3, np.nan, np.full((60, 50, 3), 100.0)),
        np.full((60, 50, 3), 100, np.uint16),
    ],
    ids=["grey", "one channel", "0 to 1", "NaN", "uint16"],
)
def test_colours_come_in_one_form(pixels) -> None:
    image = found(tissue({"A": entry({"hires": pixels})}))[0][0].pixels
    assert image.shape == (60, 50, 3)
    share = image / 255 if image.dtype == np.uint8 else image
    assert share[0, -1, 0] == pytest.approx(100 / 255, rel=1e-6)
    assert 0 <= share.min() <= share.max() <= 1
