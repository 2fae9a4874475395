"""The mouse olfactory bulb of Ståhl et al. 2016, replicates 1, 2 and 11, with layers drawn on the H&E image."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts.io import read_st

from ._fetch import CorruptFileError, fetch, find_local
from ._registry import LAYER_COLORS, LAYER_NAMES, SECTIONS, Section


def mouse_olfactory_bulb(
    replicate: int = 11, *, cache_dir: str | PathLike[str] | None = None, hires: int = 1000, lowres: int = 300
) -> AnnData:
    """Load a section of the mouse olfactory bulb: raw counts, layers from the histology, H&E image.

    The true upstream files are parsed. They are taken from the folder named by the environment variable
    ``ST_CONCEPTS_DATA`` (as ``mob/<file>`` or ``<file>``), else from the cache, else downloaded to the cache; whatever
    the way, their sha256 is verified.

    Parameters
    ----------
    replicate
        1 (the section of the paper), 2 or 11.
    cache_dir
        Folder for downloaded files; by default ``pooch.os_cache("st_concepts")``.
    hires, lowres
        Longest side in pixels of the two images that are kept.

    Returns
    -------
    AnnData, spots x genes (267 x 16573, 280 x 15981, 262 x 16218), with

    - ``X``: raw counts, integer-valued float32 CSR,
    - ``obs["layer"]``: ordered categorical, ONL < GL < OPL < MCL < GCL (olfactory nerve, glomerular, outer plexiform,
      mitral cell and granule cell layer, from the surface inwards); NaN for a spot without a label,
    - ``obs["array_x"]``, ``obs["array_y"]``: array coordinates (pitch 1 = 200 micrometres),
    - ``obs["section"]``: ``"MOB_rep11"``, say,
    - ``obsm["spatial"]``: pixels of the H&E image at full resolution, float64,
    - ``uns["spatial"]``: image and scale factors; ``uns["layer_colors"]``.

    Raises
    ------
    ValueError
        If the replicate is unknown, or (:class:`CorruptFileError`) a file is not the pinned one.
    OSError
        (:class:`DataUnavailableError`) If a file is not at hand and cannot be downloaded.

    Notes
    -----
    Counts: Ståhl et al., Science 353:78 (2016), doi:10.1126/science.aaf2403. Layers and images: the tutorial data of
    Splotch, Äijö et al., bioRxiv 757096 (2019). A section holds a nearly empty spot (1-2 counts); it is kept.

    Examples
    --------
    >>> import squidpy as sq, st_concepts as stc  # doctest: +SKIP
    >>> adata = stc.datasets.mouse_olfactory_bulb(replicate=11)  # doctest: +SKIP
    >>> sq.pl.spatial_scatter(adata, color="layer")  # doctest: +SKIP
    """
    section = _section(replicate)
    counts, annotation, image = (fetch(name, cache_dir) for name in (section.counts, section.annotation, section.image))
    adata = read_st(
        counts if section.table is None else _from_rdata(counts, section.table),
        image,
        annotation,
        library_id=f"MOB_rep{replicate}",
        layers=LAYER_NAMES,
        hires=hires,
        lowres=lowres,
    )
    adata.uns["layer_colors"] = np.array(LAYER_COLORS, dtype=object)
    return adata


def bulb_at_hand(replicate: int | None = None, *, cache_dir: str | PathLike[str] | None = None) -> bool:
    """Whether :func:`mouse_olfactory_bulb` can be had without network, for one replicate or (``None``) for all three.

    Looks for verified files only; nothing is downloaded or parsed, and a few tens of milliseconds suffice.
    """
    replicates = list(SECTIONS) if replicate is None else [replicate]
    names = {name for r in replicates for name in _section(r)[:3]}
    return all(find_local(name, cache_dir) is not None for name in names)


def _section(replicate: int) -> Section:
    if isinstance(replicate, bool) or replicate not in SECTIONS:
        raise ValueError(
            f"Replicate {replicate!r} of the olfactory bulb is not available; choose one of {list(SECTIONS)}. "
            "Other sections in this format can be read with st_concepts.io.read_st()."
        )
    return SECTIONS[replicate]


def _from_rdata(path: Path, table: str) -> AnnData:
    """Counts of an RData file that holds integer matrices of genes x spots with dimnames."""
    import rdata

    content = rdata.read_rda(path)
    if table not in content:
        raise CorruptFileError(f"{path}: no object {table!r}, it holds {sorted(content)}.")
    matrix = content[table]
    genes, spots = (pd.Index(np.asarray(matrix[dim]).astype(str).astype(object)) for dim in matrix.dims)
    counts = sp.csr_matrix(np.ascontiguousarray(matrix.to_numpy().T), dtype=np.float32)
    return AnnData(counts, obs=pd.DataFrame(index=spots), var=pd.DataFrame(index=genes))
