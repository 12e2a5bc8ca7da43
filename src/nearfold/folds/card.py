"""The card beside a saved fold: a description of its data, its parameters, its recall and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfold._utils.files import open_regular
from nearfold.errors import FileError
from nearfold.errors.credentials import redacted
from nearfold.errors.printable import printable

__all__ = ["card_path", "card_text", "is_card"]

_MARK = "Written by nearfold beside the fold; changes are lost when it is saved again."

# The characters that begin links, images, tags, tables and other markup in Markdown, with their escapes.
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*[]<>|!"})

_SEARCHED = {
    "cosine": "cosine similarity",
    "l2": "Euclidean distance",
    "ip": "inner product",
}


def card_path(path: Path) -> Path:
    """Return the path of a fold's card, such as fold.card.md for the fold fold.safetensors."""
    return path.with_name(f"{path.stem}.card.md")


def is_card(path: Path) -> bool:
    """Return whether the file at `path` is a card that nearfold wrote, by its third line."""
    if path.is_symlink():
        return False
    try:
        with open_regular(path) as file:
            lines = file.read(4096).decode(errors="replace").split("\n")
    except (FileError, OSError):
        return False
    return len(lines) > 2 and lines[0].startswith("# ") and lines[2] == _MARK


def _text(value: object) -> str:
    """Return untrusted text escaped for Markdown, without passwords and control characters."""
    return printable(redacted(str(value))).translate(_SPECIAL)


def card_text(
    *,
    kind: str,
    n_features: int,
    n_components: int,
    metric: str,
    method: str,
    parameters: Mapping[str, Any],
    facts: Mapping[str, Any],
    checksum: str,
) -> str:
    """Return a fold's card as Markdown.

    Parameters
    ----------
    kind : str
        The format name of the fold's file, such as "nearfold.encoder".
    n_features, n_components, metric, method, parameters, facts
        The properties of the fold, as in `Encoder`.
    checksum : str
        The SHA-256 of the fold's file, which shows that the card belongs to it.
    """
    samples: Sequence[Mapping[str, Any]] = facts.get("drift_stats", [])
    shown = {
        name: value for name, value in facts.items() if name not in ("drift_stats", "rows", "fingerprint")
    }
    lines = [
        f"# {_text(method or 'A fold')}: {n_features} to {n_components} dimensions",
        "",
        _MARK,
        "",
        "| | |",
        "|---|---|",
        f"| searched by | {_SEARCHED[metric]} |",
        f"| bytes a vector as float32 | {4 * n_features:,} to {4 * n_components:,} |",
        f"| rows learned from | {_number(facts.get('rows', 'unknown'))} |",
        f"| fingerprint of the data | {_text(facts.get('fingerprint', 'unknown'))} |",
        f"| file | {kind}, SHA-256 {checksum} |",
        "",
        "## What it keeps",
        "",
    ]
    if samples:
        lines += [
            "The share of the true ten nearest that stay among the ten nearest (recall@10), on samples of "
            "the data: the fewer rows, the easier.",
            "",
            "| rows of the sample | recall@10 | energy kept |",
            "|---|---|---|",
            *(
                f"| {entry['rows']:,} | {entry['recall']:.3f} | "
                f"{'' if entry.get('energy') is None else format(entry['energy'], '.3f')} |"
                for entry in samples
            ),
        ]
    else:
        lines.append("Not measured when it was learned; `nearfold eval` measures it on vectors of yours.")
    lines += [
        "",
        "## Limits",
        "",
        f"- Search folded vectors by {_SEARCHED[metric]}; other metrics lose a few points more.",
        f"- It takes {n_features}-dimensional vectors of the model whose vectors it was learned from. Others "
        "fold without an error, but the results mean nothing.",
        "- The figures above are of the data that it was learned from: on other texts or images it keeps "
        "less. `nearfold drift` compares, `nearfold eval` measures with queries of yours.",
        "- Folded vectors are for finding candidates; the full ones put those in order.",
        "",
        "## How it was learned",
        "",
        *(f"- {_text(name)}: {_number(value)}" for name, value in sorted(parameters.items())),
        *(f"- {_text(name)} (found): {_number(value)}" for name, value in sorted(shown.items())),
        "",
    ]
    return "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else _text(value)
