"""Shapes are enforced (by day, not in slow tests), random numbers start anew for each test, exact ones use float64."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded: threads that wait leave the cores alone

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import config, install_import_hook

from tests.postgres import postgres

__all__ = ["postgres"]

CHECKED = (
    "pipeline.data",
    "pipeline.distributions",
    "pipeline.models",
    "pipeline.objectives",
    "pipeline.training",
    "pipeline.evaluation",
    "pipeline.testing",
)
NIGHTLY = os.environ.get("CAVE_NIGHTLY") == "1"
enforce = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is asked for
hook = install_import_hook(CHECKED, "tests.conftest.enforce")
os.environ.pop("COLUMNS", None)  # xdist gives its processes the width of a terminal that they do not have
torch.set_num_threads(1)  # of tensors this small, two threads on a busy machine spend their time waiting


@pytest.fixture(autouse=True)
def _shapes_checked(request: pytest.FixtureRequest) -> None:
    """Leave out the shapes in slow tests: of many small tensors, checking them takes half of the time."""
    config.update("jaxtyping_disable", request.node.get_closest_marker("slow") is not None and not NIGHTLY)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random stream and one thread: a sweep in this process has taken all cores."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sweeps of this process draw no figures, which take a third of a small one's time."""
    monkeypatch.setattr("pipeline.sweep.outputs._figures", lambda outcome: [])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports of this process have no figures, which take seconds."""
    monkeypatch.setattr("pipeline.report.folder.draw", lambda *_: {})


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in double precision for one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is `nightly`, unless CAVE_NIGHTLY=1."""
    if not NIGHTLY:
        left_out = pytest.mark.skip(reason="nightly; set CAVE_NIGHTLY=1")
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(left_out)
