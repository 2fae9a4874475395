"""The one rule for the section of a spot."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from st_concepts._counts.sections import library_of, sections_of

IMAGE = {"images": {"hires": np.full((4, 4, 3), 9, np.uint8)}, "scalefactors": {"tissue_hires_scalef": 1.0}}


def tissue(n: int = 40, *, same: bool = False, images: str = "", **columns: object) -> AnnData:
    """Two halves of ``n`` spots on a grid of ten columns; with ``same`` they lie on each other."""
    at = np.arange(2 * n) % n if same else np.arange(2 * n)
    adata = AnnData(np.ones((2 * n, 3), np.float32), obsm={"spatial": np.c_[at % 10, at // 10].astype(float)})
    for name, value in columns.items():
        adata.obs[name] = value
    if images:
        adata.uns["spatial"] = dict.fromkeys(images, IMAGE)
    return adata


def halves(first: object, second: object, n: int = 40) -> np.ndarray:
    return np.repeat(np.array([first, second], dtype=object), n)


def test_the_user_comes_first_then_the_model_then_the_usual_names() -> None:
    adata = tissue(section=halves("s", "t"), donor=halves("d", "e")[::-1], mine="one")
    adata.uns["concepts"] = {"params": {"section_key": "donor"}}
    assert sections_of(adata, "mine").names == ["one"]
    found = sections_of(adata)
    assert (found.key, found.how, found.names) == ("donor", "model", ["d", "e"])
    np.testing.assert_array_equal(found.codes, np.repeat([1, 0], 40))
    assert str(found) == "2 sections by obs['donor'], the section_key of the model"
    del adata.uns["concepts"]
    assert (sections_of(adata).key, sections_of(adata).how) == ("section", "found")
    assert sections_of(adata, model_key="donor").key == "donor"
    # what was said for the markers holds for pictures, and not for other markers
    adata.uns["rank_genes_concepts"] = {"params": {"section_key": "mine", "section_source": "given"}}
    assert sections_of(adata).key == "mine"
    assert sections_of(adata, tested=False).key == "section"
    adata.uns["rank_genes_concepts"]["params"]["section_source"] = "found"
    assert sections_of(adata).key == "section"


def test_without_any_column_all_is_one_section() -> None:
    found = sections_of(tissue())
    assert (found.key, found.names, found.several, found.how) == ("", [""], False, "one")
    assert not found.codes.any()


@pytest.mark.parametrize(
    ("columns", "images", "expected"),
    [
        ({"section": halves("s", "t"), "sample": halves("A", "B")}, "AB", ("sample", "images")),
        ({"section": halves("s", "t"), "sample": halves("A", "B")}, "", ("section", "found")),
        ({"section": "outs", "sample": halves("A", "B")}, "", ("sample", "found")),
        ({"library_id": "A", "sample": halves("u", "v")}, "A", ("library_id", "images")),
        ({"library_id": halves("u", "v")}, "AB", ("library_id", "found")),
        # a column of barcodes is none of sections
        ({"sample": [f"x{i}" for i in range(80)]}, "", ("", "one")),
        ({"section": halves("A", None), "library_id": halves("A", "B")}, "AB", ("library_id", "images")),
        ({"section": np.nan}, "", ("", "one")),
        ({"section": halves(1, 2).astype(int)}, "12", ("section", "images")),
        ({"section": halves(True, False).astype(bool)}, "", ("section", "found")),
    ],
)
def test_columns_that_agree_with_the_images_go_first_then_those_that_divide(columns, images, expected) -> None:
    found = sections_of(tissue(images=images, **columns))
    assert (found.key, found.how) == expected
    assert not found.remarks


@pytest.mark.parametrize("same", [1.0, 0.3])
def test_stacked_sections_that_nothing_tells_apart_are_an_error(same) -> None:
    adata = tissue(n=100, same=True)
    adata.obsm["spatial"][100 + int(100 * same) :] += 1000.5
    with pytest.raises(ValueError, match=rf"^{int(200 * same)} of 200 spots .* section_key=") as caught:
        sections_of(adata)
    assert "\n" not in str(caught.value)
    adata.obs["section"] = "outs"  # of two samples with the same name of folder
    with pytest.raises(ValueError, match="no other column tells them apart"):
        sections_of(adata)
    assert sections_of(adata, check_stacked=False).key == "section"
    adata.obs["sample"] = halves("A", "B", 100)
    adata.uns["spatial"] = {"outs": IMAGE}
    found = sections_of(adata)  # the constant one agrees with the image, but the spots tell otherwise
    assert (found.key, found.several) == ("sample", True)
    # the user's word counts, and is doubted aloud
    with pytest.warns(UserWarning, match="exactly on another spot"):
        assert not sections_of(adata, "section").several


def test_a_few_spots_at_one_place_are_no_stack() -> None:
    adata = tissue(n=100)
    adata.obsm["spatial"][:10] = adata.obsm["spatial"][10:20]
    assert not sections_of(adata).several


def test_columns_that_cross_are_named() -> None:
    adata = tissue(section=halves("s", "t"), sample=np.tile(["A", "B"], 40))
    with pytest.warns(UserWarning, match=r"'section'\] and adata.obs\['sample'\] divide the spots differently"):
        assert sections_of(adata).key == "section"
    adata.obs["sample"] = np.repeat(["A", "B", "C", "D"], 20)  # finer, not otherwise
    assert not sections_of(adata).remarks
    with pytest.warns(UserWarning, match="images of 2 sections, but no column"):
        sections_of(tissue(images="AB"))


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        ("no", KeyError, r"section_key='no' is not a column of adata.obs \(it has: 'gap', 'text', 'mixed', 'each'"),
        (["gap"], ValueError, "must be the name of one column"),
        ("gap", ValueError, r"missing values; every spot needs its section \(40 have none"),
        ("text", ValueError, "missing values"),
        ("mixed", ValueError, "'1' both as text and as a number"),
        ("each", ValueError, "80 names for 80 spots"),
    ],
)
def test_columns_that_cannot_be_are_refused(key, error, match) -> None:
    adata = tissue(gap=halves("a", None), text=halves("a", "nan"), mixed=halves(1, "1"), each=np.arange(80) * 0.1)
    with pytest.raises(error, match=match):
        sections_of(adata, key)
    if key == "gap":
        adata.obs["section"] = adata.obs["gap"]
        with pytest.raises(ValueError, match=r"adata.obs\['section'\] has missing values.*section_key="):
            sections_of(adata)


def test_order_is_that_of_the_categories_and_only_those_with_spots() -> None:
    names = pd.Categorical(halves("s2", "s10"), categories=["s1", "s2", "s10"])
    found = sections_of(tissue(section=names))
    assert found.names == ["s2", "s10"]
    assert [(name, rows.sum()) for name, rows in found.rows()] == [("s2", 40), ("s10", 40)]


def test_names_with_slashes_find_their_image() -> None:
    assert library_of(["L/1", "L_1"], ["L_1", "L_1_1"]) == ["L_1_1", "L_1"]


def test_a_concatenation_with_keys_as_people_write_it() -> None:
    a, b = tissue(), tissue()
    both = ad.concat([a, b], label="library_id", keys=["first", "second"], index_unique="-")
    assert sections_of(both).names == ["first", "second"]
    with pytest.raises(ValueError, match="stacked"):
        sections_of(ad.concat([a, b], index_unique="-"))
