"""A cluster of two processes gives what threads give, even when one is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, Future, LocalCluster

from nearfold import PCA, NearFold, config_context
from nearfold.bulk.apply import apply
from nearfold.bulk.update import update
from nearfold.errors import DataError, FileError
from nearfold.io.vectors import open_source
from nearfold.scan.checkpoint import ScanCheckpoint

Spread = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def spread(client: Client, monkeypatch: pytest.MonkeyPatch) -> Spread:
    """Returns the context in which the cluster works, on shards of about so many bytes."""

    def context(shard_bytes: int = 1 << 17) -> AbstractContextManager[None]:
        monkeypatch.setattr("nearfold.scan.dask._SHARD_BYTES", shard_bytes)
        return config_context(scheduler=client)

    return context


@pytest.fixture
def parts(sample: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for i, rows in enumerate(np.array_split(sample, 5)):
        table = pa.table({"id": range(len(rows)), "v": pa.array(list(rows), pa.list_(pa.float32()))})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=60)
    return folder


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_it_learns_the_same(spread: Spread, metric: str, client: Client, parts: Path, tmp_path: Path) -> None:
    estimator, source = NearFold(24, metric=metric, n_steps=30), open_source(parts)
    alone = estimator.fit(source).encoder_.weight
    with spread():
        found = estimator.fit(source, checkpoint=tmp_path / "s").encoder_.weight
    assert np.abs(found - alone).max() <= 1e-4 * np.abs(alone).max()
    assert ScanCheckpoint.load(tmp_path / "s").scan.kept is not None  # type: ignore[union-attr]


def test_a_lost_worker_changes_nothing(
    spread: Spread, client: Client, sample: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.concatenate([sample + 0.01 * i for i in range(20)]))
    estimator, source = NearFold(24, n_steps=5), open_source(tmp_path / "x.npy")
    with spread(1 << 19):
        expected = estimator.fit(source).encoder_.weight
    victim = next(iter(client.run(os.getpid).values()))
    killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    killer.start()
    with spread(1 << 19):
        found = estimator.fit(source).encoder_.weight
    killer.join()
    np.testing.assert_array_equal(found, expected)
    # A question to all workers would wait for one that is being replaced.
    for _ in range(100):
        if not Path(f"/proc/{victim}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{victim}").exists()


def test_all_workers_lost_midway_change_nothing(
    spread: Spread, client: Client, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tasks share is lost with them, and made again."""
    estimator, source = NearFold(24, n_steps=5), open_source(parts)
    submit, sent = client.submit, []
    with spread():
        expected = estimator.fit(source).encoder_.weight

    def submitted(function: Callable[..., object], *values: object, **options: object) -> Future:
        future = submit(function, *values, **options)
        sent.append(function.__name__)
        if sent.count("_scan_shard") == 3 and function.__name__ == "_scan_shard":
            # The third shard is asked for: what the first two were sent is on the workers.
            for process in client.run(os.getpid).values():
                os.kill(process, signal.SIGKILL)
        return future

    monkeypatch.setattr(client, "submit", submitted)
    with spread():
        np.testing.assert_array_equal(estimator.fit(source).encoder_.weight, expected)
    assert sent.count("_identity") >= 1
    assert sent.count("_scan_shard") > 3


def test_it_folds_the_same(
    spread: Spread, client: Client, parts: Path, sample: np.ndarray, tmp_path: Path
) -> None:
    encoder = PCA(24).fit(sample).encoder_
    apply(encoder, open_source(parts), tmp_path / "alone")
    with spread():
        apply(encoder, open_source(parts), tmp_path / "spread")
    names = sorted(p.name for p in (tmp_path / "alone").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "spread").iterdir())
    for name in names:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "spread" / name).read_bytes()


def test_it_updates_the_same(spread: Spread, client: Client, sample: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", sample[:1000])
    np.save(tmp_path / "new.npy", sample[1000:, ::-1])
    encoder = (
        NearFold(24, n_steps=30, n_anchors=300)
        .fit(open_source(tmp_path / "old.npy"), checkpoint=tmp_path / "s")
        .encoder_
    )
    new, state = open_source(tmp_path / "new.npy"), ScanCheckpoint.load(tmp_path / "s")
    alone = update(encoder, state, new).fold.weight
    with spread():
        found = update(encoder, state, new).fold.weight
    assert np.abs(found - alone).max() <= 1e-4 * np.abs(alone).max()


def test_bad_input_is_told_as_it_is(
    spread: Spread, client: Client, sample: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfold.scan.dask._CONNECT", "1s")
    rows = sample.copy()
    rows[700, 3] = np.nan
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(DataError, match="row 700, column 3"), spread():
        PCA(24).fit(open_source(tmp_path / "x.npy"))
    with (
        pytest.raises(FileError, match="no Dask scheduler answers"),
        config_context(scheduler="tcp://127.0.0.1:9"),
    ):
        PCA(24).fit(tmp_path / "x.npy")
