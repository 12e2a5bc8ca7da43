"""Groups of rows that share a code: the first stage holds each code once, as an entry with one or more rows.

Many equal codes would spoil a graph, as their links lead only to each other, and inverted lists, as they
attract the centroids. In any index of codes they would displace other candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold.codecs.quantizers.base import Codes
from nearfold.search.growing import Growing

__all__ = ["Groups", "Searchable", "distinct_rows"]

UInt64 = npt.NDArray[np.uint64]

_FIRST_SIZE = 1 << 10


class Searchable(NamedTuple):
    """The entries and rows that a search can find, which are those that are not removed.

    Attributes
    ----------
    hidden : ndarray of shape (entries,), bool
        Whether all rows of each entry are removed.
    starts, rows : ndarrays of shape (entries + 1,) and (rows not removed,), int64, or None
        The rows of each entry: entry e has rows[starts[e] : starts[e + 1]]. Both are None if row i is the
        only row of entry i.
    """

    hidden: npt.NDArray[np.bool_]
    starts: Int64 | None
    rows: Int64 | None

    def among(self, allowed: npt.NDArray[np.bool_]) -> Searchable:
        """Return what a search can find if it may find only some of the rows.

        Parameters
        ----------
        allowed : ndarray of shape (n,), bool
            Whether each row may be found.
        """
        if self.starts is None or self.rows is None:
            return Searchable(self.hidden | ~allowed, None, None)
        kept = allowed[self.rows]
        before = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(kept, out=before[1:])
        starts = before[self.starts]
        return Searchable(starts[1:] == starts[:-1], starts, self.rows[kept])

    def sizes(self, entries: Int64) -> Int64:
        """Return the number of rows of each entry, 0 for the entry -1, in the shape of `entries`."""
        if self.starts is None:
            return (entries >= 0).astype(np.int64)
        there = np.maximum(entries, 0)
        return np.where(entries < 0, 0, self.starts[there + 1] - self.starts[there])

    def first(self, entries: Int64) -> Int64:
        """Return the first row of each entry, -1 for the entry -1, in the shape of `entries`."""
        if self.starts is None or self.rows is None:
            return entries
        return np.where(entries < 0, -1, self.rows[self.starts[np.maximum(entries, 0)]])

    def expanded(self, entries: Int64, most: int, skip: int = 0) -> Int64:
        """Return the rows of each query's entries, in the order of the entries.

        Parameters
        ----------
        entries : ndarray of shape (q, c), int64
            The entries of each query, -1 for none.
        most : int
            The most rows for each query.
        skip : int, default=0
            The number of rows of each entry to omit, from the first on.

        Returns
        -------
        ndarray of shape (q, r), int64
            Row numbers, filled up with -1.
        """
        if self.starts is None or self.rows is None:
            return entries[:, :most] if not skip else np.empty((len(entries), 0), np.int64)
        sizes = np.maximum(self.sizes(entries) - skip, 0)
        before = np.cumsum(sizes, axis=1) - sizes
        sizes = np.clip(most - before, 0, sizes)
        totals = sizes.sum(axis=1)
        out = np.full((len(entries), int(totals.max(initial=0))), -1, np.int64)
        chosen = np.repeat(np.maximum(entries, 0).ravel(), sizes.ravel())
        flat = sizes.ravel()
        within = np.arange(len(chosen)) - np.repeat(np.cumsum(flat) - flat, flat)
        # The mask selects the first places of each query, in the order of the queries.
        out[np.arange(out.shape[1]) < totals[:, None]] = self.rows[self.starts[chosen] + skip + within]
        return out


class Groups:
    """The table of the entry of each row.

    Parameters
    ----------
    rows : int
        The number of rows.
    entry_of : ndarray of shape (rows,), int64, optional
        The entry of each row. By default row i has entry i.
    entries : int, optional
        The number of entries. The default is `rows`.

    Raises
    ------
    ValueError
        A row has an entry that does not exist, or the numbers of rows and entries don't fit.
    """

    def __init__(self, rows: int, entry_of: Int64 | None = None, entries: int | None = None) -> None:
        self.rows = rows
        self.entries = rows if entries is None else entries
        if entry_of is not None and (
            entry_of.shape != (rows,)
            or entry_of.dtype != np.int64
            or (rows and not 0 <= int(entry_of.min()) <= int(entry_of.max()) < self.entries)
        ):
            raise ValueError("rows and the codes that they share don't fit together")
        if entry_of is None and self.entries != rows:
            raise ValueError(f"there are {self.entries} codes of {rows} rows")
        self._entry_of = None if entry_of is None else Growing(entry_of)
        self._keys: _KeyTable | None = None

    @property
    def entry_of(self) -> Int64 | None:
        """The entry of each row, shape (rows,), or None if row i has entry i."""
        return None if self._entry_of is None else self._entry_of.array

    def matched(self, codes: Codes, held: Codes | None, expected: int = 0) -> tuple[Int64, Int64]:
        """Return the entries of new rows, by their codes, and the rows that bring a new code.

        Parameters
        ----------
        codes : ndarray of shape (n, bytes), uint8
            The codes of rows that are not in the table yet. New codes get the next entries.
        held : ndarray of shape (entries, bytes), uint8, or None
            The codes of all entries. It may be None if `knows_codes`.
        expected : int, default=0
            The number of rows that are expected in all, including these.

        Returns
        -------
        entries : ndarray of shape (n,), int64
            The entry of each row.
        fresh : ndarray of shape (f,), int64
            The numbers, from 0 to n - 1, of the first row with each new code.
        """
        if self._keys is None:
            self._keys = _KeyTable()
            self._keys.make_room(expected + self.entries)
            if held is not None:
                self._keys.matched(held)
        entries = self._keys.matched(codes)
        fresh = np.flatnonzero(entries >= self.entries)
        # New entries are numbered in row order, so each new entry's first row exceeds all entries before it.
        fresh = fresh[np.diff(np.maximum.accumulate(entries[fresh]), prepend=self.entries - 1) > 0]
        return entries, fresh

    @property
    def knows_codes(self) -> bool:
        """Whether `matched` can do without the codes of the entries."""
        return self._keys is not None or not self.entries

    def append(self, entries: Int64, fresh: int) -> None:
        """Add rows with the entries that `matched` returned, `fresh` of which are new."""
        n = len(entries)
        if self._entry_of is None and (fresh < n or self.entries != self.rows):
            self._entry_of = Growing(np.arange(self.rows))
        if self._entry_of is not None:
            self._entry_of.append(entries)
        self.rows += n
        self.entries += fresh

    def forget(self) -> None:
        """Drop the table that `matched` keeps, which is made again when it is needed."""
        self._keys = None

    def skip_to(self, entries: int) -> None:
        """Set the number of entries, of which the last have no rows if an addition was interrupted."""
        if entries != self.entries:
            self._entry_of = self._entry_of or Growing(np.arange(self.rows))
            self.entries = entries
        self.forget()

    def searchable(self, removed: npt.NDArray[np.bool_]) -> Searchable:
        """Return what a search can find, given whether each row (rows,) is removed."""
        if self.entry_of is None:
            return Searchable(removed, None, None)
        rows = np.flatnonzero(~removed)
        entries = self.entry_of[rows]
        sizes = np.bincount(entries, minlength=self.entries)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Searchable(sizes == 0, starts, rows[np.argsort(entries, kind="stable")])

    def kept(self, rows: Int64) -> tuple[Groups, Int64]:
        """Return the table of some of the rows, numbered anew, and the old numbers of their entries."""
        if self.entry_of is None:
            return Groups(len(rows)), rows
        entries, entry_of = np.unique(self.entry_of[rows], return_inverse=True)
        in_order = np.array_equal(entry_of, np.arange(len(entries)))
        return Groups(len(rows), None if in_order else entry_of, len(entries)), entries


def distinct_rows(codes: Codes) -> Int64:
    """Return the number of the first row with each distinct code, in ascending order."""
    return Groups(0).matched(codes, None)[1]


class _KeyTable:
    """A hash table from codes to their numbers, with open addressing and operations on whole arrays."""

    def __init__(self) -> None:
        # The factors are drawn anew for each table, so that nobody can construct codes that collide.
        self._factors = np.random.default_rng().integers(0, 1 << 64, 2, np.uint64) | np.uint64(1)
        self._size, self._count = 0, 0
        self._entries = np.full(0, -1, np.int64)
        self._keys = np.empty((0, 2), np.uint64)

    def matched(self, codes: Codes) -> Int64:
        """Return the number of each code (n, bytes); new codes get the next numbers, in row order."""
        keys = self._keys_of(codes)
        self.make_room(len(keys))
        owner, place = self._claimed(keys)
        mine = owner >= 0
        # A claimed place holds -2 minus the number of its row, which the entry now replaces.
        first = np.unique(owner[mine])
        numbers = self._entries[place]
        if len(first):
            numbers[mine] = self._count + np.searchsorted(first, owner[mine])
            self._entries[place[mine]] = numbers[mine]
            self._count += len(first)
        return numbers

    def _claimed(self, keys: UInt64) -> tuple[Int64, Int64]:
        """Return each key's place, and the first row with that key if the key is new, else -1."""
        mask = np.uint64(self._size - 1)
        place = (keys[:, 0] & mask).astype(np.int64)
        owner = np.full(len(keys), -1, np.int64)
        pending = np.arange(len(keys))
        while len(pending):
            at = place[pending]
            empty = self._entries[at] == -1
            # If several rows claim one place, the first row is to get it, so it is written last.
            claims = pending[empty][::-1]
            self._entries[place[claims]] = -2 - claims
            self._keys[place[claims]] = keys[claims]
            held = self._entries[at]
            same = (self._keys[at] == keys[pending]).all(axis=1)
            new = same & (held < -1)
            owner[pending[new]] = -2 - held[new]
            pending = pending[~same]
            place[pending] = (place[pending] + 1) & (self._size - 1)
        return owner, place

    def make_room(self, more: int) -> None:
        """Grow the table so that it is at most half full with `more` further codes."""
        wanted = max(_FIRST_SIZE, 1 << (2 * (self._count + more) - 1).bit_length())
        if wanted <= self._size:
            return
        there = self._entries >= 0
        keys, entries = self._keys[there], self._entries[there]
        self._size = wanted
        self._entries = np.full(wanted, -1, np.int64)
        self._keys = np.empty((wanted, 2), np.uint64)
        if len(keys):
            _, place = self._claimed(keys)
            self._entries[place] = entries

    def _keys_of(self, codes: Codes) -> UInt64:
        """Return 128 bits for each code (n, bytes), equal for equal codes and hardly ever for others."""
        n, size = codes.shape
        padded = np.zeros((n, -(-size // 8) * 8), np.uint8)
        padded[:, :size] = codes
        keys = np.zeros((n, 2), np.uint64)
        for word in padded.view(np.uint64).T:
            keys ^= word[:, None]
            keys *= self._factors
            keys ^= keys >> np.uint64(32)
        return keys
