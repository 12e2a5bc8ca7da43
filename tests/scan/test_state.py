"""Files of scans: what means nothing is refused, and nobody's rows are lost."""

# Each change is given all of a file, and looks at what it changes.
# ruff: noqa: ARG005

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nearfold import PCA, NearFold
from nearfold._utils.files import held_file
from nearfold.bulk.update import update
from nearfold.errors import FileError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import read_safetensors
from nearfold.folds.origin import DIGEST, sealed
from nearfold.io.npy import HeldSource
from nearfold.scan.checkpoint import ScanCheckpoint
from nearfold.scan.scan import ScanSpec
from nearfold.scan.scanner import Scanner
from nearfold.scan.scanning import scan_source

X = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32) + 1
KINDS: dict[str, Any] = {
    "cosine": NearFold(2, n_steps=5, n_anchors=20, n_neighbors=6),
    "l2": NearFold(2, metric="l2", n_steps=5, n_anchors=20, n_neighbors=6),
    "moments": PCA(2),
}
QUERIES = X[:9, ::-1]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    np.save(folder / "x.npy", X)
    for name, estimator in KINDS.items():
        estimator.fit(folder / "x.npy", checkpoint=folder / name).encoder_.save(folder / f"{name}.fold")
    KINDS["cosine"].fit(folder / "x.npy", queries=QUERIES, checkpoint=folder / "queries")
    return folder


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def put(name: str, value: Any, place: Any = -1) -> Change:
    def change(tensors: dict[str, Any], said: dict[str, Any]) -> None:
        tensors[name] = tensors[name].copy()
        if isinstance(place, int):
            tensors[name].flat[place] = value
        else:
            tensors[name][place] = value

    return change


