"""The bundled sample: real sentence embeddings with their texts."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Sample", "load_sample"]


class Sample(NamedTuple):
    """Vectors with their texts.

    Attributes
    ----------
    vectors
        Shape (5000, 384), float16, norm 1: all-MiniLM-L6-v2 embeddings.
    texts
        "lemma: gloss" of each row, from WordNet 3.0 (LICENSE.wordnet beside this file).
    """

    vectors: npt.NDArray[np.float16]
    texts: list[str]


def load_sample() -> Sample:
    """Return 5,000 WordNet entries, in random order, and their sentence embeddings."""
    folder = resources.files(__name__)
    with resources.as_file(folder / "wordnet.npy") as path:
        vectors = np.load(path, allow_pickle=False)
    return Sample(vectors, (folder / "wordnet.txt").read_text(encoding="utf-8").splitlines())
