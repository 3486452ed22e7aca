"""The data set `files`: images of a user's own, from a folder, an array or a table on the disk."""

from pipeline.data.files.folder import last_change
from pipeline.data.files.read import has_splits, read_files

__all__ = ["has_splits", "last_change", "read_files"]
