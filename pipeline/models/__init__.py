"""The hierarchical VAE of any depth, the networks of its rungs, and how it is built from parameters."""

from pipeline.models.build import PRIORS, build
from pipeline.models.diffusion import Diffusion, log_linear_levels
from pipeline.models.grid import optimal_levels
from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.latent_diffusion import Noising
from pipeline.models.layers import ACTIVATIONS, Image, mlp
from pipeline.models.networks import NETWORKS, update_bn
from pipeline.models.noise_chains import at_levels
from pipeline.models.noising import noised
from pipeline.models.rows import rows_within

__all__ = [
    "ACTIVATIONS",
    "NETWORKS",
    "PRIORS",
    "Diffusion",
    "HierarchicalVAE",
    "Image",
    "Noising",
    "at_levels",
    "build",
    "log_linear_levels",
    "mlp",
    "noised",
    "optimal_levels",
    "rows_within",
    "update_bn",
]
