"""The hierarchical VAE of any depth, the networks of its rungs, and how it is built from parameters."""

from pipeline.models.build import PRIORS, build
from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.latent_diffusion import Noising
from pipeline.models.layers import ACTIVATIONS, Image, mlp
from pipeline.models.networks import NETWORKS, update_bn
from pipeline.models.rows import rows_within

__all__ = [
    "ACTIVATIONS",
    "NETWORKS",
    "PRIORS",
    "HierarchicalVAE",
    "Image",
    "Noising",
    "build",
    "mlp",
    "rows_within",
    "update_bn",
]
