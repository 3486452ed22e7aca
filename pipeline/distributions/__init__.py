"""Conditionals: modules whose forward returns a `torch.distributions.Distribution`.

A conditional is a network, which turns a context into numbers, and a family, which turns the numbers into a
distribution. Events are vectors: `log_prob` sums over the last dimension and keeps all the others.
"""

from pipeline.distributions.bernoulli import BernoulliVector
from pipeline.distributions.conditional import (
    BottomUpBlock,
    Conditional,
    Correction,
    bottom_up_pass,
    merge,
    reparameterize,
    to_noise,
)
from pipeline.distributions.families import (
    FULL,
    LATENT,
    LIKELIHOODS,
    POSTERIORS,
    SMALLEST_SIGMA,
    Family,
    diag_gaussian,
    likelihood,
)
from pipeline.distributions.flows import FlowDistribution, FlowPrior, InverseAutoregressive
from pipeline.distributions.gaussian import DiagGaussian
from pipeline.distributions.priors import Mixture, StandardNormal, Vamp
from pipeline.distributions.values import ValueMixture, ValueVector, hermite

__all__ = [
    "FULL",
    "LATENT",
    "LIKELIHOODS",
    "POSTERIORS",
    "SMALLEST_SIGMA",
    "BernoulliVector",
    "BottomUpBlock",
    "Conditional",
    "Correction",
    "DiagGaussian",
    "Family",
    "FlowDistribution",
    "FlowPrior",
    "InverseAutoregressive",
    "Mixture",
    "StandardNormal",
    "ValueMixture",
    "ValueVector",
    "Vamp",
    "bottom_up_pass",
    "diag_gaussian",
    "hermite",
    "likelihood",
    "merge",
    "reparameterize",
    "to_noise",
]
