"""The image under the spots of each section, where ``uns["spatial"]`` has one that can be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from st_concepts._counts.positions import positions
from st_concepts._counts.sections import Sections, library_of
from st_concepts._slots import KEYS


@dataclass(frozen=True)
class TissueImage:
    """An image that can be drawn.

    Attributes
    ----------
    library
        Its entry of ``uns["spatial"]``.
    resolution
        Which of the images there: ``"hires"``, ``"lowres"`` or another.
    pixels
        ``(height, width, 3 or 4)``: uint8, or float from 0 to 1.
    scale
        Pixels of this image per unit of ``obsm["spatial"]``.
    diameter
        Of a spot, in units of ``obsm["spatial"]``; `None` where it is not known.
    """

    library: str
    resolution: str
    pixels: NDArray[Any]
    scale: float
    diameter: float | None


def read_images(adata: AnnData, sections: Sections) -> tuple[list[TissueImage | None], list[str]]:
    """The image of each section, or `None`, and a remark on each entry that is left out."""
    entries, remarks = _entries(adata)
    if len(entries) > 1 and not sections.key:
        raise ValueError(
            f"adata.uns['spatial'] has images of {', '.join(list(entries)[:5])}, but no column of adata.obs says which "
            "spot is on which: name it with section_key=."
        )
    of_section = library_of(sections.names, entries)
    if len(entries) == 1 and not sections.several:
        of_section = list(entries)  # one section and one image need not have the same name
    # where images have their own names, those of other sections belong to spots that were left out
    if entries and not any(of_section):
        remarks.append(
            f"adata.uns['spatial'] has images of {', '.join(list(entries)[:5])}, but the sections in "
            f"adata.obs[{sections.key!r}] are {', '.join(sections.names[:5])}: nothing is drawn under the spots. "
            "Rename one of them, or name another column with section_key=."
        )
    found: list[TissueImage | None] = []
    for (_, rows), library in zip(sections.rows(), of_section, strict=True):
        image = None
        if library is not None:
            image, problem = _usable(library, entries[library])
            if image is not None and not _under(image, adata, rows):
                image, problem = None, "none of its spots lies on it; are the coordinates in pixels of the full image?"
            if problem:
                remarks.append(f"adata.uns['spatial'][{library!r}]: {problem}")
        found.append(image)
    return found, remarks


def _entries(adata: AnnData) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """What holds images, by name; and what is wrong with the rest."""
    stored = adata.uns.get(KEYS.SPATIAL)
    if stored is None:
        return {}, []
    if not isinstance(stored, Mapping):
        return {}, [f"adata.uns['spatial'] is {_short(stored)}, not images by section; it is left out."]
    if "images" in stored and "scalefactors" in stored:
        stored = {"images": stored}  # one section, without the level of names
    entries, remarks = {}, []
    for name, entry in stored.items():
        if isinstance(entry, Mapping):
            images = entry.get("images")
            if isinstance(images, Mapping) and images:
                entries[str(name)] = entry
            elif images is not None and not isinstance(images, Mapping):
                remarks.append(f"adata.uns['spatial'][{name!r}]['images'] is {_short(images)}; it is left out.")
        elif name != "is_single":  # CELLxGENE says so beside the images
            remarks.append(f"adata.uns['spatial'][{name!r}] is {_short(entry)}, not an image; it is left out.")
    return entries, remarks


def _usable(library: str, entry: Mapping[str, Any]) -> tuple[TissueImage | None, str]:
    """The best image of an entry, and what is wrong with better ones."""
    images = entry["images"]
    factors = entry.get("scalefactors")
    factors = factors if isinstance(factors, Mapping) else {}
    problems: list[str] = []
    known = [name for name in ("hires", "lowres") if name in images]
    for name in [*known, *(n for n in images if n not in known)]:
        pixels, problem = _pixels(images[name])
        scale = _positive(factors.get(f"tissue_{name}_scalef", None if name in ("hires", "lowres") else 1.0))
        if pixels is not None and scale is not None:
            diameter = _positive(factors.get("spot_diameter_fullres"))
            instead = f"; the image {name!r} is drawn." if problems else ""
            return TissueImage(library, str(name), pixels, scale, diameter), "; ".join(problems) + instead
        if images[name] is not None:  # an empty place is no fault where another image serves
            problems.append(
                f"the image {name!r} {problem}"
                if problem
                else f"there is no usable scale factor 'tissue_{name}_scalef' for the image {name!r}"
            )
    return None, ("; ".join(problems) or "all its images are None") + "; no image is drawn."


def _pixels(value: Any) -> tuple[NDArray[Any] | None, str]:
    """An image as colours, or `None` and why not."""
    if value is None:
        return None, "is None"
    try:
        pixels = np.asarray(value)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:  # a lazy one is read here
        return None, f"cannot be read ({error})"
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype.kind not in "buif" or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        return None, f"is {_short(value)}, not (height, width, 3) numbers"
    if pixels.dtype == np.uint8:
        return pixels, ""
    pixels = np.nan_to_num(pixels.astype(np.float32), posinf=0.0, neginf=0.0).clip(0)
    high = float(pixels.max())
    if high > 1:
        pixels = pixels / (255.0 if high <= 255 else high)
    return pixels, ""


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _under(image: TissueImage, adata: AnnData, rows: NDArray[np.bool_]) -> bool:
    """Whether any of the spots lies on the image."""
    at = positions(adata)[rows] * image.scale
    height, width = image.pixels.shape[:2]
    return bool(((at >= 0) & (at <= (width, height))).all(axis=1).any())


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}"
    text = repr(value)
    return f"{text[:30]}..." if len(text) > 33 else text
