"""The bound taken apart: by level, over the data set, and into what the family and the network cost."""

from pipeline.decompositions.decompose import anneal, decompose

__all__ = ["anneal", "decompose"]
