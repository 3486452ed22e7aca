"""Conditionals: modules whose forward returns a `torch.distributions.Distribution`.

A conditional is a network, which turns a context into numbers, and a family, which turns the numbers into a
distribution. Events are vectors: `log_prob` sums over the last dimension and keeps all the others.
"""

from pipeline.distributions.bernoulli import BernoulliVector
from pipeline.distributions.conditional import Conditional, Evidence, climb, from_noise, merge, to_noise
from pipeline.distributions.families import LATENT, LIKELIHOODS, SMALLEST_SIGMA, Family, diag_gaussian, likelihood
from pipeline.distributions.gaussian import DiagGaussian
from pipeline.distributions.priors import Mixture, StandardNormal, Vamp

__all__ = [
    "LATENT",
    "LIKELIHOODS",
    "SMALLEST_SIGMA",
    "BernoulliVector",
    "Conditional",
    "DiagGaussian",
    "Evidence",
    "Family",
    "Mixture",
    "StandardNormal",
    "Vamp",
    "climb",
    "diag_gaussian",
    "from_noise",
    "likelihood",
    "merge",
    "to_noise",
]
