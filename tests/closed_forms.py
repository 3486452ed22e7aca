"""Every term of the four decompositions of a linear-Gaussian chain, in closed form.

The nodes v = [x, z_1:T] are Gaussian under q (x known: no variance there) and under p. With S a set of nodes,

    E_q log p(v_S) = -1/2 (tr(C_SS^-1 V_SS) + (m - c)_S' C_SS^-1 (m - c)_S + log det 2 pi C_SS),

N(m, V) being q and N(c, C) being p. A conditional's log-density is a difference of two of these.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.models import HierarchicalVAE
from tests.linear_gaussian import Chain, inferred


class Exact:
    """The closed forms for one chain, one posterior and some examples; terms are [depth, batch], in nats."""

    def __init__(self, chain: Chain, model: HierarchicalVAE, x: Tensor) -> None:
        self.chain, self.model, self.x = chain, model, x
        self.depth = model.depth
        self.starts = [sum(chain.widths[:t]) for t in range(self.depth + 2)]
        q = inferred(model, x)
        d = chain.widths[0]
        self.mean = torch.cat([x, q.mean], dim=1)
        self.variance = torch.zeros_like(chain.covariance)
        self.variance[d:, d:] = q.covariance_matrix[0] if q.covariance_matrix.ndim == 3 else q.covariance_matrix

    def p(self, first: int, last: int) -> Tensor:
        """Return E_q log p of the nodes from `first` to `last`, z_0 being x; 0 for no nodes."""
        s = slice(self.starts[first], self.starts[last + 1])
        c, v, off = self.chain.covariance[s, s], self.variance[s, s], (self.mean - self.chain.mean)[:, s]
        solved = torch.linalg.solve(c, off.mT).mT
        return -0.5 * (torch.linalg.solve(c, v).trace() + (off * solved).sum(-1) + logdet(c))

    def q(self, first: int, last: int) -> Tensor:
        """Return E_q log q of the nodes from `first` to `last`, from z_1 up."""
        s = slice(self.starts[first], self.starts[last + 1])
        v = self.variance[s, s]
        return -0.5 * (logdet(v) + len(v)) * torch.ones(len(self.x))

    @property
    def kl(self) -> Tensor:
        """KL(q(z_1:T|x) || p(z_1:T)), the chain's joint taken as one Gaussian."""
        return self.q(1, self.depth) - self.p(1, self.depth)

    @property
    def elbo(self) -> Tensor:
        """The bound of (26)."""
        return self.p(0, self.depth) - self.q(1, self.depth)

    @property
    def rates(self) -> Tensor:
        """(a): E log q(z_t|z_<t) - log p(z_t|z_>t)."""
        return self._up_q - torch.stack([self.p(t, self.depth) - self.p(t + 1, self.depth) for t in self._levels])

    @property
    def top_down(self) -> Tensor:
        """(b): E KL(q(z_t|z_>t, x) || p(z_t|z_>t))."""
        T = self.depth  # noqa: N806
        down = torch.stack([self.q(t, T) - (self.q(t + 1, T) if t < T else 0.0) for t in self._levels])
        return down - torch.stack([self.p(t, T) - self.p(t + 1, T) for t in self._levels])

    @property
    def bottom_up(self) -> Tensor:
        """(c): E KL(q(z_t|z_<t) || p(z_t|z_1:t-1))."""
        return self._up_q - torch.stack([self.p(1, t) - self.p(1, t - 1) for t in self._levels])

    @property
    def gaps(self) -> Tensor:
        """(d): E KL(q(z_t|z_<t) || p(z_t|z_0:t-1))."""
        return self._up_q - torch.stack([self.p(0, t) - self.p(0, t - 1) for t in self._levels])

    @property
    def independent_given_below(self) -> Tensor:
        """The wrong form: E KL(q(z_t|z_t-1) || p(z_t|z_t+1)), a second z_t drawn given z_t-1, apart from z_t+1."""
        terms = []
        for t in range(1, self.depth):
            rung, child = self.model.inference[t - 1], self.model.generative[t]
            above = slice(self.starts[t + 1], self.starts[t + 2])
            # The second z_t has z_t's mean and variance; its covariance with z_t+1 comes from z_t-1 alone.
            weight = rung.weights[0]
            this, below = slice(self.starts[t], self.starts[t + 1]), slice(self.starts[t - 1], self.starts[t])
            cross = weight @ self.variance[below, above]
            a = child.weights[0]
            spread = self.variance[this, this] - cross @ a.mT - a @ cross.mT + a @ self.variance[above, above] @ a.mT
            off = self.mean[:, this] - self.mean[:, above] @ a.mT - child.offset
            solved = torch.linalg.solve(child.covariance, off.mT).mT
            log_p = -0.5 * (
                torch.linalg.solve(child.covariance, spread).trace() + (off * solved).sum(-1) + logdet(child.covariance)
            )
            terms.append(self._up_q[t - 1] - log_p)
        return torch.stack([*terms, self.rates[-1]])

    @property
    def _levels(self) -> range:
        return range(1, self.depth + 1)

    @property
    def _up_q(self) -> Tensor:
        nodes = [torch.zeros(len(self.x)), *(self.q(1, t) for t in self._levels)]
        return torch.stack([after - before for before, after in pairwise(nodes)])


def logdet(covariance: Tensor) -> Tensor:
    """Return log det (2 pi C)."""
    return torch.logdet(2 * math.pi * covariance) if len(covariance) else torch.zeros(())
