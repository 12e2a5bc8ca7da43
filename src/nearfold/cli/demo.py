"""`nearfold demo`: the main job on the bundled sample, and one entry to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32
    from nearfold.evaluation.compare import Comparison

__all__ = ["demo"]

_QUERIES = 500
_SHOWN = 5
_METHODS = ("pca", "pca-uncentred", "rae", "rae-exact", "nearfold")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the encoders."), Mark.writes] = Path(
        "nearfold-demo"
    ),
    dimensions: Annotated[
        str, typer.Option("--dimensions", "-d", help="To fold to: numbers or shares, comma-separated.")
    ] = "25%,12.5%",
    report: opt.Report = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fold 5,000 real sentence embeddings with every method and show what each keeps."""
    from nearfold.cli.console import print_json, showing_progress
    from nearfold.cli.encoders import save_encoders
    from nearfold.evaluation.compare import compare
    from nearfold.sample import load_sample

    sample = load_sample()
    vectors = sample.vectors.astype("float32")
    split = len(vectors) - _QUERIES
    with showing_progress(quiet or as_json):
        comparison = compare(
            vectors[:split],
            queries=vectors[split:],
            n_components=[part.strip() for part in dimensions.split(",")],
            methods=_METHODS,
        )
    example = _example(comparison, vectors, split, sample.texts)
    saved = save_encoders(comparison, out)
    if report is not None:
        from nearfold.report.comparison import comparison_page
        from nearfold.report.provenance import command_line, provenance

        page = comparison_page(
            comparison,
            "5,000 WordNet entries, folded",
            provenance(vectors[:split], vectors[split:]),
            command_line(),
        )
        page.write(report)
    if as_json:
        print_json({**comparison.as_dict(), "example": example, "encoders": [str(path) for path in saved]})
        return
    _print(comparison, example, saved)


def _example(comparison: Comparison, vectors: Float32, split: int, texts: list[str]) -> dict[str, Any]:
    """Return the neighbours of one query, true ones and those found after folding.

    Shown is the first query on which the best fold keeps as much as it does on average, so
    that the example is neither picked for success nor for failure.
    """
    import numpy as np

    from nearfold.scan.exact import search

    first = comparison.entries[0]
    metric, dims = first.evaluation.metric, first.encoder.n_components
    best = comparison.best(metric, dims)
    column = f"recall@{_SHOWN}"
    kept = best.evaluation.per_query[column]
    query = int(np.abs(kept - best.evaluation.recall[_SHOWN].mean).argmin())
    base, asked = vectors[:split], vectors[split + query : split + query + 1]
    true = search(base, asked, _SHOWN, metric)[0]
    found = {}
    for entry in comparison.group(metric, dims):
        folded = entry.encoder.transform(base), entry.encoder.transform(asked)
        ids = search(*folded, _SHOWN, metric)[0]
        found[entry.method] = [{"text": texts[i], "true": bool(i in true)} for i in ids]
    return {
        "query": texts[split + query],
        "n_components": dims,
        "true": [texts[i] for i in true],
        "found": found,
    }


def _print(comparison: Comparison, example: dict[str, Any], saved: list[Path]) -> None:
    from nearfold.cli.console import joined, output
    from nearfold.cli.tables import print_comparison

    console = output()
    console.print("5,000 WordNet entries, all-MiniLM-L6-v2 embeddings (bundled)\n", style="bold")
    print_comparison(comparison)
    dims, full = example["n_components"], comparison.n_features

    def line(mark: str, style: str, text: str) -> None:
        console.print(joined("  ", (mark, style), f" {text}"), no_wrap=True, overflow="ellipsis")

    query = joined("\n", ("One query:", "bold"), f" {example['query']}")
    console.print(query, no_wrap=True, overflow="ellipsis")
    console.print(f"its {_SHOWN} nearest in {full} dimensions")
    for text in example["true"]:
        line(" ", "", text)
    for method in ("pca", "nearfold"):
        console.print(f"found in {dims} dimensions by {method} (+ true neighbour, - not)")
        for item in example["found"][method]:
            line(*(("+", "green") if item["true"] else ("-", "red")), item["text"])
    console.print(f"\n{len(saved)} encoders saved, ready to apply:")
    best = next(path for path in saved if path.name.startswith("nearfold-"))
    console.print(f"  nearfold apply {best} VECTORS.npy -o FOLDED.npy", style="bold")
