"""Readers and writers of sections and of the layers that people draw on them."""

from __future__ import annotations

from st_concepts._counts.labels import MISSING

from ._annotate import read_annotation
from ._geojson_write import write_annotation
from ._platform_write import write
from ._platforms import detect_kind, read
from ._st import read_st

__all__ = ["MISSING", "detect_kind", "read", "read_annotation", "read_st", "write", "write_annotation"]
