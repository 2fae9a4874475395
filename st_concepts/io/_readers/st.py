"""Sections in the format of Spatial Transcriptomics (Ståhl et al. 2016) as AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._files.content import HDF5_MAGIC
from st_concepts._slots import KEYS, safe_labels
from st_concepts.io._readers import image as _image
from st_concepts.io._readers import st_alignment as _alignment
from st_concepts.io._text import existing_file, read_count_table

from .base import READERS, Reader
from .genes import unique_genes
from .peek import first_plain_bytes
from .spot_names import parse_spot_names, spot_sections
from .st_labels import as_categorical, match_labels, read_annotation

PathOrName = str | PathLike[str]


def read_st(
    counts: PathOrName | AnnData,
    image: PathOrName | np.ndarray | None = None,
    annotation: PathOrName | None = None,
    alignment: PathOrName | np.ndarray | None = None,
    *,
    library_id: str | None = None,
    layers: Sequence[str] | Mapping[str, str] | None = None,
    label_key: str = "layer",
    array_size: tuple[int, int] = _alignment.ARRAY_SIZE,
    spot_diameter: float = 0.5,
    image_scale: float = 1.0,
    hires: int = 1000,
    lowres: int = 300,
) -> AnnData:
    r"""Read a section of classic Spatial Transcriptomics: counts, H&E image, layers, alignment.

    Parameters
    ----------
    counts
        Table of raw counts, tab- or comma-separated, gzipped or not. Spots are named by array coordinates (``XxY``)
        and may be in rows, as the ST pipeline writes them, or in columns; a section in the name (``1x17x9``,
        ``S1_17x9``, ``17x9_1``) and the ``X`` of R are understood. Or counts read another way: an AnnData whose
        ``obs_names`` are such names; it is copied. Genes that occur more than once get a number, as `scanpy` does it;
        ``var["gene_symbols"]`` then keeps the names.
    image
        H&E image (a file, or an array of shape (height, width[, 3])).
    annotation
        Labels of spots: a one-hot table (labels in rows, spots ``X_Y`` in columns, or the transpose), or two columns
        (spot, label). Spots are matched by coordinates, exactly if possible, else rounded to whole array positions.
    alignment
        ``*_transformation.txt`` (nine numbers) or a 3 x 3 array ``A`` with ``[x, y, 1] @ A = [px, py, 1]``, pixels of
        the image at full resolution. Without it, the array is taken to span the image:
        ``px = (x - 1) / (array_size[0] - 1) * (width - 1)``, likewise for y.
    library_id
        Name of the section in ``uns["spatial"]`` and ``obs["section"]``; by default the name of the count file.
    layers
        The labels to expect, from outside to inside, say, or a mapping from the label in the file to the name to use.
        Makes the categorical ordered. By default the labels of the file in its order, unordered.
    label_key
        Column of ``obs`` for the labels.
    array_size
        Number of array positions in x and in y.
    spot_diameter
        Spot diameter in units of the pitch between spots (the ST array of 2016: 100 of 200 micrometres).
    image_scale
        Pixels of ``image`` per pixel of the image that ``alignment`` refers to; below 1 for a reduced copy.
    hires, lowres
        Longest side in pixels of the two images that are kept; the full image is not.

    Returns
    -------
    AnnData of n_obs spots x n_vars genes, with

    - ``X``: raw counts, float32 CSR (integer-valued; float32 is what scanpy and squidpy compute with),
    - ``obs["array_x"]``, ``obs["array_y"]``: array coordinates, float64,
    - ``obs["section"]``: ``library_id``, categorical; the sections in the names of the spots where there are several,
    - ``obs[label_key]``: categorical, if ``annotation`` is given; NaN where a spot has no label,
    - ``obsm["spatial"]``: float64, n_obs x 2, full-resolution pixels (array coordinates if there is neither image nor
      alignment),
    - ``uns["spatial"][library_id]``: ``images`` (``hires``, ``lowres``: uint8) and ``scalefactors``, if an image or an
      alignment is given, as squidpy and scanpy expect.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a file is malformed (with file, line and column), the annotation is of another section, or spots fall
        outside the image.

    Notes
    -----
    The ``*_transformation.txt`` files are those published with Ståhl et al., Science 353:78 (2016),
    doi:10.1126/science.aaf2403.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import st_concepts as stc
    >>> table = pathlib.Path(tempfile.mkdtemp()) / "section.tsv"
    >>> _ = table.write_text("\tPenk\tOmp\n17x9\t3\t0\n18x9\t0\t5\n")
    >>> adata = stc.io.read_st(table)
    >>> adata.shape, adata.X.sum()
    ((2, 2), np.float32(8.0))
    """
    if image_scale <= 0 or spot_diameter <= 0 or hires < 1 or lowres < 1 or min(array_size) < 2:
        raise ValueError(
            "`image_scale`, `spot_diameter`, `hires` and `lowres` must be positive, and `array_size` at least (2, 2)."
        )
    adata, coords, source = _counts(counts)
    sections = spot_sections(adata.obs_names)
    if len(set(sections)) > 1:
        _check_sections(source, sections, coords, {"image": image, "alignment": alignment, "annotation": annotation})
    else:
        # a key of uns, where anndata refuses the slash
        library_id = safe_labels([library_id or source])[0]
        sections = [library_id] * adata.n_obs
    obs: dict[str, Any] = {
        "array_x": coords[:, 0],
        "array_y": coords[:, 1],
        KEYS.BATCH: pd.Categorical(sections, categories=list(dict.fromkeys(sections))),
    }
    if annotation is not None:
        path = existing_file(annotation, "annotation")
        spots, labels, order = read_annotation(path, keep=list(layers or ()))
        matched = match_labels(coords, spots, labels, where=str(path))
        obs[label_key] = as_categorical(matched, order, layers, where=str(path))

    matrix = None if alignment is None else _matrix(alignment, image_scale)
    spatial: dict[str, Any] = {}
    if image is not None:
        matrix, spatial = _placed(image, coords, matrix, array_size, {"hires": hires, "lowres": lowres})
    if matrix is not None:
        diameter = spot_diameter * _alignment.pitch_in_pixels(matrix)
        spatial.setdefault("scalefactors", {})["spot_diameter_fullres"] = diameter

    for key, value in obs.items():
        adata.obs[key] = value
    adata.obsm[KEYS.SPATIAL] = coords if matrix is None else _alignment.apply_alignment(coords, matrix)
    if spatial:
        adata.uns[KEYS.SPATIAL] = {library_id: spatial}
    return adata


def _matrix(alignment: PathOrName | np.ndarray, image_scale: float) -> np.ndarray:
    """From the array to pixels of the image at hand, which is scaled after the affine map."""
    if isinstance(alignment, np.ndarray):
        matrix = _alignment.check_alignment(alignment, where="alignment")
    else:
        matrix = _alignment.read_alignment(existing_file(alignment, "alignment"))
    return matrix @ np.diag([image_scale, image_scale, 1.0])


def _placed(
    image: PathOrName | np.ndarray,
    coords: np.ndarray,
    matrix: np.ndarray | None,
    array_size: tuple[int, int],
    sizes: dict[str, int],
) -> tuple[np.ndarray, dict[str, Any]]:
    """The map to pixels, by default of an array that spans the image, and the image with its scale factors."""
    if isinstance(image, np.ndarray):
        (width, height), images = _image.reduce_image(image, sizes)
    else:
        (width, height), images = _image.read_image(existing_file(image, "image"), sizes)
    if matrix is None:
        matrix = _alignment.array_spanning_image(width, height, array_size)
    _check_inside(_alignment.apply_alignment(coords, matrix), width, height, _alignment.pitch_in_pixels(matrix))
    scales = {f"tissue_{name}_scalef": max(pixels.shape[:2]) / max(width, height) for name, pixels in images.items()}
    return matrix, {"images": images, "scalefactors": scales}


def _counts(counts: PathOrName | AnnData) -> tuple[AnnData, np.ndarray, str]:
    """Counts as a fresh AnnData, array coordinates of its spots, and what to call it."""
    if isinstance(counts, AnnData):
        return counts.copy(), parse_spot_names(counts.obs_names, where="counts.obs_names"), "section"
    path = existing_file(counts, "count")
    matrix, spots, genes = read_count_table(path)
    coords = parse_spot_names(spots, where=str(path))
    names = pd.Index(genes)
    var = pd.DataFrame(index=unique_genes(names))
    if not names.is_unique:
        var["gene_symbols"] = names.to_numpy()
    adata = AnnData(matrix, obs=pd.DataFrame(index=pd.Index(spots)), var=var)
    return adata, coords, Path(path.name.removesuffix(".gz")).stem


def _check_sections(source: str, sections: Sequence[str], coords: np.ndarray, given: Mapping[str, object]) -> None:
    """A table of several sections, by the names of its spots, has no one image, alignment or annotation."""
    names = list(dict.fromkeys(sections))
    for option, value in given.items():
        if value is not None:
            raise ValueError(
                f"{source}: its spots are of {len(names)} sections by their names ({', '.join(map(repr, names[:3]))}, "
                f"...), and {option}= belongs to one; read a table for each section."
            )


def _check_inside(pixels: np.ndarray, width: int, height: int, pitch: float) -> None:
    """Spots must be on the image, but for one pitch: array positions at the rim may be cut by a tight crop."""
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if (low < -pitch).any() or (high > np.array([width, height]) + pitch).any():
        raise ValueError(
            f"Spots fall outside the image: they span x {low[0]:.0f}..{high[0]:.0f}, y {low[1]:.0f}..{high[1]:.0f} "
            f"pixels, the image is {width} x {height}. If the image is a reduced copy of the one the "
            "alignment was made for, pass `image_scale`; without an alignment, check `array_size`."
        )


def _is_table(path: Path) -> bool:
    head = first_plain_bytes(path)
    first = head.split(b"\n", 1)[0]
    binary = path.suffix == ".h5ad" or b"\x00" in head or head.startswith((b"%%MatrixMarket", HDF5_MAGIC))
    return not binary and (b"\t" in first or b"," in first)


READERS.register(
    Reader(
        "st",
        "classic ST table",
        "a tab- or comma-separated table of spots such as 17x9 and genes",
        detect=_is_table,
        read=read_st,
        options=("image",),
        short="ST tables",
        order=90,  # many things are tables
    )
)
