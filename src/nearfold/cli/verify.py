"""`nearfold verify`: whether what nearfold wrote is still what it wrote, by every byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nearfold.cli.options import AsJson
from nearfold.cli.paths import Mark

__all__ = ["verify"]


def verify(
    path: Annotated[
        Path,
        typer.Argument(help="An index, a folded folder, a fold, a pipeline or a scan.", metavar="PATH"),
        Mark.reads,
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Where an index's file of full vectors is now, if it was moved."),
        Mark.reads,
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
    from nearfold.errors import ParameterError
    from nearfold.pipeline.verification import verify_file
    from nearfold.scale.folder import verify_folder
    from nearfold.search.saved import MANIFEST, verify_index

    if (path / MANIFEST).exists():
        return {"kind": "index", **verify_index(path, base)._asdict()}
    if base is not None:
        raise ParameterError(f"{path}: --base is for an index, which this is not; leave it out")
    if path.is_dir():
        return {"kind": "folded folder", **verify_folder(path)._asdict()}
    if _is_scan(path):
        return {"kind": "scan", **_verified_scan(path)}
    return verify_file(path)._asdict()


def _is_scan(path: Path) -> bool:
    from nearfold.fold import read_metadata
    from nearfold.scale.state import SCAN_FORMAT

    return read_metadata(path).get("format") == SCAN_FORMAT


def _verified_scan(path: Path) -> dict[str, Any]:
    from nearfold.files import checksum
    from nearfold.scale.state import read_state

    state = read_state(path)
    size, digest = checksum(path)
    return {"rows": state.rows, "done": state.done, "bytes": size, "sha256": digest}
