from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import Encoder
from nearfold.folds.mlp import MLPEncoder
from nearfold.methods.registry import LINEAR, METHODS

from .conftest import Run


@pytest.mark.parametrize("method", LINEAR)
def test_fit_apply_eval_inspect(method: str, base: Path, run: Run, tmp_path: Path) -> None:
    fold = tmp_path / "f.safetensors"
    quick = ["-p", "n_steps=20"] if method in ("rae", "nearfold", "mpad") else []
    fitted = run(
        "fit", base, "-d", "12.5%", "-o", fold, "--method", method, "--metric", "l2", "--json", *quick
    )
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["dimensions"] == [384, 48]
    applied = run("apply", fold, base, "-o", tmp_path / "z.npy", "--json")
    assert json.loads(applied.stdout)["bytes_per_vector"] == [768, 192]
    encoder = Encoder.load(fold)
    np.testing.assert_allclose(
        np.load(tmp_path / "z.npy"), encoder.transform(np.load(base)), rtol=1e-5, atol=1e-6
    )
    judged = json.loads(run("eval", fold, base, "--json", "-k", "1,10", "--candidates", "20").stdout)
    assert judged["metric"] == "l2"
    assert judged["queries"] == 60
    assert 0.1 < judged["recall@10"]["low"] < judged["recall@10"]["mean"] < judged["recall@10"]["high"] <= 1
    inspected = json.loads(run("inspect", fold, "--json").stdout)
    assert (inspected["method"], inspected["metric"], inspected["n_components"]) == (method, "l2", 48)
    assert inspected["facts"]["rows"] == 600


def test_tables_say_the_same(fold: Path, base: Path, run: Run) -> None:
    as_json = json.loads(run("eval", fold, base, "--json").stdout)
    table = run("eval", fold, base)
    assert f"{as_json['recall@10']['mean']:.3f}".lstrip("0") in table.stdout
    assert table.stderr == ""
    assert "kappa" in run("inspect", fold).stdout
    assert "384 -> 16" in run("apply", fold, base, "-o", "z.npz").stdout