def shaped(name: str, shape: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda tensors, said: tensors.update({name: shape(tensors[name])})


def drop(name: str) -> Change:
    return lambda tensors, said: tensors.pop(name)


def say(**values: Any) -> Change:
    return lambda tensors, said: said.update(values)


def ask(**values: Any) -> Change:
    return lambda tensors, said: said["request"].update(values)


def no_scan(tensors: dict[str, Any], said: dict[str, Any]) -> None:
    for name in ("count", "total", "second", "scores", "ids", "kept", "kept_ids"):
        del tensors[name]


ODD: list[tuple[str, str, Change]] = [
    ("cosine", "NaN anchors", put("anchors", np.nan)),
    ("cosine", "anchors of another norm", put("anchors", 9.0)),
    ("cosine", "anchors of another width", shaped("anchors", lambda t: t[:, :5])),
    ("cosine", "anchors as float64", shaped("anchors", lambda t: t.astype(np.float64))),
    ("cosine", "no anchors", drop("anchors")),
    ("cosine", "anchors of nothing", shaped("anchors", lambda t: t[:0])),
    ("cosine", "an anchor of no row", put("anchor_rows", 200)),
    ("cosine", "an anchor before all", put("anchor_rows", -1, 0)),
    ("cosine", "anchors not rising", shaped("anchor_rows", lambda t: t[::-1])),
    ("cosine", "fewer anchor rows", shaped("anchor_rows", lambda t: t[:-1])),
    ("cosine", "anchor rows as int32", shaped("anchor_rows", lambda t: t.astype(np.int32))),
    ("cosine", "queries that it has not", ask(queries=True)),
    ("queries", "queries that were not asked for", ask(queries=False)),
    ("queries", "queries alone", drop("anchor_rows")),
    ("queries", "more queries than anchors", ask(n_anchors=8)),
    ("cosine", "a shift that it has not", lambda t, s: t.update(shift=np.ones(8, np.float32))),
    ("cosine", "NaN scores", put("scores", np.nan)),
    ("cosine", "an infinite score", put("scores", np.inf)),
    ("cosine", "a score of no row", put("ids", -1)),
    ("cosine", "neighbours beyond the rows", put("ids", 200)),
    ("cosine", "neighbours far beyond", put("ids", 1 << 60)),
    ("cosine", "neighbours before all", put("ids", -7)),
    ("cosine", "a neighbour twice", lambda t, s: t.update(ids=np.repeat(t["ids"][:, :1], 7, axis=1))),
    ("cosine", "fewer neighbours", shaped("ids", lambda t: t[:, :-1])),
    (
        "cosine",
        "neighbours that are not kept",
        lambda t, s: t.update(kept=t["kept"][1:], kept_ids=t["kept_ids"][1:]),
    ),
    ("cosine", "kept rows missing", lambda t, s: (t.pop("kept"), t.pop("kept_ids"))),
    ("cosine", "kept rows without numbers", drop("kept_ids")),
    ("cosine", "kept of another norm", put("kept", 5.0)),
    ("cosine", "NaN kept", put("kept", np.nan)),
    ("cosine", "a sample of no row", put("sample_rows", 1 << 40)),
    ("cosine", "NaN sample", put("sample", np.nan)),
    ("cosine", "a sample of another width", shaped("sample", lambda t: t[:, :5])),
    ("cosine", "a sample without numbers", drop("sample_rows")),
    ("cosine", "an unknown array", lambda t, s: t.update(other=np.ones(2, np.float32))),
    ("cosine", "no count", put("count", 0)),
    ("cosine", "a negative count", put("count", -5)),
    ("cosine", "a count of more rows", put("count", 201)),
    ("cosine", "two counts", shaped("count", lambda t: np.tile(t, 2))),
    ("cosine", "a count as a fraction", shaped("count", lambda t: t.astype(np.float64))),
    ("cosine", "another sum of squares", shaped("second", lambda t: t * 3)),
    ("moments", "NaN second", put("second", np.nan)),
    ("moments", "infinite total", put("total", np.inf)),
    ("moments", "second not symmetric", put("second", 50.0, (0, 1))),
    ("moments", "a negative square", put("second", -5.0)),
    ("moments", "another total", put("total", 1e9)),
    ("moments", "a second of another width", shaped("second", lambda t: t[:5, :5])),
    ("moments", "neighbours of no anchors", lambda t, s: t.update(ids=np.ones((2, 2), np.int64))),
    ("moments", "anchors asked for", ask(n_anchors=5)),
    ("moments", "k without anchors", say(k="5")),
    ("moments", "no arrays", lambda t, s: t.clear()),
    ("l2", "no shift", drop("shift")),
    ("l2", "NaN shift", put("shift", np.nan)),
    ("l2", "a shift of another width", shaped("shift", lambda t: t[:-1])),
    ("cosine", "nothing found", no_scan),
    ("cosine", "more done than there is", say(done="201")),
    ("cosine", "nothing done", say(done="0")),
    ("cosine", "a negative done", say(done="-5")),
    ("cosine", "done as text", say(done="all")),
    ("cosine", "no rows", say(rows="0")),
    ("cosine", "fewer rows", say(rows="100", done="100")),
    ("cosine", "rows without end", say(rows="9" * 5_000)),
    ("cosine", "rows as a fraction", say(rows="200.5")),
    ("cosine", "no k", say(k="0")),
    ("cosine", "a giant k", say(k=str(1 << 40))),
    ("cosine", "no inputs", lambda t, s: s.pop("inputs")),
    ("cosine", "inputs as a map", say(inputs={})),
    ("cosine", "inputs as numbers", say(inputs=[1])),
    ("cosine", "inputs that are no digests", say(inputs=["x"])),
    ("cosine", "another metric", ask(metric="hamming")),
    ("cosine", "the metric of others", ask(metric="l2")),
    ("cosine", "no stride", ask(stride=0)),
    ("cosine", "a seed as text", ask(seed="1")),
    ("cosine", "a negative seed", ask(seed=-1)),
    ("cosine", "a giant seed", ask(seed=10**40)),
    ("cosine", "truth as number", ask(normalize=1)),
    ("cosine", "other products", ask(products="float8")),
    ("cosine", "fewer anchors asked for", ask(n_anchors=5)),
    ("cosine", "no request", lambda t, s: s.pop("request")),
    ("cosine", "a request as a list", say(request=[])),
    ("cosine", "a request too deep", say(request='{"metric":' + "[" * 50_000 + "]" * 50_000 + "}")),
    ("cosine", "another format", say(format="nearfold.encoder")),
    ("cosine", "a later format", say(format_version="2")),
]


def written(source: Path, out: Path, change: Change) -> Path:
    """Write a scan again with something changed, and its digest made anew."""
    metadata, tensors = read_safetensors(source)
    said: dict[str, Any] = {k: v for k, v in metadata.items() if k != DIGEST}
    said |= {key: json.loads(metadata[key]) for key in ("request", "inputs")}
    change(tensors, said)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, out, sealed(tensors, texts))
    return out


@pytest.mark.parametrize(("name", "what", "change"), ODD)
def test_what_means_nothing_is_refused(
    name: str, what: str, change: Change, scans: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="odd"):
        ScanCheckpoint.load(written(scans / name, tmp_path / "odd", change))


@pytest.mark.parametrize("name", KINDS)
def test_sound_scans_are_read_and_written_again(name: str, scans: Path, tmp_path: Path) -> None:
    ScanCheckpoint.load(written(scans / name, tmp_path / "same", lambda t, s: None)).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (scans / name).read_bytes()


def test_content_that_changed_is_noticed(scans: Path, tmp_path: Path) -> None:
    data = bytearray((scans / "cosine").read_bytes())
    data[-2] ^= 1
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(FileError, match="its content has changed"):
        ScanCheckpoint.load(tmp_path / "s")


