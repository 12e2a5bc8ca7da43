"""Passwords in what users name are neither printed nor kept."""

from __future__ import annotations

import pickle

import pytest

from nearfold.errors import FileError, MissingExtraError, credentials
from nearfold.errors.credentials import redacted, redacted_values, remember

SECRET = "Tr0ub4dor"

NAMED = [
    f"postgresql://ann:{SECRET}@host:5432/db",
    f"postgres://ann:{SECRET}@host/db?sslmode=require",
    f"postgrsql:/ann:{SECRET}@host/db",
    f"postgresql:ann:{SECRET}@host/db",
    f"ann:{SECRET}@host/db",
    f"postgresql://ann:a@{SECRET}@host/db",
    f"postgresql://ann:/{SECRET}@host/db",
    f"postgresql://ann:?{SECRET}#@host/db",
    f"postgresql://host/db?user=ann&password={SECRET}",
    f"postgresql:host=h user=ann password='{SECRET} b'",
    f"s3://AKIA:{SECRET}@bucket/x.npy?region=eu",
    f"https://host/x.npy?X-Amz-Signature={SECRET}&n=1",
    f"https://account.blob.host/x.npy?sv=1&sig={SECRET}",
    f"https://{SECRET}@host/x.npy",
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_SECRETS", set())
    monkeypatch.setattr(credentials, "_KNOWN", [])


@pytest.mark.parametrize("named", NAMED)
def test_a_password_is_hidden_by_its_place(named: str) -> None:
    for text in (named, f"{named}: can't be opened", f"can't open {named!r}", f"({named})"):
        assert SECRET not in redacted(text)
        assert redacted(redacted(text)) == redacted(text)
    assert SECRET not in str(FileError(f"{named}: no such file"))


@pytest.mark.parametrize("named", NAMED)
def test_a_part_of_a_password_is_hidden_once_it_is_known(named: str) -> None:
    remember(named)
    assert redacted(f'could not translate host name "{SECRET}" to address') == (
        'could not translate host name "***" to address'
    )


@pytest.mark.parametrize(
    "text",
    [
        "x.npy: row 5, column 2",
        "https://hf.co/datasets/wiki@main/x.npy",
        "duckdb:/home/me@work/x.duckdb",
        "lancedb:folder@2024",
        "postgresql://USER@HOST/NAME",
        r"C:\data\me@work",
        "n_components='384' must be below 16",
        "key='id' is no column",
    ],
)
def test_what_holds_no_password_stays(text: str) -> None:
    remember(text)
    assert redacted(text) == text


def test_values_and_copies_of_errors_hold_none() -> None:
    named = NAMED[0]
    assert SECRET not in str(redacted_values({"arguments": ["migrate", named], named: (1, named)}))
    error = pickle.loads(pickle.dumps(MissingExtraError(f"{named} needs psycopg")))
    assert SECRET not in f"{error} {error.args} {error!r}"
