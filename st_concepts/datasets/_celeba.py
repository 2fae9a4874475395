"""CelebA as its authors distribute it: read lazily, cropped by landmarks, never fatal about a missing image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.csv"
LANDMARKS = "list_landmarks_align_celeba.csv"
# pixels above the nose, below the mouth, and left and right of the eyes (Brocki & Chung 2019, their notebook)
_ABOVE_NOSE, _BELOW_MOUTH, _BESIDE_EYES = 105, 35, 50
_NEEDED = ("lefteye_x", "righteye_x", "nose_y", "leftmouth_y")


class CelebA:
    """Images and attributes of a CelebA folder; see `celeba`.

    It is an `st_concepts.models.ImageVAE` source: ``len()`` and ``load(index)``. Selections share the tables.

    Attributes
    ----------
    attributes
        bool DataFrame, images x attributes, indexed by file name.
    size
        Side of the square images in pixels.
    """

    def __init__(
        self,
        folder: Path,
        attributes: pd.DataFrame,
        landmarks: pd.DataFrame | None,
        size: int,
        problems: dict[str, str] | None = None,
    ) -> None:
        self._folder, self._landmarks = folder, landmarks
        self.attributes, self.size = attributes, size
        self._problems: dict[str, str] = {} if problems is None else problems

    def __len__(self) -> int:
        return len(self.attributes)

    def __repr__(self) -> str:
        how = "cropped by landmarks" if self._landmarks is not None else "whole"
        return (
            f"CelebA({len(self)} images, {self.attributes.shape[1]} attributes, {self.size} x {self.size} pixels, "
            f"{how}; {len(self._problems)} unreadable so far)"
        )

    @property
    def names(self) -> pd.Index:
        """File names."""
        return self.attributes.index

    @property
    def problems(self) -> pd.Series:
        """Images that were asked for and could not be had so far: reason by file name."""
        return pd.Series(self._problems, name="reason", dtype=object).rename_axis("image_id")

    def load(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images at positions, uint8 ``(b, 3, size, size)``; unreadable ones are left out and noted in `problems`."""
        return self.read(index)[0]

    def read(self, index: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the positions int64 ``(b,)`` of those that could be read.

        Raises
        ------
        IndexError
            A position is out of range.
        """
        index = np.asarray(index, dtype=np.int64)
        images, kept = [], []
        for i in index:
            image = self._one(self.names[i])
            if image is not None:
                images.append(image)
                kept.append(int(i))
        shape = (0, 3, self.size, self.size)
        return np.stack(images) if images else np.empty(shape, dtype=np.uint8), np.array(kept, dtype=np.int64)

    def batches(self, batch_size: int = 64) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        """Images and attributes, a batch at a time, in order; unreadable ones are left out."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1.")
        for start in range(0, len(self), batch_size):
            images, kept = self.read(np.arange(start, min(start + batch_size, len(self))))
            if len(kept):
                yield images, self.attributes.iloc[kept]

    def select(self, index: Sequence[int] | np.ndarray | pd.Series) -> CelebA:
        """Images at positions, or where a mask is true. No image is read."""
        values = np.asarray(index)
        table = self.attributes.iloc[np.flatnonzero(values) if values.dtype == bool else values]
        return CelebA(self._folder, table, self._landmarks, self.size, self._problems)

    def having(self, attribute: str, value: bool = True) -> CelebA:
        """Images that have an attribute (or, with ``value=False``, lack it).

        Raises
        ------
        KeyError
            No such attribute; the message lists them.
        """
        if attribute not in self.attributes:
            raise KeyError(f"No attribute {attribute!r}; there are: {', '.join(self.attributes.columns)}.")
        return self.select(self.attributes[attribute].to_numpy() == value)

    def _one(self, name: str) -> np.ndarray | None:
        from PIL import Image, UnidentifiedImageError

        path = self._folder / IMAGES / name
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except FileNotFoundError:
            self._problems[name] = "missing"
            return None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self._problems[name] = f"unreadable: {type(error).__name__}"
            return None
        if self._landmarks is not None:
            if name not in self._landmarks.index:
                self._problems[name] = "no landmarks"
                return None
            box = crop_box(self._landmarks.loc[name], image.size)
            if box is None:
                self._problems[name] = "landmarks outside the image"
                return None
            image = image.crop(box)
        resized = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1)


