"""A model comes back as it was; what is not a model is refused in one line, and nothing in it is run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import InputError
from pipeline.models import HierarchicalVAE, build
from pipeline.models.checkpoint import FORMAT, load, read_state, save_model, write_state
from pipeline.objectives import elbo
from tests.small import model_params, splits


def saved(folder: Path, **changes: Any) -> HierarchicalVAE:
    """Save a model into `folder` and return it."""
    params, data = model_params(**changes), splits()
    model = build(params, torch.tensor(data.mean, dtype=torch.float32))
    save_model(folder, model, params, data, seed=3, note="kept")
    return model


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    """Return the message, which is one line."""
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("parents", ["nearest", "every"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_model_comes_back_as_it_was(tmp_path: Path, depth: int, parents: str, likelihood: str) -> None:
    """A loaded model has equal weights, equal bounds for equal noise, and is ready to evaluate."""
    model = saved(tmp_path, depth=depth, parents=parents, likelihood=likelihood)
    again = load(tmp_path)
    assert not again.training
    assert again.parents == parents
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    x = torch.rand(3, 16)
    bounds = []
    for each in (model, again):
        torch.manual_seed(1)
        bounds.append(elbo(each, x, draws=4))
    assert torch.equal(bounds[0].log_weight, bounds[1].log_weight)


def test_the_description_tells_what_the_model_is(tmp_path: Path) -> None:
    """`model.json` has the format, the parameters, the data set and what else the writer told."""
    saved(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["format"] == FORMAT
    assert description["units"] == 16
    assert description["model"]["depth"] == 2
    assert description["data"] == {"name": "digits", "protocol": "stratified", "digest": "0" * 12, "shape": [4, 4]}
    assert (description["seed"], description["note"]) == (3, "kept")


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    """`load` takes a folder's name as well as its path."""
    saved(tmp_path)
    assert load(str(tmp_path)).depth == 2


def describe(folder: Path, **changes: Any) -> None:
    """Change what `model.json` tells; a value of None takes the key out."""
    path = folder / "model.json"
    description = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))


def another_model(folder: Path) -> None:
    """Put the weights of a deeper model there."""
    saved(folder / "other", depth=3)
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def truncate(folder: Path, name: str, keep: float) -> None:
    """Cut a file off."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * keep)])


def a_weight_is_missing(folder: Path) -> None:
    """Take one tensor out of the weights."""
    weights = load_file(folder / "model.safetensors")
    weights.popitem()
    save_file(weights, folder / "model.safetensors")


def is_a_folder(path: Path) -> None:
    """Put a folder where the file was."""
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda at: (at / "model.json").unlink(), "model.json: no such file"),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "no folder": (lambda at: at.rename(at.with_name("away")), "no such file"),
    "format of tomorrow": (lambda at: describe(at, format=2), "format 2 given; allowed: 1"),
    "no format": (lambda at: describe(at, format=None), "format None given; allowed: 1"),
    "no model": (lambda at: describe(at, model=None), "do not fit"),
    "no units": (lambda at: describe(at, units=None), "do not fit"),
    "negative units": (lambda at: describe(at, units=-3), "do not fit"),
    "units in words": (lambda at: describe(at, units="many"), "do not fit"),
    "other units": (lambda at: describe(at, units=17), "do not fit"),
    "unknown knob": (lambda at: describe(at, model={"depht": 2}), "do not fit"),
    "a list": (lambda at: (at / "model.json").write_text("[1]"), "format [1] given; allowed: 1"),
    "no JSON": (lambda at: (at / "model.json").write_text("{'a': 1}"), "not readable as JSON"),
    "no text": (lambda at: (at / "model.json").write_bytes(b"\xff\xfe"), "not readable as JSON"),
    "cut description": (lambda at: truncate(at, "model.json", 0.5), "not readable as JSON"),
    "cut weights": (lambda at: truncate(at, "model.safetensors", 0.5), "not a safetensors file"),
    "cut header": (lambda at: truncate(at, "model.safetensors", 0.001), "not a safetensors file"),
    "empty weights": (lambda at: truncate(at, "model.safetensors", 0), "not a safetensors file"),
    "other weights": (another_model, "do not fit"),
    "missing weight": (a_weight_is_missing, "do not fit"),
    "folder for weights": (lambda at: is_a_folder(at / "model.safetensors"), "model.safetensors"),
    "folder for description": (lambda at: is_a_folder(at / "model.json"), "model.json"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    """Whatever is missing, cut, or of another model is an `InputError` that names the file or the folder."""
    folder = tmp_path / "model"
    saved(folder)
    work, expected = DAMAGES[damage]
    work(folder)
    with pytest.raises(InputError) as error:
        load(folder)
    message = one_line(error)
    assert expected in message
    assert str(folder) in message


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """Given a file instead of a folder, `load` says so in one line."""
    (tmp_path / "model").write_text("no folder")
    with pytest.raises(InputError) as error:
        load(tmp_path / "model")
    assert "model" in one_line(error)


class Planted:
    """On being unpickled, write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("writer", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, writer: Callable[[Any, Any], None]) -> None:
    """A pickle named model.safetensors is refused, and the file that it would write is not there."""
    mark = tmp_path / "mark"
    saved(tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("wb") as file:
        writer(Planted(mark), file)
    with pytest.raises(InputError, match="not a safetensors file"):
        load(tmp_path / "model")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Planted(mark)))
    assert mark.read_text() == "executed"


def test_a_state_comes_back_with_its_counters(tmp_path: Path) -> None:
    """Tensors of any kind and JSON-able counters are what they were, to the last bit."""
    tensors = {"a": torch.randn(3, 2).mT, "b": torch.tensor(7), "c": torch.zeros(0, 4, dtype=torch.float64)}
    counters = [3, 0.1 + 0.2, float("-inf"), {"best": None}]
    write_state(tmp_path / "deep" / "state.safetensors", tensors, counters)
    found, told = read_state(tmp_path / "deep" / "state.safetensors")
    assert told == counters
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_state_without_counters_has_none(tmp_path: Path) -> None:
    """The weights of a model are read as a state whose counters are None."""
    model = saved(tmp_path)
    tensors, counters = read_state(tmp_path / "model.safetensors")
    assert counters is None
    assert tensors.keys() == model.state_dict().keys()
