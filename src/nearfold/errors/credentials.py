"""Passwords and tokens in what users name: never printed, logged or kept.

What is inside a URL is found by its form. Libraries repeat parts of a URL in their errors, cut in odd
places where a password holds `@`, `/` or `?`; so whoever takes a URL from a user calls `remember`, and
the parts of its password are hidden wherever they turn up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote

__all__ = ["redacted", "redacted_values", "remember", "remember_environment"]

_HIDDEN = "***"

# What stands before the name of a file or folder, in which an @ is an @.
_LOCAL = "duckdb|lancedb|qdrant|file|memory"

# A password in a URL may hold anything unescaped: all up to the last @ counts as user and password.
_URL = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]+:/+)([^\s@]*@[^\s]*)")
# Without slashes, as a scheme is mistyped: name:user:password@ or user:password@.
_BARE = re.compile(
    rf"(?<![^\s'\"(=])(?!(?:{_LOCAL}):)([^\s:@'\"(]+:)(?![/\\\s])([^\s@]+(?:@[^\s@]+)*)@(?=[^\s@])"
)

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)?(.*)", re.DOTALL)

_WORDS = r"pass(?:word|wd|phrase|code)?|pwd|secret|token|sig(?:nature)?|credential|auth|sas|key"
# In the query of a URL any name that has such a word in it; elsewhere the plain names alone.
_QUERY = re.compile(rf"([?&;][^=&;?#\s]*(?:{_WORDS})[^=&;?#\s]*=)(?!\*\*\*)([^&;#\s]+)", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(\b(?:ssl)?(?:password|passwd|passphrase|pwd|secret|token|access_key|secret_key|api_key)\b['\"]?\s*[=:]\s*)(?!\*\*\*)"
    r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&)'\"]+)",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|API_KEY", re.IGNORECASE)

# What stands between the parts of a URL, where a library may cut a password.
_CUTS = re.compile(r"[@/?#&:;=%\s'\"\\]+")
# Shorter parts tell nobody anything, and would be found in common words.
_LEAST_PART, _LEAST_SECRET, _LEAST_VARIABLE = 4, 3, 8

# Secrets of this process, and the pattern that finds them. Worker threads hide them too.
_SECRETS: set[str] = set()
_KNOWN: list[re.Pattern[str]] = []


def remember(text: str) -> None:
    """Take what a user named, one URL or connection string, and hide its passwords from now on."""
    found: set[str] = set()
    if "@" in text and not re.match(rf"(?:{_LOCAL}):", text):
        scheme, user = _USER.fullmatch(text.rpartition("@")[0]).groups()  # type: ignore[union-attr]
        name, colon, password = user.partition(":")
        if colon and "/" not in name and (scheme or password[:1] not in ("/", "\\")):
            found.add(password)
        elif scheme and scheme.startswith("http") and "/" not in name and len(name) >= _LEAST_VARIABLE:
            # A token in the place of a user.
            found.add(name)
    found.update(match[2].strip("'\"") for pattern in (_QUERY, _ASSIGNED) for match in pattern.finditer(text))
    _remember(found)


def remember_environment() -> None:
    """Hide the values of this process's environment variables that are named as secrets are."""
    named = {value for name, value in os.environ.items() if _ENVIRONMENT.search(name)}
    _remember({value for value in named if len(value) >= _LEAST_VARIABLE and "/" not in value[:1]})


def _remember(found: Iterable[str]) -> None:
    before = len(_SECRETS)
    forms = {form for each in found for form in (each, unquote(each), quote(each, ""), quote_plus(each))}
    for secret in forms:
        if len(secret) >= _LEAST_SECRET and secret != _HIDDEN:
            _SECRETS.add(secret)
        _SECRETS.update(part for part in _CUTS.split(secret) if len(part) >= _LEAST_PART)
    if len(_SECRETS) > before:
        # The longest first; inside a word they are that word's letters, not a secret.
        ordered = sorted(_SECRETS, key=lambda secret: (-len(secret), secret))
        either = "|".join(map(re.escape, ordered))
        _KNOWN[:] = [re.compile(rf"(?<![A-Za-z0-9])(?:{either})(?![A-Za-z0-9])")]


def redacted(text: str) -> str:
    """Return a text with the passwords of URLs and connection strings in it, and known ones, as ***."""
    for known in _KNOWN:
        text = known.sub(_HIDDEN, text)
    if "@" in text:
        text = _BARE.sub(rf"\1{_HIDDEN}@", _URL.sub(_without_user, text))
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(rf"\1{_HIDDEN}", _QUERY.sub(rf"\1{_HIDDEN}", text))
    return text


def _without_user(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and ":" not in authority:
        # An @ further back, as revisions have: https://host/name@main.
        return match[0]
    if scheme.startswith("postgres") and ":" not in rest.rpartition("@")[0]:
        # A user alone is no secret.
        return match[0]
    return f"{scheme}{_HIDDEN}@{rest.rpartition('@')[2]}"


def redacted_values(value: Any) -> Any:
    """Return a value as JSON holds it with every text in it `redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted_values(key): redacted_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(item) for item in value]
    return value
