from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from st_concepts.io import read_st

SPOTS = ["2.01x3.02", "3.0x3.1", "2.1x4.05", "2.95x3.98"]
GENES = ["Penk", "Omp", "Th"]
COUNTS = np.array([[3, 0, 1], [0, 5, 0], [0, 0, 0], [12, 1, 7]])


def table(counts=COUNTS, spots=SPOTS, genes=GENES) -> pd.DataFrame:
    return pd.DataFrame(counts, index=spots, columns=genes)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    path = tmp_path / "section.tsv"
    table().to_csv(path, sep="\t")
    return path


@pytest.fixture
def one_hot(tmp_path: Path) -> Path:
    return write(tmp_path / "layers.tsv", "\t2_3\t3_3\t2_4\t3_4\nouter\t1\t0\t0\t0\ninner part\t0\t1\t0\t1\n")


# ---------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(("name", "sep"), [("a.tsv", "\t"), ("a.tsv.gz", "\t"), ("a.csv", ","), ("a.csv.gz", ",")])
@pytest.mark.parametrize("transposed", [False, True])
def test_all_spellings_of_a_count_table_read_the_same(tmp_path, name, sep, transposed):
    path = tmp_path / name
    (table().T if transposed else table()).to_csv(path, sep=sep)
    adata = read_st(path)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert adata.X.nnz == (COUNTS > 0).sum()
    assert adata.obs_names.tolist() == SPOTS
    assert adata.var_names.tolist() == GENES
    np.testing.assert_array_equal(
        adata.obs[["array_x", "array_y"]], [[2.01, 3.02], [3, 3.1], [2.1, 4.05], [2.95, 3.98]]
    )
    np.testing.assert_array_equal(adata.obsm["spatial"], adata.obs[["array_x", "array_y"]])
    assert adata.obs["section"].tolist() == ["a"] * 4
    assert "spatial" not in adata.uns


