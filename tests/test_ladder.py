"""Top-down inference: exact on linear-Gaussian ladders, a KL divergence a level, and the wrong KLs beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from pipeline.distributions import StandardNormal, merge
from pipeline.evaluation import evaluate
from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import OBJECTIVES, elbo, pathwise_terms, top_down_kl
from pipeline.params import EvaluateParams
from pipeline.training import fit
from tests.linear_gaussian import Says
from tests.small import model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")

both = pytest.mark.parametrize("parents", ["nearest", "every"])
depths = pytest.mark.parametrize("depth", [1, 2, 3])


def model(**changes: object) -> HierarchicalVAE:
    """Build a small ladder for six pixels, its weights large enough that every level says something."""
    built = build(model_params(inference="top_down", **changes), torch.full((6,), 0.4))
    with torch.no_grad():
        for value in built.parameters():
            value += 0.3 * torch.randn_like(value)
    return built


def images(count: int = 4) -> Tensor:
    """Return binary examples."""
    return torch.bernoulli(torch.full((count, 6), 0.5))


class Diagonal(nn.Module):
    """N(W parent + c, diag s^2), the nearest parent alone."""

    def __init__(self, outputs: int, inputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = scale * torch.randn(outputs, inputs)
        self.offset, self.sigma = torch.randn(outputs), 0.3 + torch.rand(outputs)

    def forward(self, parent: Tensor) -> Distribution:
        return Independent(Normal(parent @ self.weight.mT + self.offset, self.sigma.expand(len(self.offset))), 1)


def exact_ladder() -> tuple[HierarchicalVAE, MultivariateNormal]:
    """Return a ladder of two one-unit levels whose posterior is the true one, and p(x).

    z_2 ~ N(0, 1), z_1 = a z_2 + b + s e, x = c z_1 + d + r e'. What x says of z_1 is N((x - d)/c, (r/c)^2), so that the
    merge with p(z_1|z_2) is p(z_1|z_2, x) exactly; of z_2 the evidence is p(z_2|x) itself.
    """
    p0, p1, up1, up2 = Diagonal(1, 1), Diagonal(1, 1), Diagonal(1, 1), Diagonal(1, 1)
    a, b, s = p1.weight[0, 0], p1.offset[0], p1.sigma[0]
    c, d, r = p0.weight[0, 0], p0.offset[0], p0.sigma[0]
    up1.weight, up1.offset, up1.sigma = (1 / c).reshape(1, 1), (-d / c).reshape(1), (r / c).abs().reshape(1)
    mean, variance = c * b + d, c**2 * (a**2 + s**2) + r**2
    gain = a * c / variance
    up2.weight, up2.offset = gain.reshape(1, 1), (-gain * mean).reshape(1)
    up2.sigma = (1 - gain * a * c).sqrt().reshape(1)
    ladder = HierarchicalVAE([p0, p1, StandardNormal(1)], [Says(up1), Says(up2)], "nearest", "top_down")
    return ladder, MultivariateNormal(mean.reshape(1), variance.reshape(1, 1))


def test_merging_is_the_normalized_product() -> None:
    """The merge of two normals is their product divided by its integral, at every point."""
    p, hat = (Independent(Normal(torch.randn(3, 1), 0.2 + torch.rand(3, 1)), 1) for _ in range(2))
    axis = torch.linspace(-12, 12, 20_001)[:, None, None]
    product = (p.log_prob(axis) + hat.log_prob(axis)).exp()
    expected = product / (product.sum(0) * 24 / 20_000)
    torch.testing.assert_close(merge(p, hat).log_prob(axis).exp(), expected, rtol=1e-8, atol=1e-12)


def test_with_the_exact_posterior_every_log_weight_is_the_evidence() -> None:
    """On a linear-Gaussian ladder with the true posterior, each draw's log-weight is log p(x)."""
    ladder, evidence = exact_ladder()
    x = evidence.sample((5,)) + 1
    actual = elbo(ladder, x, draws=7).log_weight
    torch.testing.assert_close(actual, evidence.log_prob(x).expand(7, 5), rtol=1e-9, atol=1e-9)


