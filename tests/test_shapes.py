"""The shapes in the signatures of the science can be read, and the tests enforce every one of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from jaxtyping import AbstractArray, TypeCheckError
from torch import Tensor, zeros

import pipeline
from pipeline.run_folders.source import PACKAGE
from pipeline.training.manual.densities import standard_normal
from tests.conftest import CHECKED


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Is a module one of these, or part of one?"""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


NAMES = [name for _, name, _ in pkgutil.walk_packages(pipeline.__path__, "pipeline.") if within(name, CHECKED)]


def functions(module: ModuleType) -> Iterator[Callable[..., Any]]:
    """Yield the functions and methods that are written in a module."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for member in [value, *(vars(value).values() if inspect.isclass(value) else [])]:
            plain = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            # What a decorator of a library makes of a function, or a class for itself, has no line of its own here.
            if inspect.isfunction(plain) and inspect.unwrap(plain).__code__.co_filename == module.__file__:
                yield plain


@pytest.mark.parametrize("name", NAMES)
def test_every_signature_can_be_read(name: str) -> None:
    """`typing.get_type_hints` works on every function: no shape has lost its quotes, no name is missing."""
    for function in functions(importlib.import_module(name)):
        typing.get_type_hints(function, include_extras=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_shape_is_enforced(name: str) -> None:
    """A function with a shape in its signature is one that jaxtyping has wrapped."""
    for function in functions(importlib.import_module(name)):
        if any(shaped(hint) for hint in typing.get_type_hints(function).values()):
            assert hasattr(function, "__wrapped__"), function.__qualname__


def shaped(hint: Any) -> bool:
    """Is a shape part of a type?"""
    inner = typing.get_args(hint)
    return any(map(shaped, inner)) or (inspect.isclass(hint) and issubclass(hint, AbstractArray))


def test_everything_with_shapes_is_checked() -> None:
    """Every module that imports jaxtyping is among those that the tests check."""
    files = [path for path in PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text()]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files]
    assert [name for name in names if not within(name, CHECKED)] == []


def test_a_wrong_shape_is_refused() -> None:
    """A vector is not a batch of vectors."""
    wrong: Tensor = zeros(3)
    with pytest.raises(TypeCheckError):
        standard_normal(wrong)
