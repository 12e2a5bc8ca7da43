"""Advice for files of formats that nearfold does not read, and detection of files under a wrong suffix."""

from __future__ import annotations

from nearfold.errors import FileError
from nearfold.io.location import Location

__all__ = ["advice_for", "other_format"]

_ADVICE = {
    (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"): (
        "is text, which nearfold does not read; read it with pandas or polars and write Parquet with one "
        "list column of float32, or save the vectors as .npy"
    ),
    (".pt", ".pth", ".bin", ".ckpt"): (
        "is a file of torch, which nearfold never unpickles; save the vectors by "
        "np.save('vectors.npy', tensor.float().cpu().numpy())"
    ),
    (".pkl", ".pickle", ".joblib"): (
        "is a pickle, which nearfold never loads; save the vectors by np.save('vectors.npy', array)"
    ),
    (".safetensors",): (
        "holds tensors or a fold, not a table of vectors; save the tensor of the vectors by np.save"
    ),
    (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".tar", ".tgz"): (
        "is packed; unpack it first, or write Parquet, which is packed inside"
    ),
    (".xlsx", ".xls", ".ods", ".orc", ".avro", ".mat", ".rds"): (
        "is of a format that nearfold does not read; write Parquet with one list column of float32, or .npy"
    ),
    (".db", ".sqlite", ".sqlite3", ".duckdb"): (
        "is a database; write Parquet from a query, or use `nearfold migrate` where it takes such a database"
    ),
    (".zarr", ".memmap", ".dat", ".raw"): ("has no header that nearfold reads; save the array by np.save"),
    (".index", ".faiss"): (
        "is an index of faiss; save its vectors by np.save, or name the file they came from"
    ),
    (".hnsw", ".ann", ".annoy", ".usearch"): (
        "is an index; name the file of the vectors that it was made of"
    ),
}

_MAGICS = {
    b"\x93NUMPY": ((".npy",), "an .npy file"),
    b"PK\x03\x04": ((".npz",), "a zip archive (.npz, or one of torch's)"),
    b"PAR1": ((".parquet",), "a Parquet file"),
    b"PARE": ((), "an encrypted Parquet file, which can't be read without its keys"),
    b"ARROW1": ((".arrow", ".feather"), "an Arrow file"),
    b"FEA1": ((".arrow", ".feather"), "a Feather file of version 1"),
    b"\x89HDF\r\n\x1a\n": ((".hdf5", ".h5"), "an HDF5 file"),
    b"SQLite format 3": ((), "a SQLite database"),
    b"\x1f\x8b": ((), "a file packed by gzip"),
    b"\x28\xb5\x2f\xfd": ((), "a file packed by zstd"),
    b"version https://git-lfs": ((), "a pointer of Git LFS (fetch the file itself by `git lfs pull`)"),
    b"<!DOCTYPE": ((), "a web page"),
    b"<html": ((), "a web page"),
}


def advice_for(suffix: str) -> str | None:
    """Return what files of a suffix are and how to convert them, or None for an unknown suffix."""
    return next((told for suffixes, told in _ADVICE.items() if suffix in suffixes), None)


def other_format(location: Location) -> str | None:
    """Return the format that a file's first bytes show, or None if it is unknown or that of its suffix."""
    try:
        with location.open() as file:
            head = file.read(32)
    except (FileError, OSError):
        return None
    for magic, (suffixes, told) in _MAGICS.items():
        if head.startswith(magic):
            return None if location.suffix in suffixes else told
    return None