def kl_forms(ladder: HierarchicalVAE, x: Tensor, draws: int) -> dict[str, Tensor]:
    """Return the bound E log p(x|z_1) - KL with the right divergence and with those found in the wild."""
    z, q = ladder.posterior(x, draws)
    p = ladder.joint(z)
    reconstruction = p[0].log_prob(z[0])
    top, inner = kl_divergence(q[1], p[2]), kl_divergence(q[0], p[1])
    mu, sigma, hat_mu, hat_sigma = q[0].mean, q[0].stddev, p[1].mean, p[1].stddev
    # Without the half: log(s_p/s_q) + (s_q^2 + (m_q - m_p)^2) / s_p^2 - 1, as one collection has it.
    no_half = ((hat_sigma / sigma).log() + (sigma**2 + (mu - hat_mu) ** 2) / hat_sigma**2 - 1).sum(-1)
    return {
        "ours": reconstruction - top - inner,
        "no half": reconstruction - top - no_half,
        "no top": reconstruction - inner,
    }


def test_the_divergences_give_the_evidence_and_their_wrong_forms_do_not() -> None:
    """With the true posterior, reconstruction less our KLs is log p(x); without the top term it is above it."""
    ladder, evidence = exact_ladder()
    x = torch.tensor([[3.0], [-2.0]]) * evidence.stddev + evidence.mean
    forms = kl_forms(ladder, x, 100_000)
    expected = evidence.log_prob(x)
    for name, values in forms.items():
        error = values.std(0) / len(values) ** 0.5
        distance = (values.mean(0) - expected) / error
        if name == "ours":
            assert (distance.abs() < 4).all()
        elif name == "no top":
            assert (distance > 10).all()
        else:
            assert (distance.abs() > 10).all()


@both
@depths
def test_the_divergences_are_not_negative_and_sum_to_the_rate(depth: int, parents: str) -> None:
    """Each level's KL is 0 or more at every draw; the mean of their sum is that of `kl`, within 4 standard errors."""
    built, x = model(depth=depth, parents=parents), images()
    with torch.no_grad():
        kl, rate = top_down_kl(built, x, 20_000), elbo(built, x, 20_000).kl
    assert kl.shape == (depth, 20_000, 4)
    assert (kl >= 0).all()
    total = kl.sum(0)
    error = ((total.var(0) + rate.var(0)) / 20_000).sqrt()
    assert ((total.mean(0) - rate.mean(0)).abs() < 4 * error).all()
    if depth > 1:
        assert (total.var(0) < rate.var(0)).all()


def test_each_level_s_divergence_is_the_mean_of_its_rate() -> None:
    """In a ladder the mean of each single rate is a KL divergence, and so not negative."""
    built, x = model(depth=3), images()
    with torch.no_grad():
        kl, rate = top_down_kl(built, x, 20_000), elbo(built, x, 20_000).rate
    error = ((kl.var(1) + rate.var(1)) / 20_000).sqrt()
    assert ((kl.mean(1) - rate.mean(1)).abs() < 4 * error).all()


def test_bottom_up_inference_has_no_such_divergences() -> None:
    """Asked of a bottom-up model, the divergences are refused."""
    with pytest.raises(ValueError, match="inference top_down"):
        top_down_kl(build(model_params(), torch.full((6,), 0.4)), images())


