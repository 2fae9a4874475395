"""The command ``st-concepts``: ``demo``, ``run``, ``report``, ``datasets``."""

from st_concepts.cli._app import main

__all__ = ["main"]
