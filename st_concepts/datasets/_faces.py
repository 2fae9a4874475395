"""Small real images that scikit-image ships: faces, and patches that are none."""

from __future__ import annotations

import numpy as np


def faces() -> tuple[np.ndarray, np.ndarray]:
    """Two hundred images of 25 x 25 pixels, half of them faces; no download.

    They are the subset of Labeled Faces in the Wild in ``skimage/data/lfw_subset.npy`` (Huang et al. 2007; faces by
    courtesy of the authors, the rest are random crops of backgrounds).

    Returns
    -------
    images
        float32 ``(200, 25, 25)`` between 0 and 1.
    is_face
        bool ``(200,)``: the first hundred.

    Raises
    ------
    ImportError
        scikit-image is not installed.

    Examples
    --------
    >>> from st_concepts.datasets import faces
    >>> images, is_face = faces()
    >>> images.shape, int(is_face.sum())
    ((200, 25, 25), 100)
    """
    try:
        from skimage.data import lfw_subset
    except ImportError:
        raise ImportError("These images come with scikit-image: pip install scikit-image.") from None
    images = np.asarray(lfw_subset(), dtype=np.float32)
    return images, np.arange(len(images)) < 100