def test_a_density_with_another_variance_than_the_draws_is_no_bound() -> None:
    """With log q of variance + eps at draws of the plain variance, the mean log-weight exceeds log p(x)."""
    ladder, evidence = exact_ladder()
    x = evidence.sample((3,))
    eps = 0.5 * ladder.inference[1].rung.sigma.item() ** 2
    with torch.no_grad():
        z, q = ladder.posterior(x, 50_000)
        p = ladder.joint(z)
        log_p = sum(p_t.log_prob(z_t) for p_t, z_t in zip(p, z, strict=True))
        wide = [Independent(Normal(q_t.mean, (q_t.variance + eps).sqrt()), 1) for q_t in q]
        wrong = log_p - sum(q_t.log_prob(z_t) for q_t, z_t in zip(wide, z[1:], strict=True))
    error = wrong.std(0) / len(wrong) ** 0.5
    assert (wrong.mean(0) - evidence.log_prob(x) > 10 * error).all()
    torch.testing.assert_close(elbo(ladder, x).elbo, evidence.log_prob(x))


@both
@depths
def test_nodes_and_factors_come_in_the_order_of_the_levels(depth: int, parents: str) -> None:
    """Nodes are [x, z_1..z_T] and factors q_1..q_T, as in bottom-up inference, with shapes [draws, batch, units]."""
    built = model(depth=depth, parents=parents, z_dim=8)
    z, q = built.posterior(images(), draws=2)
    widths = model_params(depth=depth, z_dim=8).level_widths
    assert [node.shape for node in z] == [(1, 4, 6), *((2, 4, width) for width in widths)]
    assert [factor.batch_shape for factor in q] == [(2, 4)] * depth
    assert [factor.event_shape for factor in q] == [(width,) for width in widths]


@both
@depths
def test_factors_at_the_nodes_are_those_of_the_draw(depth: int, parents: str) -> None:
    """Evaluated anew at the nodes, log q has the values of the draw and no gradient in the encoder's weights.

    Below its top a ladder's has one in the weights of p(z_t | .), and in no others of p.
    """
    for direction in ("top_down", "bottom_up"):
        built = build(model_params(depth=depth, parents=parents, inference=direction), torch.full((6,), 0.4))
        z, q = built.posterior(images(), draws=3)
        fixed = [node.detach() for node in z]
        again = built.detached_posterior(fixed)
        for t, (factor, other, node) in enumerate(zip(q, again, fixed[1:], strict=True), start=1):
            density = other.log_prob(node)
            torch.testing.assert_close(density.expand(3, 4), factor.log_prob(node))
            shared = direction == "top_down" and t < depth
            assert density.requires_grad is shared
            if shared:
                actual = torch.autograd.grad(density.sum(), list(built.parameters()), allow_unused=True)
                with_gradient = {id(w) for w, g in zip(built.parameters(), actual, strict=True) if g is not None}
                assert with_gradient == {id(w) for w in built.generative[t].parameters()}


@both
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_gradients_reach_every_weight(objective: str, parents: str) -> None:
    """Every objective gives every weight of a ladder a finite gradient that is not all zero."""
    built = model(depth=3, parents=parents)
    measure = pathwise_terms if objective in ("stl", "dreg") else elbo
    OBJECTIVES[objective](measure(built, images(), 4), 0.5).mean().backward()
    for value in built.parameters():
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert value.grad.any()


@pytest.mark.slow
def test_a_ladder_trains_and_its_divergences_are_evaluated() -> None:
    """Training raises the bound of a ladder of three levels; `kl/z_t` sum to `kl` within 4 standard errors."""
    data = splits("static")
    built = build(model_params(inference="top_down", depth=3, z_dim=3), torch.tensor(data.mean).double())
    records = list(fit(built, data, train_params(epochs=8, learning_rate=0.02), seed=0))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]
    params = EvaluateParams(
        draws=400,
        k=(1, 20),
        active_draws=20,
        active_threshold=0.01,
        milestone_draws=20,
        precision="float32",
        decompose=None,
        outliers=None,
        levels=(1,),
        seed=0,
    )
    results = evaluate(built, torch.tensor(data.test), 255, params, discrete=True).estimates
    parts = [results[f"kl/z{t}"] for t in (1, 2, 3)]
    assert all(part.value >= 0 for part in parts)
    error = sum(part.se**2 for part in [*parts, results["kl"]]) ** 0.5
    assert abs(sum(part.value for part in parts) - results["kl"].value) < 4 * error
