"""Plato's cave: VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term.

    import pipeline as cave
    model = cave.fit(images, depth=3, parents="nearest", objective="iwae", draws=5, epochs=50)

docs/python.md explains the names; each has an example. They are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Model", "__version__", "decompose", "evaluate", "fit", "load", "results", "runs", "steps"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from pipeline.api import Model, decompose, evaluate, fit, load, results, runs, steps


def __dir__() -> list[str]:
    """Return the names that are offered, so that an editor can complete them before they are imported."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import one of the names above (PEP 562), so that `import pipeline` loads no library."""
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    from pipeline.startup import set_thread_policy

    set_thread_policy()
    from pipeline import api

    return getattr(api, name)
