"""What strangers' text can do to a terminal: nothing."""

from __future__ import annotations

import pytest

from nearfold.errors.printable import printable


@pytest.mark.parametrize("plain", ["a b.npy", "漢字 é", "[/b] [red]", "👩\u200d🔬"])
def test_text_to_look_at_stays(plain: str) -> None:
    assert printable(plain) == plain


@pytest.mark.parametrize(
    ("steering", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("a\u202egpj.npy", r"a\u202egpj.npy"),
        ("a\nb\u2028c", r"a\nb\u2028c"),
        ("\udcff.npy", r"\xff.npy"),
        ("\ud800", r"\ud800"),
        ("\u2066\ufeff", r"\u2066\ufeff"),
    ],
)
def test_what_steers_a_terminal_is_written_out(steering: str, shown: str) -> None:
    assert printable(steering) == shown
    assert printable(shown) == shown


def test_line_ends_of_our_own_stay() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
