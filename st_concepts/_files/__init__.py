"""Files of users: what may be replaced, and how it is replaced as a whole or not at all."""

from .folder import make_folder, writable
from .places import expanded, hard_linked, linked_from, real, relation, store_root
from .swap import repair
from .temporary import beside, sweep
from .whole import check_folder, replaceable, whole_file, whole_folder

__all__ = [
    "beside",
    "check_folder",
    "expanded",
    "hard_linked",
    "linked_from",
    "make_folder",
    "real",
    "relation",
    "repair",
    "replaceable",
    "store_root",
    "sweep",
    "whole_file",
    "whole_folder",
    "writable",
]
