"""The same models in JAX: jit, optax, a scan over the epoch, on one core. Run in the peers' environment by `peers`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

if hasattr(os, "sched_setaffinity"):  # before JAX makes its threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import optax
from answer import answer  # of this folder
from jax import numpy as jnp

Layers = list[tuple[jax.Array, jax.Array]]
Made = tuple[Callable[..., Any], Any]


def layers(key: jax.Array, widths: Sequence[int]) -> Layers:
    """Return Glorot-uniform weights and zero biases."""
    keys = jax.random.split(key, len(widths))
    glorot = jax.nn.initializers.glorot_uniform()
    return [(glorot(k, (i, o)), jnp.zeros(o)) for k, i, o in zip(keys, widths, widths[1:], strict=False)]


def network(weights: Layers, x: jax.Array) -> jax.Array:
    """Return the outputs of dense layers, tanh between them."""
    *hidden, (w, b) = weights
    for each, bias in hidden:
        x = jnp.tanh(x @ each + bias)
    return x @ w + b


def gaussian(weights: Layers, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and deviation."""
    mu, rho = jnp.split(network(weights, x), 2, axis=-1)
    return mu, jax.nn.softplus(rho) + 1e-4


def log_normal(z: jax.Array, mu: jax.Array | float, sigma: jax.Array) -> jax.Array:
    """Return log N(z; mu, diag sigma^2) but for a constant that cancels."""
    return (-0.5 * ((z - mu) / sigma) ** 2 - jnp.log(sigma)).sum(-1)


def loss(params: dict[str, list[Layers]], x: jax.Array, key: jax.Array) -> jax.Array:
    """Return minus the bound's mean over a batch, the KL of the top level in closed form."""
    z, q = [x], []
    for weights, k in zip(params["up"], jax.random.split(key, len(params["up"])), strict=True):
        mu, sigma = gaussian(weights, z[-1])
        q.append((mu, sigma))
        z.append(mu + sigma * jax.random.normal(k, mu.shape))
    logits = network(params["down"][0], z[1])
    bound = (x * logits - jax.nn.softplus(logits)).sum(-1)
    for t, weights in enumerate(params["down"][1:], start=1):
        bound -= log_normal(z[t], *q[t - 1]) - log_normal(z[t], *gaussian(weights, z[t + 1]))
    mu, sigma = q[-1]
    bound -= 0.5 * (mu**2 + sigma**2 - 1 - 2 * jnp.log(sigma)).sum(-1)
    return -bound.mean()


def made(widths: Sequence[int], hidden: Sequence[Sequence[int]], batch: int, images: int) -> Made:
    """Return an epoch, compiled at its first call, and where it starts."""
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(hidden) + 2))
    rungs = list(zip(widths, widths[1:], hidden, strict=False))
    params = {
        "up": [layers(next(keys), [below, *h, 2 * above]) for below, above, h in rungs],
        "down": [layers(next(keys), [above, *h, below * (2 if t else 1)]) for t, (below, above, h) in enumerate(rungs)],
    }
    data = jax.random.randint(next(keys), (images, widths[0]), 0, 256).astype(jnp.float32) / 255
    adam = optax.adam(1e-3)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any) -> Any:
        params, moments, key = state
        key, order, draws = jax.random.split(key, 3)
        positions = jax.random.permutation(order, images).reshape(-1, batch)

        def step(carry: Any, given: Any) -> Any:
            (params, moments), (chosen, k) = carry, given
            one, two = jax.random.split(k)
            x = jax.random.bernoulli(one, data[chosen]).astype(jnp.float32)
            value, slopes = jax.value_and_grad(loss)(params, x, two)
            updates, moments = adam.update(slopes, moments)
            return (optax.apply_updates(params, updates), moments), value

        steps = jax.random.split(draws, len(positions))
        (params, moments), values = jax.lax.scan(step, (params, moments), (positions, steps))
        return (params, moments, key), values.mean()

    return epoch, (params, adam.init(params), next(keys))


running: dict[str, Made] = {}


def rate(**request: Any) -> float:
    """Run one epoch and return images per second of processor time."""
    name = str(request)
    epoch, state = running.get(name) or made(**request)
    start = time.process_time()
    state, value = jax.block_until_ready(epoch(state))
    spent = time.process_time() - start
    if not jnp.isfinite(value):
        raise ValueError(f"the loss is {value}")
    running[name] = epoch, state
    return request["images"] / spent


if __name__ == "__main__":
    answer(rate, {name: version(name) for name in ("jax", "optax")})
