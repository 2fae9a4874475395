"""Sections to work with: the real mouse olfactory bulb and a simulated one."""

from __future__ import annotations

from ._bulb import bulb_at_hand, mouse_olfactory_bulb
from ._fetch import CorruptFileError, DataUnavailableError
from ._simulated import simulated_bulb

__all__ = [
    "CorruptFileError",
    "DataUnavailableError",
    "bulb_at_hand",
    "mouse_olfactory_bulb",
    "simulated_bulb",
]
