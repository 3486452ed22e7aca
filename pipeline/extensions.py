"""Parts of one's own: likelihoods, networks, priors and posteriors that are written outside of this package.

A module registers each under a name, which `params.yaml` and `cave.fit` then take as they take those of this package:

    from pipeline.extensions import register
    register("likelihood", "laplace", Family(2, laplace, bias), measure=DENSITY)

| kind | what is registered | named by |
|---|---|---|
| likelihood | a `Family` of pixels that are not binary | `model.likelihood` |
| network | a `Network`, as `pipeline.models.mlp` | `model.network` |
| prior | a function, as those of `pipeline.models.PRIORS`, that returns a module | `model.prior` |
| posterior | the `Family` of a level given those below it | `model.inference` |

The functions of `pipeline.testing` check them. The list `extensions` in `params.yaml` names the modules, which the
stages import from the project's root. Loading a model imports nothing: for one with parts of one's own, import their
module before.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from pipeline.distributions import LIKELIHOODS, POSTERIORS, Family
from pipeline.errors import InputError
from pipeline.models import NETWORKS, PRIORS
from pipeline.params import DENSITY, KINDS, MEASURES, PROBABILITY, add_name

__all__ = ["register"]

REGISTRIES: dict[str, dict[str, Any]] = {
    "likelihood": LIKELIHOODS,
    "network": NETWORKS,
    "prior": PRIORS,
    "posterior": POSTERIORS,
}
BUILT_IN = {kind: frozenset(registry) for kind, registry in REGISTRIES.items()}


def register(kind: str, name: str, part: Any, *, measure: str = "") -> None:
    """Register a part under a name; a second one of the name takes the place of the first.

    `measure` is what a likelihood gives to an image, PROBABILITY or DENSITY of `pipeline.params`: numbers of different
    measures are never ranked together.

    Raises:
        InputError: there is no such kind, the name is one of this package's, or the measure is missing.
    """
    if kind not in KINDS:
        raise InputError(f"register: kind '{kind}' given; allowed: {', '.join(KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in BUILT_IN[kind] or name in ("top_down", "diffusion"):
        raise InputError(f"register: name '{name}' given; allowed: lower-case letters, digits and _, no name in use")
    measures = (PROBABILITY, DENSITY) if kind == "likelihood" else ("",)
    if measure not in measures:
        raise InputError(
            f"register: measure '{measure}' given for {kind} {name}; allowed: {' or '.join(measures) or 'none'}"
        )
    if kind == "likelihood" and not isinstance(part, Family):
        raise InputError(f"register: likelihood {name} is a {type(part).__name__}; allowed: a Family")
    REGISTRIES[kind][name] = part
    if measure:
        MEASURES[name] = measure
    add_name(kind, name, sys._getframe(1).f_globals.get("__name__", ""))  # the caller's: a library may have made it
