"""Sections to work with: the real mouse olfactory bulb and a simulated one."""

from __future__ import annotations

from ._bulb import bulb_at_hand, mouse_olfactory_bulb
from ._catalogue import available
from ._celeba import CelebA, celeba
from ._faces import faces
from ._fetch import CorruptFileError, DataUnavailableError
from ._markers import bulb_markers
from ._simulated import simulated_bulb

__all__ = [
    "CelebA",
    "CorruptFileError",
    "DataUnavailableError",
    "available",
    "bulb_at_hand",
    "bulb_markers",
    "celeba",
    "faces",
    "mouse_olfactory_bulb",
    "simulated_bulb",
]
