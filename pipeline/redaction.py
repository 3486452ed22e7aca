"""Text without passwords: what the environment holds in secret is replaced before it is printed or stored."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

__all__ = [
    "DATA_MIRROR",
    "MLFLOW_ADDRESS",
    "OPTUNA_ADDRESS",
    "SECRETS",
    "one_line",
    "passwords",
    "reason",
    "redacted",
    "without_password",
]

MLFLOW_ADDRESS, OPTUNA_ADDRESS, DATA_MIRROR = "MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL", "CAVE_DATA_MIRROR"
ADDRESSES = (MLFLOW_ADDRESS, OPTUNA_ADDRESS, DATA_MIRROR)  # that may hold a password
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
SHORTEST = 4  # letters of a password that is looked for outside addresses
LONGEST = 2000  # characters of a line
IN_QUERY = re.compile(r"pass|pwd|token|secret", re.IGNORECASE)


def passwords() -> list[str]:
    """Return the passwords that the environment holds, in every form that libraries write, the longest first."""
    forms = {os.environ.get(name, "") for name in SECRETS}
    for address in (os.environ.get(name, "") for name in ADDRESSES):
        rest = address.partition("://")[2]
        # A password may hold an @ or a ?, and so may what follows it.
        words = [part.rpartition("@")[0].partition(":")[2] for part in (rest, rest.partition("?")[0])]
        words += [value for key, value in parse_qsl(rest.partition("?")[2]) if IN_QUERY.search(key)]
        forms |= {form for word in words for form in (word, unquote(word), unquote_plus(word))}
    return sorted((form for form in _forms(forms) if len(form) >= SHORTEST), key=len, reverse=True)


def _forms(words: Iterable[str]) -> set[str]:
    """Return words as they are, and as addresses, Python and JSON write them."""
    forms = set()
    for word in words:
        codes = {quote(word, safe=""), quote(word), quote(word, safe=" +"), quote_plus(word)}
        lower = {re.sub("%..", lambda match: match[0].lower(), code) for code in codes}
        forms |= {word, repr(word)[1:-1], json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]}
        forms |= codes | lower
    return forms


def redacted(text: str) -> str:
    """Return a text without the environment's passwords, and without user and password in any address in it."""
    # Whole addresses first: in them a password may be of any length, and hold what ends an address elsewhere.
    for address in (os.environ.get(name, "") for name in ADDRESSES):
        if "://" in address and (public := without_password(address)) != address:
            text = text.replace(address, public)
    for word in passwords():
        text = text.replace(word, "***")
    return re.sub(r"://[^\s:@/'\"]*:[^\s@/'\"]*@", "://", text)


def without_password(uri: str) -> str:
    """Return an address without the user and the password in it, and without its query, which may hold one too."""
    scheme, sign, rest = uri.partition("://")
    # Whatever stands before the last @ goes: a password may hold any character, a ? among them.
    rest = rest if rest.startswith("/") else rest.rpartition("@")[2]  # a file has no user
    return scheme + sign + rest.partition("?")[0]


def reason(error: BaseException, most: int = 200) -> str:
    """Return what an error says in one line of at most `most` characters, without passwords; at least its type."""
    return redacted(" ".join(str(error).split()))[:most] or type(error).__name__


def one_line(text: str) -> str:
    """Return a text as one printable line: without passwords and control characters."""
    line = redacted(" ".join(text.splitlines()))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)[:LONGEST]
