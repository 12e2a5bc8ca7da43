"""Text from strangers for a terminal, a page or a card: what would steer one is written out."""

from __future__ import annotations

__all__ = ["printable"]

# Joiners that scripts and emoji need; they steer nothing.
_JOINERS = "\u200c\u200d"


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with everything that is not a character to look at as an escape, such as \x1b.

    Those are control characters (escape sequences, bells, line ends), marks that turn the direction of
    writing, invisible ones, and bytes of a name that are no text.

    Parameters
    ----------
    text
        From anywhere.
    keep
        Characters that stay as they are, such as the line ends of a text of our own.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character, keep) for character in text)


def _shown(character: str, keep: str) -> str:
    if character.isprintable() or character in _JOINERS or character in keep:
        return character
    if "\udc80" <= character <= "\udcff":
        # A byte of a file's name that is not UTF-8.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
