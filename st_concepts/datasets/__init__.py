"""Sections to work with: the real mouse olfactory bulb and a simulated one."""

from __future__ import annotations

from ._bulb import bulb_at_hand, mouse_olfactory_bulb
from ._fetch import CorruptFileError, DataUnavailableError

__all__ = [
    "CorruptFileError",
    "DataUnavailableError",
    "bulb_at_hand",
    "mouse_olfactory_bulb",
]
