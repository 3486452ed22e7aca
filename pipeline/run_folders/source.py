"""The package's own source: the modules that a module imports, and a digest of what their code does."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

from pipeline.files import sha256
from pipeline.params import extension_files

__all__ = ["PACKAGE", "code_digest", "code_without_texts", "module_files"]

PACKAGE = Path(__file__).resolve().parents[1]
IMPLIED = ("ctx", "kind", "type_comment")  # fields of Python's syntax that follow from the others


def module_files(module: str) -> set[Path]:
    """Return the files of `module` and of all that it imports inside the package, directly or not.

    The package's own `__init__.py` is left out: it imports nothing until it is called.
    """
    files: set[Path] = set()
    open_modules = [module]
    while open_modules:
        path = _path(open_modules.pop())
        if path is None or path in files or path == PACKAGE / "__init__.py":
            continue
        files.add(path)
        open_modules += _read(path)[0]
    return files


def code_digest(module: str) -> str:
    """Return a short sha256 over the code of `module`, of its imports, and of the extensions that are registered."""
    files = [*sorted(module_files(module)), *extension_files()]
    return sha256(part.encode() for path in files for part in (path.name, _read(path)[1]))[:12]


def code_without_texts(tree: ast.Module) -> str:
    """Return a module's syntax as a text that is equal in all versions of Python.

    Texts for readers are left out: comments, docstrings, descriptions of parameters, and the layout of lines.
    """
    words: list[str] = []
    _append_words(tree, words)
    return " ".join(words)


@functools.cache
def _read(path: Path) -> tuple[list[str], str]:
    """Return what a module imports from the package, and its code; what is edited later is not what runs here."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _imports(tree), code_without_texts(tree)


def _path(module: str) -> Path | None:
    parts = module.split(".")[1:]
    plain, package = PACKAGE.joinpath(*parts).with_suffix(".py"), PACKAGE.joinpath(*parts, "__init__.py")
    return plain if parts and plain.is_file() else package if package.is_file() else None


def _imports(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from pipeline.data import Splits` needs pipeline.data; `from pipeline import figures` pipeline.figures
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == PACKAGE.name]


def _append_words(node: Any, words: list[str]) -> None:
    """Append what a part of the syntax says: names of types and fields, values, and brackets around lists."""
    if isinstance(node, list):
        words.append("[")
        for item in node:
            if not _is_text(item):
                _append_words(item, words)
        words.append("]")
    elif isinstance(node, ast.AST):
        words.append(type(node).__name__)
        for name, value in ast.iter_fields(node):
            if name not in IMPLIED and value is not None and value != []:
                words.append(name)
                _append_words(value, words)
    else:
        words.append(repr(node))


def _is_text(node: Any) -> bool:
    """Return whether a part of the syntax is a docstring, or the description of a parameter."""
    if isinstance(node, ast.keyword):
        return node.arg == "description"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
