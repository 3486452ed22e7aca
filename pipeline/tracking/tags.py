"""Which tags of a run are for this program and not for its users: in MLflow their names begin with `cave.`.

All other code names tags without that prefix; it is added on the way to MLflow and removed on the way back. Runs of
earlier versions have no prefixes, and are read alike.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["mlflow_name", "read_tags"]

PREFIX = "cave."
NAMES = {"key", "folder", "patch", "platform", "cpu", "gpu", "threads", "params_digest", "data_digest", "code_digest"}
RESULTS = {"evaluation", "best", "value", "weights_digest"}  # whose digest says that MLflow has them
FAMILIES = ("dvc/", "version/", "continued/")


def mlflow_name(tag: str) -> str:
    """Return the name under which MLflow has a tag.

    >>> [mlflow_name(tag) for tag in ("variant", "key", "version/torch", "best/model.depth")]
    ['variant', 'cave.key', 'cave.version/torch', 'best/model.depth']
    """
    return PREFIX + tag if tag in NAMES | RESULTS or tag.startswith(FAMILIES) else tag


def read_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run in MLflow without prefixes.

    >>> read_tags({"variant": "vae", "cave.key": "k"})
    {'variant': 'vae', 'key': 'k'}
    """
    return {name.removeprefix(PREFIX): value for name, value in sorted(tags.items(), key=_has_prefix)}


def _has_prefix(tag: tuple[str, str]) -> bool:
    return tag[0].startswith(PREFIX)  # these come last, and replace those of an earlier version
