"""What comes before the model: counts split into two independent parts."""

from st_concepts.pp._split_counts import split_counts

__all__ = ["split_counts"]
