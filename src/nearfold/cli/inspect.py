"""`nearfold inspect`: what a saved encoder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nearfold.cli.options import AsJson

__all__ = ["inspect"]


def inspect(
    encoder: Annotated[Path, typer.Argument(help="An encoder that `fit` saved.", metavar="ENCODER")],
    as_json: AsJson = False,
) -> None:
    """Tell what an encoder does, how it was learned and how well conditioned it is."""
    from nearfold.cli.console import print_json, print_mapping
    from nearfold.encoder import FORMAT_VERSION, Encoder
    from nearfold.theory.spectrum import spectrum

    loaded = Encoder.load(encoder)
    results: dict[str, Any] = {
        "encoder": str(encoder),
        "format_version": FORMAT_VERSION,
        "method": loaded.method,
        "metric": loaded.metric,
        "n_features": loaded.n_features,
        "n_components": loaded.n_components,
        "bias": loaded.bias is not None,
        **spectrum(loaded.weight)._asdict(),
    }
    if as_json:
        print_json({**results, "parameters": dict(loaded.parameters), "facts": dict(loaded.facts)})
        return
    flat = {f"parameters.{name}": value for name, value in loaded.parameters.items()}
    print_mapping({**results, **flat, **{f"facts.{name}": value for name, value in loaded.facts.items()}})