def test_gzip_is_known_by_content_and_headers_may_lack_the_corner_and_carry_quotes_bom_and_crlf(tmp_path):
    path = tmp_path / "section.txt"
    text = '\ufeff"Penk"\t"Omp"\r\n"1x2"\t4\t0\r\n"2x2"\t1.0\t9\r\n\r\n'
    path.write_bytes(gzip.compress(text.encode()))
    adata = read_st(path)
    np.testing.assert_array_equal(adata.X.toarray(), [[4, 0], [1, 9]])
    assert adata.obs_names.tolist() == ["1x2", "2x2"]
    assert adata.var_names.tolist() == ["Penk", "Omp"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 15)),
    seed=st.integers(0, 2**16),
    transposed=st.booleans(),
    zeros=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_any_table_reads_as_pandas_reads_it(tmp_path, shape, seed, transposed, zeros):
    rng = np.random.default_rng(seed)
    values = rng.poisson(40, shape) * (rng.random(shape) >= zeros)
    spots = [f"{x + rng.uniform(-0.2, 0.2):.3f}x{x % 3 + 1}" for x in range(1, shape[0] + 1)]
    frame = table(values, spots, [f"g{j}" for j in range(shape[1])])
    path = tmp_path / "random.tsv"
    (frame.T if transposed else frame).to_csv(path, sep="\t")
    adata = read_st(path)
    again = pd.read_csv(path, sep="\t", index_col=0)
    np.testing.assert_array_equal(adata.X.toarray(), again.T if transposed else again)
    assert adata.X.has_sorted_indices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("just one column\n1x2\n", r"line 1: one column only"),
        ("\tPenk\tOmp\n", "nothing below"),
        ("\tPenk\tOmp\n1x2\t1\t2\n2x2\t1\n", r"line 3: 1 counts, but the header names 2"),
        ("\tPenk\tOmp\n1x2\t1\t2\t3\t4\n", r"line 2: 4 counts, but the header names 2"),
        ("\tPenk\tOmp\n1x2\t1\t2\n2x2\t1\ttwo\n", r"line 3, column 'Omp': 'two' is not a number"),
        ("\tPenk\tOmp\n1x2\t\t2\n", r"line 2, column 'Penk': '' is not a number"),
        ("\tPenk\tOmp\n1x2\t1\t-2\n", r"line 2, column 'Omp': '-2' is not a count"),
        ("\tPenk\tOmp\n1x2\tnan\t2\n", r"line 2, column 'Penk': 'nan' is not a count"),
        ("\tPenk\tOmp\n1x2\tinf\t2\n", r"line 2, column 'Penk': 'inf' is not a count"),
        ("\tPenk\tOmp\n1x2\t1\t2.5\n", r"line 2, column 'Omp': '2.5' is not a count.*looks normalised"),
        ("\tPenk\tOmp\n1x2\t1\t99999999\n", r"'99999999' is not a count"),
        ("\tPenk\tOmp\nspot1\t1\t2\nspot2\t1\t2\n", "neither the rows .*'spot1'.* nor the columns .*'Penk'"),
        ("\tPenk\tOmp\n1x2\t1\t2\n2x2\t1\t2\nxy\t1\t2\n", "name of spot 3, 'xy'"),
        ("\tPenk\tOmp\n1x2\t1\t2\n1x2\t1\t2\n", "'1x2' appears more than once"),
    ],
)
def test_malformed_count_tables_are_refused_with_their_place(tmp_path, text, message):
    path = write(tmp_path / "broken.tsv", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_st(path)
    assert "broken" in str(caught.value)


def test_truncated_gzip_and_binary_files_are_refused(tmp_path):
    path = tmp_path / "cut.tsv.gz"
    rng = np.random.default_rng(0)
    frame = table(rng.poisson(50, (60, 40)), [f"{i}x1" for i in range(60)], [f"g{i}" for i in range(40)])
    path.write_bytes(gzip.compress(frame.to_csv(sep="\t").encode())[:-500])
    with pytest.raises(ValueError, match="truncated or corrupt"):
        read_st(path)
    binary = tmp_path / "image.tsv"
    binary.write_bytes(bytes(range(128, 256)) * 10)
    with pytest.raises(ValueError, match="not a text table"):
        read_st(binary)


def test_missing_files_are_named(tmp_path, counts):
    with pytest.raises(FileNotFoundError, match=r"The count file .*nothing\.tsv"):
        read_st(tmp_path / "nothing.tsv")
    for argument in ("image", "annotation", "alignment"):
        with pytest.raises(FileNotFoundError, match=f"The {argument} file .*nothing"):
            read_st(counts, **{argument: tmp_path / "nothing"})


def test_counts_read_another_way_are_copied(one_hot):
    given_counts = ad.AnnData(sp.csr_matrix(COUNTS.astype(np.float32)), obs=pd.DataFrame(index=SPOTS))
    adata = read_st(given_counts, annotation=one_hot, library_id="a/b")
    assert "layer" in adata.obs
    assert adata.obs["section"].tolist() == ["a_b"] * 4
    assert given_counts.obs.shape[1] == 0


# ------------------------------------------------------------------------------------------ annotation


@pytest.mark.parametrize("form", ["one-hot", "transposed", "two columns", "two columns, no header", "comma"])
def test_all_forms_of_an_annotation_read_the_same(tmp_path, counts, one_hot, form):
    path = tmp_path / "form.tsv"
    frame = pd.read_csv(one_hot, sep="\t", index_col=0)
    pairs = "2_3\touter\n3_3\tinner part\n2_4\tNA\n3_4\tinner part\n"
    if form == "one-hot":
        path = one_hot
    elif form == "transposed":
        frame.T.to_csv(path, sep="\t")
    elif form == "two columns":
        write(path, "spot\tlayer\n" + pairs)
    elif form == "comma":
        write(path, pairs.replace("\t", ","))
    else:
        write(path, pairs)
    adata = read_st(counts, annotation=path)
    layer = adata.obs["layer"]
    assert layer.cat.categories.tolist() == ["outer", "inner part"]
    assert not layer.cat.ordered
    assert layer.astype(object).where(layer.notna(), None).tolist() == ["outer", "inner part", None, "inner part"]


def test_a_single_label_one_hot(tmp_path, counts):
    for text in ("\ttumour\n2_3\t1\n3_3\t0\n2_4\t1\n3_4\t0\n", "\t2_3\t3_3\t2_4\t3_4\ntumour\t1\t0\t1\t0\n"):
        layer = read_st(counts, annotation=write(tmp_path / "one.tsv", text)).obs["layer"]
        assert layer.cat.categories.tolist() == ["tumour"]
        assert layer.notna().tolist() == [True, False, True, False]


def test_layers_rename_and_order(counts, one_hot):
    adata = read_st(
        counts, annotation=one_hot, layers={"inner part": "in", "middle": "mid", "outer": "out"}, label_key="region"
    )
    region = adata.obs["region"]
    assert region.cat.ordered
    assert region.cat.categories.tolist() == ["in", "mid", "out"]
    assert region.tolist()[:2] == ["out", "in"]
    assert read_st(counts, annotation=one_hot, layers=["outer", "inner part"]).obs["layer"].min() == "outer"
    with pytest.raises(ValueError, match=r"\['inner part'\] are not in `layers`"):
        read_st(counts, annotation=one_hot, layers=["outer"])


def test_exact_coordinates_win_over_rounded_ones(tmp_path):
    # two spots that round to the same position can only be told apart exactly
    spots = ["2.01x3.02", "2.2x3.1", "3x3"]
    path = tmp_path / "section.tsv"
    table(COUNTS[:3], spots).to_csv(path, sep="\t")
    exact = write(tmp_path / "exact.tsv", "2.01_3.02\ta\n2.2_3.1\tb\n3_3\tc\n")
    assert read_st(path, annotation=exact).obs["layer"].tolist() == ["a", "b", "c"]
    rounded = write(tmp_path / "rounded.tsv", "2_3\ta\n3_3\tc\n")
    with pytest.raises(ValueError, match="two spots coincide"):
        read_st(path, annotation=rounded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\t2_3\t3_3\n", "nothing below"),
        ("\t2_3\t3_3\na\t1\t0\nb\t1\t0\n", r"spot '2_3' has 2 labels, \['a', 'b'\]"),
        ("\t2_3\t3_3\na\t1\t0.5\n", r"line 2, column '3_3': '0.5' is neither 0 nor 1"),
        ("\t2_3\t3_3\na\t1\n", r"line 2: 1 values, but the header names 2"),
        ("gene\tcount\nPenk\t3\nOmp\t4\n", "no spots found"),
        ("spot\tlabel\n2_3\ta\n3_3\ta\textra\n2_4\ta\n", "line 3: 3 columns, expected two"),
        ("\t20_30\t21_30\na\t1\t0\nb\t0\t1\n", r"none of its 2 spots .*20_30.*first: 2.01x3.02"),
        ("2_3\ta\n2_3\tb\n", "'2_3' appears more than once"),
    ],
)
def test_malformed_annotations_are_refused_with_their_place(tmp_path, counts, text, message):
    path = write(tmp_path / "broken.tsv", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_st(counts, annotation=path)
    assert "broken.tsv" in str(caught.value)


def test_an_annotation_of_few_spots_is_told(tmp_path, counts):
    path = write(tmp_path / "few.tsv", "2_3\ta\n20_20\tb\n")
    with pytest.warns(UserWarning, match="only 1 of 4 spots"):
        adata = read_st(counts, annotation=path)
    assert adata.obs["layer"].notna().tolist() == [True, False, False, False]


# --------------------------------------------------------------------------------- image and alignment


def picture(path: Path, width: int, height: int) -> Path:
    """A white image with one black square around the pixel of array position (3, 4), array 5 x 7."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    x, y = 2 / 4 * (width - 1), 3 / 6 * (height - 1)
    pixels[int(y) - 20 : int(y) + 21, int(x) - 20 : int(x) + 21] = 0
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_array_spans_the_image_and_scale_factors_fit_the_kept_images(tmp_path, suffix):
    path = tmp_path / "section.tsv"
    table(COUNTS[:3], ["1x1", "3x4", "5x7"]).to_csv(path, sep="\t")
    image = picture(tmp_path / f"he.{suffix}", 801, 1201)
    adata = read_st(path, image, array_size=(5, 7), hires=600, lowres=150, library_id="lib")
    np.testing.assert_allclose(adata.obsm["spatial"], [[0, 0], [400, 600], [800, 1200]])
    spatial = adata.uns["spatial"]["lib"]
    assert spatial["scalefactors"]["spot_diameter_fullres"] == pytest.approx(100)  # half the pitch of 200 pixels
    for name, height in (("hires", 600), ("lowres", 150)):
        kept = spatial["images"][name]
        assert kept.dtype == np.uint8
        assert kept.shape == (height, round(801 * height / 1201), 3)
        # the square of the picture is found where the scaled coordinates of its spot say
        dark = np.argwhere(kept[:, :, 0] < 128).mean(axis=0)[::-1]
        scaled = adata.obsm["spatial"][1] * spatial["scalefactors"][f"tissue_{name}_scalef"]
        np.testing.assert_allclose(dark, scaled, atol=1.0)


def test_small_images_are_not_enlarged_and_arrays_do_as_well_as_files(tmp_path, counts):
    pixels = np.zeros((40, 60), dtype=np.float64)
    adata = read_st(counts, pixels, library_id="s")
    assert adata.uns["spatial"]["s"]["images"]["hires"].shape == (40, 60, 3)
    assert adata.uns["spatial"]["s"]["scalefactors"]["tissue_hires_scalef"] == 1.0
    for broken, message in ((pixels + 2, r"0\.\.1"), (np.zeros((3, 3, 2), np.uint8), "shape"), (pixels > 0, "bool")):
        with pytest.raises(ValueError, match=message):
            read_st(counts, broken)


def test_alignment_files_are_row_vector_affine_maps(tmp_path, counts):
    # as published: one line, translation in the last three numbers; [x, y, 1] @ A, written out by hand here
    a = write(tmp_path / "s_transformation.txt", "290.1 1.5 0 -2.5 288.0 0 -100.5 50.25 1\n")
    adata = read_st(counts, alignment=a)
    x, y = adata.obs["array_x"].to_numpy(), adata.obs["array_y"].to_numpy()
    np.testing.assert_allclose(adata.obsm["spatial"][:, 0], 290.1 * x - 2.5 * y - 100.5)
    np.testing.assert_allclose(adata.obsm["spatial"][:, 1], 1.5 * x + 288.0 * y + 50.25)
    diameter = adata.uns["spatial"]["section"]["scalefactors"]["spot_diameter_fullres"]
    assert diameter == pytest.approx(0.5 * np.sqrt(290.1 * 288.0 + 1.5 * 2.5))
    # the same map written for column vectors, over three lines
    b = write(tmp_path / "column.txt", "290.1 -2.5 -100.5\n1.5 288.0 50.25\n0 0 1\n")
    np.testing.assert_array_equal(read_st(counts, alignment=b).obsm["spatial"], adata.obsm["spatial"])
    matrix = np.array([[290.1, 1.5, 0], [-2.5, 288.0, 0], [-100.5, 50.25, 1]])
    np.testing.assert_array_equal(read_st(counts, alignment=matrix).obsm["spatial"], adata.obsm["spatial"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "3 numbers, expected nine"),
        ("", "is empty"),
        ("no numbers", "could not convert"),
        ("1 0 0 0 one 0 0 0 1", "could not convert"),
        ("1 2 3 4 5 6 7 8 9", "not affine"),
        ("1 1 0 1 1 0 5 5 1", "cannot be inverted"),
        ("nan 0 0 0 1 0 0 0 1", "finite"),
    ],
)
def test_broken_alignments_are_refused(tmp_path, counts, text, message):
    path = write(tmp_path / "broken.txt", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_st(counts, alignment=path)
    assert "broken.txt" in str(caught.value)


def test_an_alignment_for_a_larger_image_is_noticed_and_can_be_scaled(tmp_path, counts):
    image = picture(tmp_path / "he.png", 400, 500)
    matrix = np.diag([1000.0, 1000.0, 1.0])
    with pytest.raises(ValueError, match=r"Spots fall outside the image.*400 x 500.*image_scale"):
        read_st(counts, image, alignment=matrix)
    adata = read_st(counts, image, alignment=matrix, image_scale=0.1)
    np.testing.assert_allclose(adata.obsm["spatial"], 100 * adata.obs[["array_x", "array_y"]].to_numpy())
    with pytest.raises(ValueError, match="must be positive"):
        read_st(counts, image, image_scale=0)


def test_broken_images_are_refused(tmp_path, counts):
    path = tmp_path / "he.jpg"
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"he\.jpg: not a readable image"):
        read_st(counts, path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(ValueError, match="not a readable image, or truncated"):
        read_st(counts, path)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trips_are_exact(tmp_path, counts, one_hot, kind):
    image = picture(tmp_path / "he.png", 400, 500)
    adata = read_st(counts, image, one_hot, layers=["outer", "inner part"])
    path = tmp_path / f"out.{kind}"
    with warnings.catch_warnings():
        # zarr warns of its own format's future
        warnings.simplefilter("ignore")
        getattr(adata, f"write_{kind}")(path)
        back = getattr(ad, f"read_{kind}")(path)
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    np.testing.assert_array_equal(back.obsm["spatial"], adata.obsm["spatial"])
    kept, expected = back.uns["spatial"]["section"], adata.uns["spatial"]["section"]
    assert kept["scalefactors"] == expected["scalefactors"]
    for name in ("hires", "lowres"):
        np.testing.assert_array_equal(kept["images"][name], expected["images"][name])
        assert kept["images"][name].dtype == np.uint8
