"""Names of parts from outside of this package (`pipeline.extensions`), and the modules that register them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import WrapValidator

from pipeline.errors import InputError
from pipeline.redaction import reason

__all__ = ["KINDS", "NAMES", "add_name", "extension_files", "import_extensions", "or_own"]

KINDS = ("likelihood", "network", "prior", "posterior")

NAMES: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}  # by kind and name, the module that has registered it
_imported: set[str] = set()  # modules that `extensions` names, and those of their packages
_roots: list[Path] = []  # of projects whose parameters were read


def add_name(kind: str, name: str, module: str) -> None:
    """Let a parameter take the name of a part that a module has registered."""
    NAMES[kind][name] = module


def or_own(kind: str) -> WrapValidator:
    """Return what lets a parameter take the registered names of a kind beside those of its type."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        return value if isinstance(value, str) and value in NAMES[kind] else handler(value)

    return WrapValidator(validate)


def import_extensions(modules: Sequence[str], root: Path | None = None) -> None:
    """Import the modules that `extensions` in params.yaml names, from a project's root or from what is installed.

    The root may have been given by an earlier call, which read the project's own file.

    Raises:
        InputError: one is missing, or fails.
    """
    if root is not None and root not in _roots:
        _roots.append(root)
    if modules:
        sys.path += [str(path) for path in _roots if str(path) not in sys.path]
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever its code raises
            raise InputError(f"extensions: module '{name}' cannot be imported: {reason(error, 300)}") from None
        file = getattr(sys.modules[name], "__file__", None)
        own = [path for path in (root / f"{name.replace('.', '/')}.py" for root in _roots) if path.exists()]
        if own and not any(file is not None and path.samefile(file) for path in own):
            other = file or "a part of Python"
            raise InputError(f"extensions: '{name}' is {other} and not {own[-1]}; rename your file")
        _imported.update(module for module in list(sys.modules) if module == name or module.startswith(f"{name}."))


def extension_files() -> list[Path]:
    """Return the files of the modules that have registered parts, on which numbers depend."""
    modules = {module for names in NAMES.values() for module in names.values()} | _imported
    files = {getattr(sys.modules.get(module), "__file__", None) for module in modules}
    return sorted(Path(file) for file in files if file)
