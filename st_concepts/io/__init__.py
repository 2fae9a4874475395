"""Readers of spatial sections."""

from __future__ import annotations

from ._st import read_st

__all__ = ["read_st"]