@pytest.mark.parametrize("name", KINDS)
def test_a_scan_of_other_data_is_not_gone_on_with(name: str, scans: Path, tmp_path: Path) -> None:
    # As many rows, the first of them the same, and the same anchors where there are any.
    other = X.copy()
    other[150:] = other[150:][::-1] * 2
    np.save(tmp_path / "y.npy", other)
    state = tmp_path / "s"
    state.write_bytes((scans / name).read_bytes())
    with pytest.raises(FileError, match="other vectors"):
        KINDS[name].fit(tmp_path / "y.npy", checkpoint=state)
    assert state.read_bytes() == (scans / name).read_bytes()


def grown(scans: Path, folder: Path, seed: int) -> Any:
    """Return the scan with 50 more rows."""
    new = folder / f"{seed}.npy"
    np.save(new, np.random.default_rng(seed).standard_normal((50, 8)).astype(np.float32))
    return update(Encoder.load(scans / "cosine.fold"), ScanCheckpoint.load(scans / "cosine"), new).checkpoint


def test_rows_that_somebody_added_meanwhile_are_not_lost(scans: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.write_bytes((scans / "cosine").read_bytes())
    first, second = grown(scans, tmp_path, 1), grown(scans, tmp_path, 2)
    first.save(state)
    kept = state.read_bytes()
    with pytest.raises(FileError, match="holds rows that this scan lacks"):
        second.save(state)
    with pytest.raises(FileError, match="holds rows that this scan lacks"):
        ScanCheckpoint.load(scans / "cosine").save(state)
    assert state.read_bytes() == kept
    first.save(state)
    # What is no scan is not written over either.
    for name in ("x.npy", "cosine.fold"):
        before = (scans / name).read_bytes()
        with pytest.raises(FileError, match=name):
            first.save(scans / name)
        assert (scans / name).read_bytes() == before


def test_a_scan_is_held_from_reading_to_writing(scans: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.write_bytes((scans / "cosine").read_bytes())
    np.save(tmp_path / "new.npy", X[:50] * 3)
    command = [sys.executable, "-m", "nearfold", "update", scans / "cosine.fold", tmp_path / "new.npy"]
    command += ["--checkpoint", state, "-o", tmp_path / "out", "-q"]
    with held_file(state):
        # Whoever holds it may ask again.
        ScanCheckpoint.load(state).save(state)
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "another run is changing it" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert ScanCheckpoint.load(state).rows == 250
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.npy", "out", "out.card.md", "s"]


def test_two_fits_of_one_state_refuse_each_other(scans: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom nearfold.errors import FileError\nfrom nearfold._utils.files import held_file\n"
        "try:\n  with held_file(sys.argv[1]): print('held')\nexcept FileError as error: print(error)"
    )

    def asked(path: Path) -> str:
        return subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
        ).stdout

    state = tmp_path / "s"
    with held_file(state):
        assert "another run is changing it" in asked(state)
        # By another name too.
        (tmp_path / "link").symlink_to(state)
        assert "another run is changing it" in asked(tmp_path / "link")
    assert asked(state) == "held\n"
    # What a killed holder left doesn't hold, and a file of others in the way is left alone.
    (tmp_path / ".s.lock").write_bytes(b"nearfold holds s\n")
    assert asked(state) == "held\n"
    (tmp_path / ".s.lock").write_bytes(b"mine")
    with pytest.raises(FileError, match="is in the way and not of nearfold"), held_file(state):
        pass
    assert (tmp_path / ".s.lock").read_bytes() == b"mine"


def test_an_encoder_of_another_method_is_refused(scans: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", X[:50] * 3)
    for encoder, state in (("cosine", "moments"), ("moments", "cosine"), ("l2", "cosine")):
        with pytest.raises(FileError, match="not that of this encoder"):
            update(
                Encoder.load(scans / f"{encoder}.fold"),
                ScanCheckpoint.load(scans / state),
                tmp_path / "new.npy",
            )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s")
    with pytest.raises(FileError, match="is a pipe"):
        ScanCheckpoint.load(tmp_path / "s")
    with pytest.raises(FileError, match="is a pipe"):
        Encoder.load(tmp_path / "s")


def test_marks_of_rows_that_are_not_kept_are_gone_on_with(rng: np.random.Generator, tmp_path: Path) -> None:
    X = np.repeat(rng.standard_normal((60, 8)).astype(np.float32), 5, axis=0)[rng.permutation(300)]
    wanted = ScanSpec("cosine", normalize=True, products=np.float32, n_anchors=20, k=6)
    whole, anchors, *_ = scan_source(HeldSource("X", X), wanted)
    early = Scanner(wanted, anchors, carry=False)
    with early:
        early.see(X[:120], 0)
    ScanCheckpoint(wanted, anchors, 300, 120, early.result()).save(tmp_path / "s")
    again = ScanCheckpoint.load(tmp_path / "s")
    late = Scanner(again.request, again.anchors, start=again.scan, carry=False)
    with late:
        late.see(X[120:], 120)
    np.testing.assert_array_equal(late.result().neighbors.sorted().ids, whole.neighbors.sorted().ids)
