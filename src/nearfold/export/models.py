"""Folds inside saved models: sentence-transformers and model2vec, whose files are written without either.

Models are copied, never changed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from nearfold.errors import FileError, ParameterError
from nearfold.export.linear import linear_only, normalized
from nearfold.files import cause, new_folder
from nearfold.fold import Fold, read_safetensors, safetensors_bytes

__all__ = ["write_model2vec", "write_sentence_transformer"]

_DENSE = "sentence_transformers.models.Dense"
_NORMALIZE = "sentence_transformers.models.Normalize"


def write_sentence_transformer(
    fold: Fold,
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    normalize: bool | None = None,
) -> None:
    """Copy a saved sentence-transformers model and add a linear fold as its last layers.

    The result loads with sentence-transformers alone: a Dense layer, and a Normalize layer behind it.

    Parameters
    ----------
    fold
        An `Encoder`.
    model
        The folder of a saved SentenceTransformer, with modules.json.
    folder
        Where the copy goes; it must not be there yet.
    normalize
        Add the Normalize layer; None to do so where folded vectors are searched by cosine.

    Raises
    ------
    ParameterError
        The fold is a network.
    FileError
        There is no such model, its vectors have other dimensions than the fold takes, or the copy can't
        be written.
    """
    encoder = linear_only(fold, "a sentence-transformers model")
    source = Path(model)
    modules = _json(source / "modules.json", list)
    width = _width(source, modules)
    if width not in (None, encoder.n_features):
        raise FileError(
            f"{source}: the model gives {width} dimensions, the fold takes {encoder.n_features}; fold the "
            f"vectors of this model"
        )
    settings_path = source / "config_sentence_transformers.json"
    settings = _json(settings_path, dict) if settings_path.exists() else {}
    if settings.get("truncate_dim"):
        raise FileError(
            f"{settings_path}: truncate_dim is set, so vectors would be cut off after the fold; remove it"
        )
    number = len(modules)
    dense = f"{number}_Dense"
    added: list[dict[str, Any]] = [{"idx": number, "name": str(number), "path": dense, "type": _DENSE}]
    if normalized(fold, normalize):
        number += 1
        added.append({"idx": number, "name": str(number), "path": f"{number}_Normalize", "type": _NORMALIZE})
    tensors = {"linear.weight": encoder.weight}
    if encoder.bias is not None:
        tensors["linear.bias"] = encoder.bias
    config = {
        "in_features": encoder.n_features,
        "out_features": encoder.n_components,
        "bias": encoder.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    with new_folder(folder) as copy:
        _copy(source, copy)
        for module in added:
            (copy / module["path"]).mkdir()
        (copy / dense / "config.json").write_text(json.dumps(config, indent=2))
        (copy / dense / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
        (copy / "modules.json").write_text(json.dumps([*modules, *added], indent=2))


def write_model2vec(fold: Fold, model: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Copy a saved model2vec model with its token vectors folded.

    A text's vector is a weighted mean of token vectors, so folding those folds it: the model gets smaller,
    and nothing is done when texts are encoded.

    Parameters
    ----------
    fold
        An `Encoder` without bias.
    model
        The folder of a saved StaticModel.
    folder
        Where the copy goes; it must not be there yet.

    Raises
    ------
    ParameterError
        The fold is a network or has a bias.
    FileError
        There is no such model, its vectors have other dimensions than the fold takes or are not floats, or
        the copy can't be written.
    """
    encoder = linear_only(fold, "a model2vec model")
    if encoder.bias is not None:
        raise ParameterError(
            "token vectors are averaged with weights, which a bias doesn't survive; use a fold without"
        )
    source = Path(model)
    config = _json(source / "config.json", dict)
    weights = source / "model.safetensors"
    metadata, tensors = read_safetensors(weights)
    embeddings = tensors.get("embeddings")
    if embeddings is None or embeddings.ndim != 2:
        raise FileError(
            f"{weights}: holds no token vectors named embeddings; give a model that model2vec saved"
        )
    if embeddings.dtype.kind != "f":
        raise FileError(
            f"{weights}: token vectors are {embeddings.dtype}; save the model as float16 or float32"
        )
    if embeddings.shape[1] != encoder.n_features:
        raise FileError(
            f"{weights}: token vectors have {embeddings.shape[1]} dimensions, the fold takes "
            f"{encoder.n_features}; fold the vectors of this model"
        )
    folded = encoder.transform(embeddings).astype(embeddings.dtype)
    if not np.isfinite(folded).all():
        raise FileError(
            f"{weights}: a folded token vector is beyond {folded.dtype}; save the model as float32"
        )
    if "hidden_dim" in config:
        config["hidden_dim"] = encoder.n_components
    with new_folder(folder) as copy:
        _copy(source, copy)
        (copy / "model.safetensors").write_bytes(
            safetensors_bytes({**tensors, "embeddings": folded}, metadata)
        )
        (copy / "config.json").write_text(json.dumps(config, indent=4))


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}; give the folder of a saved model") from error
    except ValueError as error:
        raise FileError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise FileError(f"{path}: holds no {kind.__name__}")
    return content


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except shutil.Error as error:
        raise FileError(f"{source}: can't be copied: {error.args[0][0][2]}") from error


def _width(model: Path, modules: list[dict[str, Any]]) -> int | None:
    """Return the dimensions of a sentence-transformers model's vectors; None where its files don't say."""
    for module in reversed(modules):
        path = model / str(module.get("path", "")) / "config.json"
        if not path.exists():
            continue
        config = _json(path, dict)
        if "out_features" in config:
            return int(config["out_features"])
        for key in ("embedding_dimension", "word_embedding_dimension"):
            if key in config:
                modes = sum(bool(v) for name, v in config.items() if name.startswith("pooling_mode_"))
                return int(config[key]) * max(1, modes)
    return None
