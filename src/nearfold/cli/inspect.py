"""`nearfold inspect`: what a saved encoder is, and what it does to a user's own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfold.cli import options as opt
from nearfold.cli.paths import Mark

if TYPE_CHECKING:
    from nearfold.evaluation.inspection import Inspection

__all__ = ["inspect"]


def inspect(
    encoder: Annotated[
        Path, typer.Argument(help="What `fit` or `plan` saved.", metavar="ENCODER"), Mark.reads
    ],
    base: Annotated[
        str | None,
        typer.Argument(help="Vectors that it is measured on: a file, a folder or a URL.", metavar="[BASE]"),
        Mark.reads,
    ] = None,
    queries: opt.Queries = None,
    n_queries: opt.NQueries = None,
    k: Annotated[int, typer.Option("-k", help="Number of neighbours that the bounds are about.", min=1)] = 10,
    report: opt.Report = None,
    column: opt.Column = None,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Tell what an encoder does, how it was learned and how well conditioned it is.

    With BASE also: how it distorts lengths between neighbours and between random rows, the energy it
    drops, its angles to principal axes, and what its residual norms prove of each query's neighbours.
    """
    from nearfold.cli.console import print_json, print_mapping
    from nearfold.codecs.codec import Codec, load_any
    from nearfold.errors import ParameterError
    from nearfold.evaluation.drift import readable_facts
    from nearfold.evaluation.spectrum import spectrum_of
    from nearfold.folds.fold import FORMAT_VERSION

    loaded = load_any(encoder)
    if isinstance(loaded, Codec):
        if base is not None:
            raise ParameterError(f"{encoder}: holds a codec; `nearfold plan --codecs` evaluates such")
        told = {"codec": str(encoder), **loaded.as_dict()}
        if as_json:
            print_json(told)
        else:
            print_mapping(told)
        return
    if base is None and (report is not None or queries is not None):
        raise ParameterError("--report and --queries need vectors to look at: name BASE after the encoder")
    spectrum = spectrum_of(loaded)
    results: dict[str, Any] = {
        "encoder": str(encoder),
        "format_version": FORMAT_VERSION,
        "kind": type(loaded).__name__,
        "method": loaded.method,
        "metric": loaded.metric,
        "n_features": loaded.n_features,
        "n_components": loaded.n_components,
        **({} if spectrum is None else spectrum._asdict()),
        "parameters": dict(loaded.parameters),
        "facts": dict(loaded.facts),
    }
    if base is not None:
        from nearfold.cli.console import showing_progress
        from nearfold.cli.inputs import read_base_and_queries
        from nearfold.evaluation.inspection import inspect as run

        with showing_progress(quiet or as_json):
            vectors, asked = read_base_and_queries(
                base, queries, column, loaded.metric == "cosine", n_queries=n_queries, seed=seed
            )
            inspection = run(loaded, vectors, asked, k)
        if report is not None:
            from nearfold.report.inspection import inspection_page
            from nearfold.report.provenance import command_line, provenance

            page = inspection_page(inspection, encoder.name, provenance(vectors, asked), command_line())
            page.write(report)
        results["data"] = {"base": str(base), **inspection.as_dict()}
    if as_json:
        print_json({**results, "card": loaded.card()})
        return
    flat = {f"parameters.{name}": value for name, value in loaded.parameters.items()}
    flat |= {f"facts.{name}": value for name, value in readable_facts(loaded).items()}
    print_mapping(
        {name: v for name, v in results.items() if name not in ("parameters", "facts", "data")} | flat
    )
    if base is None:
        from rich.markdown import Markdown

        from nearfold.cli.console import output

        output().print(Markdown(loaded.card().partition("## How it was learned")[0]))
    else:
        _print_inspection(inspection)


def _print_inspection(inspection: Inspection) -> None:
    import numpy as np

    from nearfold.cli.console import interval, output, print_mapping

    console = output()
    console.print()
    rows: dict[str, Any] = {f"recall@{k}": interval(v) for k, v in inspection.evaluation.recall.items()}
    for name, ratios in inspection.distortion._asdict().items():
        low, middle, high = np.quantile(ratios, [0.01, 0.5, 0.99]) if len(ratios) else (np.nan,) * 3
        rows[f"|Wd|/|d|, {name} pairs"] = f"{middle:.3f} (1% to 99%: {low:.3f} to {high:.3f})"
    if inspection.spectrum is not None:
        s = inspection.spectrum
        rows["Rayleigh interval"] = f"{s.sigma_min:.3f} to {s.sigma_max:.3f}, kappa {s.kappa:.3g}"
    if inspection.angles is not None and inspection.null_energy is not None:
        widest, middle = np.degrees([inspection.angles.max(), np.median(inspection.angles)])
        rows["energy dropped"] = f"{inspection.null_energy:.1%}"
        rows["distance from orthogonal rows"] = f"{inspection.gram_distance:.3f}"
        rows["angles to principal axes"] = f"median {middle:.1f}, widest {widest:.1f} degrees"
    if inspection.bounds is not None:
        proven, candidates = inspection.bounds
        rows[f"proven of each top {inspection.k}"] = f"{proven.mean():.2f}"
        rows["rows a certified re-rank reads"] = (
            f"{candidates.mean():,.0f} of {inspection.rows:,} ({candidates.mean() / inspection.rows:.1%})"
        )
    print_mapping(rows)
