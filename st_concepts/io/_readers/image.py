"""Histology images, reduced to the two sizes that spatial plots use."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def read_image(path: Path, sizes: dict[str, int]) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """Width and height of an image, and a uint8 copy by name, reduced to that longest side; never enlarged."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # sections of a whole slide are rightly above Pillow's first warning level
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                full = image.size
                longest = max(sizes.values(), default=1)
                # lets the JPEG decoder skip what the reduction would throw away
                image.draft("RGB", (2 * longest, 2 * longest))
                pixels = image.convert("RGB")
        except Image.DecompressionBombError as error:
            raise ValueError(f"{path}: {error} Save a smaller copy and pass `image_scale`.") from None
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"{path}: not a readable image, or truncated ({error}).") from None
    return full, {name: _reduce(pixels, full, side) for name, side in sizes.items()}


def reduce_image(image: np.ndarray, sizes: dict[str, int]) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """The same for an image in memory: uint8, or float in 0..1, shape (height, width) or (height, width, 3 or 4)."""
    from PIL import Image

    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)) or image.size == 0:
        raise ValueError(f"image: expected shape (height, width[, 3 or 4]), found {image.shape}.")
    if np.issubdtype(image.dtype, np.floating):
        if not ((image >= 0) & (image <= 1)).all():
            raise ValueError("image: floating-point pixels must be in 0..1; pass uint8 otherwise.")
        image = np.rint(image * 255).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 or floating point, found {image.dtype}.")
    pixels = Image.fromarray(image).convert("RGB")
    return pixels.size, {name: _reduce(pixels, pixels.size, side) for name, side in sizes.items()}


def _reduce(pixels: Image.Image, full: tuple[int, int], side: int) -> np.ndarray:
    from PIL import Image

    factor = min(1.0, side / max(full))
    target = (max(1, round(full[0] * factor)), max(1, round(full[1] * factor)))
    return np.asarray(pixels.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0), dtype=np.uint8)
