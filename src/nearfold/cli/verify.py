"""`nearfold verify`: whether what nearfold wrote is still what it wrote, by every byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nearfold.cli.options import AsJson

__all__ = ["verify"]


def verify(
    path: Annotated[
        Path, typer.Argument(help="An index, a folded folder, a fold, a pipeline or a scan.", metavar="PATH")
    ],
    base: Annotated[
        str | None, typer.Option(help="Where an index's file of full vectors is now, if it was moved.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of what nearfold wrote, and say whether it is whole; exit with 2 if it is not."""
    from nearfold.cli.console import print_json, print_mapping

    results = {"path": str(path), **_verified(path, base)}
    if as_json:
        print_json(results)
    else:
        print_mapping(results)


def _verified(path: Path, base: str | None) -> dict[str, Any]:
    """Return what there is at a path, all of it sound."""
    from nearfold.errors import FileError, ParameterError
    from nearfold.files import checksum
    from nearfold.scale import folder
    from nearfold.search.saved import MANIFEST, verify_index

    if (path / MANIFEST).exists():
        return {"kind": "index", **verify_index(path, base)._asdict()}
    if base is not None:
        raise ParameterError(f"{path}: --base is for an index, which this is not; leave it out")
    if path.is_dir():
        verify_folder = getattr(folder, "verify_folder", None)
        if verify_folder is None:
            raise FileError(f"{path}: holds no {MANIFEST}; give an index")
        return {"kind": "folded folder", **verify_folder(path)._asdict()}
    size, digest = checksum(path)
    return {"kind": _file_kind(path), "bytes": size, "sha256": digest}


def _file_kind(path: Path) -> str:
    """Return what a file holds, after all of it was read and checked."""
    from nearfold.fold import read_safetensors
    from nearfold.pipeline.pipeline import load_any
    from nearfold.scale.state import read_state

    if read_safetensors(path)[0].get("format") == "nearfold.scan":
        read_state(path)
        return "scan"
    return type(load_any(path)).__name__