def crop_box(landmarks: pd.Series, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the face, cut to the image of ``size`` (width, height); `None` where nothing is left.

    The paper's box: 105 pixels above the nose to 35 below the left corner of the mouth, 50 beside either eye.
    """
    left = max(int(landmarks["lefteye_x"]) - _BESIDE_EYES, 0)
    right = min(int(landmarks["righteye_x"]) + _BESIDE_EYES, size[0])
    top = max(int(landmarks["nose_y"]) - _ABOVE_NOSE, 0)
    bottom = min(int(landmarks["leftmouth_y"]) + _BELOW_MOUTH, size[1])
    return (left, top, right, bottom) if left < right and top < bottom else None


def celeba(root: str | PathLike[str], *, size: int = 128, crop: bool = True) -> CelebA:
    """Open a folder in the original layout of CelebA (Liu et al. 2015); images are read only when asked for.

    CelebA may not be redistributed: get it from http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (the tables as CSV
    from https://www.kaggle.com/jessicali9530/celeba-dataset).

    Parameters
    ----------
    root
        Folder with ``img_align_celeba/``, ``list_attr_celeba.csv`` and, to crop, ``list_landmarks_align_celeba.csv``.
    size
        Side in pixels that images are resized to.
    crop
        Cut out the face by its landmarks, as the paper does; otherwise the whole image is resized.

    Returns
    -------
    See `CelebA`. The attribute table of all 200,000 images takes 8 MB.

    Raises
    ------
    FileNotFoundError
        The folder or one of its parts is not there.
    ValueError
        A table lacks its columns, names an image twice, or holds attributes other than 1 and -1 (or 0).

    Examples
    --------
    >>> from st_concepts.datasets import celeba
    >>> faces = celeba("celeba/")  # doctest: +SKIP
    >>> smiling, not_smiling = faces.having("Smiling"), faces.having("Smiling", False)  # doctest: +SKIP
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1.")
    root = Path(root)
    parts = [IMAGES, ATTRIBUTES, *([LANDMARKS] if crop else [])]
    absent = [p for p in parts if not (root / p).exists()]
    if absent:
        raise FileNotFoundError(
            f"{str(root)!r} lacks {', '.join(absent)}: it should hold {IMAGES}/, {ATTRIBUTES} and {LANDMARKS}"
            + (", or pass crop=False to do without landmarks." if absent == [LANDMARKS] else ".")
        )
    attributes = _table(root / ATTRIBUTES, "int8")
    values = attributes.to_numpy()
    if not np.isin(values, (-1, 0, 1)).all():
        raise ValueError(f"{root / ATTRIBUTES}: attributes must be 1 and -1 (or 0), found others.")
    attributes = pd.DataFrame(values == 1, index=attributes.index, columns=attributes.columns)
    landmarks = None
    if crop:
        landmarks = _table(root / LANDMARKS, "int32")
        missing = [c for c in _NEEDED if c not in landmarks]
        if missing:
            raise ValueError(f"{root / LANDMARKS} lacks the columns {', '.join(missing)}.")
        landmarks = landmarks[list(_NEEDED)]
    return CelebA(root, attributes, landmarks, size)


def _table(path: Path, dtype: str) -> pd.DataFrame:
    header = pd.read_csv(path, nrows=0)
    if "image_id" not in header or header.shape[1] < 2:
        raise ValueError(f"{path} must have a column 'image_id' and others; it has: {', '.join(header.columns)}.")
    try:
        table = pd.read_csv(path, index_col="image_id", dtype=dict.fromkeys(header.columns.drop("image_id"), dtype))
    except ValueError as error:
        raise ValueError(f"{path} holds values that are no whole numbers: {error}") from None
    table.index = table.index.astype(str)
    if not table.index.is_unique:
        raise ValueError(f"{path} names an image twice: {table.index[table.index.duplicated()][0]!r}.")
    return table
