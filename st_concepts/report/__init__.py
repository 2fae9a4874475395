"""A result as one HTML file that opens anywhere, offline."""

from __future__ import annotations

from st_concepts.report._write import libraries as libraries
from st_concepts.report._write import write

__all__ = ["write"]
