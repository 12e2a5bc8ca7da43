"""PostgreSQL's binary rows: what is packed is unpacked, with ids of one length and of several."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfold.errors import DataError
from nearfold.integrations.databases.pgcopy import Batch, Rows, pack, unpack


def digests(count: int) -> npt.NDArray[np.void]:
    return np.frombuffer(bytes(range(16)) * count, "V16")


def sent(content: bytes, rows: int) -> Batch:
    return Batch(rows, memoryview(content))


@given(
    names=st.lists(st.binary(max_size=12), min_size=1, max_size=6),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_rows_come_back(names: list[bytes], width: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((len(names), width)).astype(np.float32)
    content = pack(Rows(names, vectors, digests(len(names))))
    rows = unpack(sent(content, len(names)), width, None, "t")
    assert rows.ids == names
    assert np.array_equal(rows.vectors, vectors)
    assert rows.digests.tobytes() == digests(len(names)).tobytes()


def test_ids_of_one_length_make_the_same_bytes() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    names = [bytes([i] * 8) for i in range(3)]
    packed = pack(Rows(np.frombuffer(b"".join(names), "V8"), vectors, digests(3)))
    assert packed == pack(Rows(names, vectors, digests(len(names))))
    # int16 3, int32 8, the id, int32 4 + 4 * 4, int16 4, int16 0, then float32 in network order.
    assert packed[:26] == bytes([0, 3, 0, 0, 0, 8, *names[0], 0, 0, 0, 20, 0, 4, 0, 0]) + bytes(4)
    rows = unpack(sent(packed, 3), 4, 8, "t")
    assert [bytes(each) for each in rows.ids] == names
    assert np.array_equal(rows.vectors, vectors)
    assert rows.digests.tobytes() == digests(len(names)).tobytes()
    halves = pack(Rows(names, vectors.astype(np.float16), digests(3)))
    assert len(halves) == len(packed) - 3 * 4 * 2


@pytest.mark.parametrize("id_bytes", [8, None])
def test_other_widths_are_refused(id_bytes: int | None) -> None:
    names = [bytes(8)] * 2
    content = pack(Rows(names, np.ones((2, 4), np.float32), digests(2)))
    with pytest.raises(DataError, match="t: a vector has 4 dimensions, the encoder takes 3"):
        unpack(sent(content, 2), 3, id_bytes, "t")
