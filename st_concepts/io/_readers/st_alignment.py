"""From array coordinates to pixels: 3 x 3 affine matrices, in row-vector form throughout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# positions of the ST array of 2016: 33 columns, 35 rows, numbered from 1
ARRAY_SIZE = (33, 35)


def read_alignment(path: Path) -> np.ndarray:
    """Read a ``*_transformation.txt`` file: the matrix from array coordinates to pixels, ``(3, 3)`` in row-vector form.

    The files published with the ST sections hold the nine numbers in one line such that
    ``[x, y, 1] @ numbers.reshape(3, 3) = [px, py, 1]``: the translation is in the last row. A matrix written the other
    way round (translation in the last column) is recognised by its last row ``0 0 1`` and transposed.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace(",", " ").split()
    try:
        numbers = np.array(text, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Expected nine numbers, a 3 x 3 affine matrix.") from None
    if numbers.size != 9:
        raise ValueError(f"{path}: {numbers.size} numbers, expected nine, a 3 x 3 affine matrix.")
    return check_alignment(numbers.reshape(3, 3), where=str(path))


def check_alignment(matrix: np.ndarray, *, where: str) -> np.ndarray:
    """``matrix`` as a checked float64 affine matrix in row-vector form; see :func:`read_alignment`."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ValueError(f"{where}: expected a 3 x 3 matrix of finite numbers, found shape {matrix.shape}.")
    unit = np.array([0.0, 0.0, 1.0])
    if not np.allclose(matrix[:, 2], unit):
        if not np.allclose(matrix[2], unit):
            raise ValueError(
                f"{where}: the matrix is not affine: neither its last column nor its last row is 0 0 1 "
                f"(they are {matrix[:, 2].tolist()} and {matrix[2].tolist()})."
            )
        matrix = matrix.T.copy()
    if abs(np.linalg.det(matrix[:2, :2])) < 1e-12:
        raise ValueError(f"{where}: the matrix cannot be inverted; it would put all spots on one line.")
    return matrix


def array_spanning_image(width: int, height: int, array_size: tuple[int, int] = ARRAY_SIZE) -> np.ndarray:
    """The matrix for an image cropped to the array: first and last array positions on the image's edges.

    Examples
    --------
    >>> apply_alignment(np.array([[1.0, 1.0], [33.0, 35.0]]), array_spanning_image(101, 201))
    array([[  0.,   0.],
           [100., 200.]])
    """
    scale = np.array([(width - 1) / (array_size[0] - 1), (height - 1) / (array_size[1] - 1)])
    matrix = np.zeros((3, 3))
    matrix[0, 0], matrix[1, 1] = scale
    matrix[2] = [-scale[0], -scale[1], 1.0]
    return matrix


def apply_alignment(coords: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Pixels of array coordinates, both float64 of shape (n_spots, 2)."""
    return np.asarray(coords, dtype=np.float64) @ matrix[:2, :2] + matrix[2, :2]


def pitch_in_pixels(matrix: np.ndarray) -> float:
    """Distance between neighbouring spots in pixels, the geometric mean of both directions."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