def test_parquet_to_parquet(fold: Path, run: Run, sample: np.ndarray, tmp_path: Path) -> None:
    rows = pa.array(list(sample[:20].astype(np.float32)), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": range(20), "embedding": rows, "other": rows}), tmp_path / "x.parquet")
    done = run("apply", fold, "x.parquet", "-o", "z.parquet", "--column", "embedding", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    folded = pq.read_table(tmp_path / "z.parquet")
    assert folded.schema.field("embedding").type == pa.list_(pa.float16(), 16)
    assert folded.column("id").to_pylist() == list(range(20))
    warned = run("apply", fold, "x.parquet", "-o", "z.npy", "--column", "embedding")
    assert warned.returncode == 0
    assert warned.stderr.startswith(
        "nearfold: warning: z.npy: only Parquet and Arrow keep the columns id, other"
    )


def test_compare(base: Path, run: Run, tmp_path: Path) -> None:
    options = ["-d", "8,16", "--methods", "pca,rae-exact", "--metric", "cosine,ip", "--save", "encoders"]
    done = run("compare", base, *options, "--json")
    results = json.loads(done.stdout)
    assert len(results["entries"]) == 8
    assert len(results["encoders"]) == 8
    assert Encoder.load(tmp_path / "encoders" / "pca-ip-8.safetensors").n_components == 8
    table = run("compare", base, *options)
    assert table.returncode == 0, table.stderr
    assert "cosine, 384 -> 8 dimensions" in table.stdout
    assert "ip, 384 -> 16 dimensions" in table.stdout


def test_compare_options(base: Path, run: Run, tmp_path: Path) -> None:
    options = ["-d", "8", "--methods", "random-gaussian,isomap,pca", "--metric", "all", "--seeds", "2"]
    done = run(
        "compare", base, *options, "--rows", "300", "--save", "encoders", "--report", "page.html", "--json"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert (results["rows"], len(results["entries"])) == (270, 9)
    assert [len(e["by_seed"]) for e in results["entries"][:3]] == [2, 2, 1]
    # What can't be saved is not.
    assert len(results["encoders"]) == len(list((tmp_path / "encoders").glob("*.safetensors"))) == 6
    page = (tmp_path / "page.html").read_text()
    assert "Searched by ip" in page
    assert "nearfold compare" in page
    assert "--seeds 2" in page


def test_sweep(base: Path, run: Run, tmp_path: Path) -> None:
    options = ["-d", "16", "--methods", "rae-exact", "--lambdas", "1e-7,1e-5,1"]
    done = run("sweep", base, *options, "--report", "s.html", "--save", "best.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [p["weight_decay"] for p in results["points"]] == [1e-7, 1e-5, 1]
    assert results["points"][-1]["spectrum"] is None
    chosen = results["chosen"]["rae-exact"]
    assert Encoder.load(tmp_path / "best.safetensors").parameters["weight_decay"] == chosen
    assert "Rank correlation" in (tmp_path / "s.html").read_text()
    table = run("sweep", base, *options)
    assert "dead" in table.stdout
    assert "evaluated on other queries" in table.stdout


def test_inspect_on_vectors(fold: Path, base: Path, run: Run, tmp_path: Path) -> None:
    done = run("inspect", fold, base, "--n-queries", "50", "--report", "i.html", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["rows"] == 550
    assert data["bounds"]["candidates_mean"] >= 10
    assert len(data["angles_to_pca"]) == len(data["singular_values"]) == 16
    assert "Bounds of scores" in (tmp_path / "i.html").read_text()
    table = run("inspect", fold, base)
    for said in ("Rayleigh interval", "energy dropped", "certified re-rank"):
        assert said in table.stdout


def test_a_network_is_applied_and_inspected(base: Path, run: Run, tmp_path: Path) -> None:
    """Networks need torch to be trained only."""
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((20, 384)), np.zeros(20)), (rng.standard_normal((8, 20)), np.zeros(8))]
    fold = MLPEncoder(layers, method="rae-mlp")
    fold.save(tmp_path / "n.safetensors")
    assert run("apply", "n.safetensors", base, "-o", "z.npy").returncode == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "z.npy"), fold.transform(np.load(base)), rtol=1e-3, atol=1e-4
    )
    seen = json.loads(run("inspect", "n.safetensors", base, "--json").stdout)
    assert seen["kind"] == "MLPEncoder"
    assert seen["data"]["spectrum"]["kappa"] > 1
    assert json.loads(run("eval", "n.safetensors", base, "--json").stdout)["queries"] == 60


@pytest.mark.torch
def test_a_network_s_condition_number_is_told(base: Path, run: Run) -> None:
    """Its Jacobian differs from row to row: the rows that it learned from are needed for that."""
    options = ("--method", "rae-mlp", "-p", "n_steps=5", "--no-drift-baseline")
    fitted = run("fit", base, "-d", "8", "-o", "n.safetensors", *options, "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["kappa"] >= 1


def test_methods_are_listed(run: Run) -> None:
    listed = json.loads(run("methods", "--json").stdout)
    assert set(listed) == {"version", *METHODS}
    assert listed["umap"]["extra"] == "manifold"
    assert "compare only" in run("methods").stdout


def test_truncate_keeps_first_dimensions(base: Path, run: Run, tmp_path: Path) -> None:
    assert run("fit", base, "-d", "16", "-p", "nested=[4,8]", "-o", "whole").returncode == 0
    ended = run("truncate", "whole", "-d", "8", "-o", "first", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["dimensions"] == [384, 8]
    assert told["facts"]["nested"] == [4]
    whole, first = Encoder.load(tmp_path / "whole"), Encoder.load(tmp_path / "first")
    assert np.array_equal(first.weight, whole.weight[:8])
    for command, said in (
        (("truncate", "whole", "-d", "17", "-o", "x"), "more than the 16 dimensions"),
        (("truncate", "whole", "-d", "8", "-o", "whole"), "whole"),
    ):
        ended = run(*command)
        assert ended.returncode == 2
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_fit_with_queries(base: Path, run: Run, tmp_path: Path, sample: np.ndarray) -> None:
    np.save(tmp_path / "q.npy", sample[600:700])
    done = run(
        "fit", base, "-d", 8, "-o", "f.safetensors", "--queries", "q.npy", "-p", "n_steps=20", "--json"
    )
    assert json.loads(done.stdout)["facts"]["queries"] == 100
    judged = run("eval", "f.safetensors", base, "--queries", "q.npy", "--json")
    assert json.loads(judged.stdout)["queries"] == 100


def test_demo(run: Run, tmp_path: Path) -> None:
    done = run("demo", "-d", 24)
    assert done.returncode == 0, done.stderr
    for text in (
        "nearfold",
        "pca-uncentred",
        "One query:",
        "nearest in 384 dimensions",
        "found in 24 dimensions",
    ):
        assert text in done.stdout
    assert Encoder.load(tmp_path / "nearfold-demo" / "nearfold-cosine-24.safetensors").n_components == 24
    results = json.loads(run("demo", "-d", 24, "--json").stdout)
    kept = {e["method"]: e["recall@10"]["mean"] for e in results["entries"]}
    assert max(kept, key=kept.__getitem__) == "nearfold"
    assert len(results["example"]["true"]) == 5


def test_help_is_quick_and_lazy() -> None:
    code = (
        "import sys; from nearfold.cli import app\n"
        "sys.exit(bool({'numpy', 'sklearn', 'faiss', 'pyarrow', 'scipy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_and_version(run: Run) -> None:
    for command in (
        [],
        ["demo"],
        ["fit"],
        ["apply"],
        ["eval"],
        ["compare"],
        ["inspect"],
        ["sweep"],
        ["methods"],
    ):
        done = run(*command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout
    assert run("--version").stdout.startswith("nearfold 0.")


BAD = {
    "missing file": (["fit", "none.npy", "-o", "f"], "none.npy: can't be read: No such file"),
    "unknown format": (["fit", "x.odd", "-o", "f"], "can't tell its format"),
    "text": (["fit", "x.csv", "-o", "f"], "x.csv: is text"),
    "empty file": (["fit", "empty.npy", "-o", "f"], "empty.npy: is an empty file"),
    "truncated": (["fit", "truncated.npy", "-o", "f"], "truncated.npy: truncated"),
    "corrupt parquet": (["fit", "corrupt.parquet", "-o", "f"], "corrupt.parquet: truncated"),
    "nan": (
        ["fit", "nan.npy", "-d", "8", "-o", "f"],
        "nan.npy holds NaN, inf or a number beyond float32: row 5, column 2",
    ),
    "zero row": (["fit", "zero.npy", "-d", "8", "-o", "f"], "zero vector at row 5"),
    "ragged": (["fit", "ragged.parquet", "-o", "f"], "ragged.parquet: row 1 has 1 dimensions"),
    "wrong dtype": (["fit", "text.npy", "-o", "f"], "holds no real numbers"),
    "one row": (["fit", "one.npy", "-o", "f"], "1 sample(s)"),
    "equal rows": (["fit", "equal.npy", "-d", "4", "-o", "f"], "equal vectors only"),
    "m = d": (["fit", "base.npy", "-d", "384", "-o", "f"], "n_components='384'"),
    "m not a number": (["fit", "base.npy", "-d", "many", "-o", "f"], "n_components='many'"),
    "rows below m": (["fit", "few.npy", "-d", "100", "-o", "f"], "n_components=100"),
    "rows below k": (["fit", "few.npy", "-d", "4", "-o", "f", "-p", "n_neighbors=50"], "n_neighbors=50"),
    "unknown method": (["fit", "base.npy", "-o", "f", "--method", "x"], "method 'x' is unknown"),
    "unknown parameter": (["fit", "base.npy", "-o", "f", "-p", "x=1"], "has no parameter x"),
    "malformed parameter": (["fit", "base.npy", "-o", "f", "-p", "x"], "must be NAME=VALUE"),
    "wrong parameter type": (["fit", "base.npy", "-o", "f", "-p", "n_steps=abc"], "n_steps='abc'"),
    "unknown metric": (["fit", "base.npy", "-o", "f", "--metric", "x"], "'x' is not one of"),
    "unknown option": (["fit", "base.npy", "--what"], "--what"),
    "no output": (["fit", "base.npy"], "--out"),
    "queries for pca": (
        ["fit", "base.npy", "-o", "f", "--method", "pca", "--queries", "base.npy"],
        "--queries",
    ),
    "output folder missing": (["fit", "base.npy", "-o", "no/f", "--method", "pca"], "no/f: can't be written"),
    "output is a folder": (["fit", "base.npy", "-o", ".", "--method", "pca"], "is a folder"),
    "not an encoder": (["apply", "base.npy", "base.npy", "-o", "z.npy"], "not a safetensors file"),
    "truncated encoder": (["inspect", "cut.safetensors"], "cut.safetensors: truncated"),
    "wrong width": (
        ["apply", "fold.safetensors", "few5.npy", "-o", "z.npy"],
        "5 dimensions, the encoder takes 384",
    ),
    "unknown output": (["apply", "fold.safetensors", "base.npy", "-o", "z.txt"], "can't tell its format"),
    "over itself": (["apply", "fold.safetensors", "base.npy", "-o", "base.npy"], "is the input itself"),
    "column of npy": (
        ["apply", "fold.safetensors", "base.npy", "-o", "z.npy", "--column", "v"],
        "no columns",
    ),
    "eval wrong width": (["eval", "fold.safetensors", "few5.npy"], "5 dimensions"),
    "eval k": (["eval", "fold.safetensors", "base.npy", "-k", "1000"], "ask for fewer"),
    "eval k text": (["eval", "fold.safetensors", "base.npy", "-k", "a,b"], "-k 'a,b'"),
    "eval queries": (["eval", "fold.safetensors", "base.npy", "--n-queries", "600"], "give more rows"),
    "compare methods": (["compare", "base.npy", "--methods", "pca,x"], "method 'x'"),
    "compare metric": (["compare", "base.npy", "--metric", "x"], "metric='x'"),
    "compare report": (
        ["compare", "base.npy", "--methods", "pca", "-d", "8", "--report", "no/p.html"],
        "no/p.html: can't be written",
    ),
    "compare rows": (["compare", "base.npy", "--rows", "2"], "--rows"),
    "compare seeds": (["compare", "base.npy", "--seeds", "0"], "--seeds"),
    "fit what can't be saved": (["fit", "base.npy", "-o", "f", "--method", "isomap"], "can't be saved"),
    "sweep method": (["sweep", "base.npy", "--methods", "pca"], "no lambda to sweep"),
    "sweep lambdas": (["sweep", "base.npy", "--lambdas", "a"], "--lambdas 'a'"),
    "sweep negative": (["sweep", "base.npy", "-d", "8", "--lambdas=-1"], "weight_decay=-1"),
    "sweep regularizer": (["sweep", "base.npy", "--regularizer", "l1"], "regularizer='l1'"),
    "sweep all dead": (
        ["sweep", "base.npy", "-d", "8", "--lambdas", "9", "--methods", "rae-exact"],
        "no lambda leaves",
    ),
    "inspect report alone": (["inspect", "fold.safetensors", "--report", "p.html"], "name BASE"),
    "inspect wrong width": (["inspect", "fold.safetensors", "few5.npy"], "5 dimensions"),
    "inspect k": (["inspect", "fold.safetensors", "base.npy", "-k", "1000"], "ask for fewer"),
    "auto of a handful": (
        ["fit", "few.npy", "-d", "4", "-o", "f", "--method", "rae-exact", "-p", "weight_decay=sometimes"],
        "weight_decay='sometimes'",
    ),
    "compare one row": (["compare", "one.npy"], "1 row(s)"),
    "demo folder": (["demo", "-o", "base.npy", "-d", "8"], "base.npy: can't be made a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(
    case: str, fold: Path, run: Run, sample: np.ndarray, tmp_path: Path
) -> None:
    X = np.array(sample[:60])
    (tmp_path / "empty.npy").touch()
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "base.npy").read_bytes()[:1000])
    (tmp_path / "corrupt.parquet").write_bytes(b"PAR1" + b"\x00" * 50 + b"PAR1")
    (tmp_path / "cut.safetensors").write_bytes(fold.read_bytes()[:-10])
    np.save(tmp_path / "nan.npy", np.where((np.arange(60)[:, None] == 5) & (np.arange(384) == 2), np.nan, X))
    np.save(tmp_path / "zero.npy", np.where(np.arange(60)[:, None] == 5, 0, X))
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "one.npy", X[:1])
    np.save(tmp_path / "equal.npy", np.ones((50, 8), np.float32))
    np.save(tmp_path / "few.npy", X[:40])
    np.save(tmp_path / "few5.npy", X[:40, :5])
    ragged = pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"v": ragged}), tmp_path / "ragged.parquet")
    before = sorted(tmp_path.iterdir())
    arguments, says = BAD[case]
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("nearfold: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_unwritable_and_full_outputs(fold: Path, base: Path, run: Run, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # root may write anywhere
        assert Path("/proc/self").exists()
        done = run("apply", fold, base, "-o", "/proc/z.npy")
    else:
        done = run("apply", fold, base, "-o", locked / "z.npy")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "can't be written" in done.stderr
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "nearfold", "inspect", str(fold), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr.splitlines()[0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_apply_leaves_no_output(how: signal.Signals, fold: Path, tmp_path: Path) -> None:
    big = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float16, (400_000, 384))
    big[::100] = 1
    del big
    command = [sys.executable, "-m", "nearfold", "apply", str(fold), "big.npy", "-o", "z.npy"]
    # Tests that run in the background may have been told to ignore it, which a command inherits.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".z.npy.*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert not (tmp_path / "z.npy").exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said == "nearfold: interrupted; nothing half-written is left\n"
        assert not list(tmp_path.glob(".z.npy.*"))


def test_progress_is_for_terminals_only(base: Path, tmp_path: Path) -> None:
    """On a terminal bars are drawn; --quiet and --json draw none."""
    pty = pytest.importorskip("pty")

    def on_terminal(*extra: str) -> str:
        leader, follower = pty.openpty()
        command = [
            sys.executable,
            "-m",
            "nearfold",
            "fit",
            str(base),
            "-d",
            "16",
            "-o",
            "f.safetensors",
            "-p",
            "n_steps=150",
            *extra,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, cwd=tmp_path)
        os.close(follower)
        seen = b""
        try:
            while chunk := os.read(leader, 4096):
                seen += chunk
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(leader)
        assert process.wait(timeout=60) == 0
        return seen.decode()

    assert "steps/s" in on_terminal()
    assert on_terminal("--quiet") == ""
    assert on_terminal("--json") == ""
