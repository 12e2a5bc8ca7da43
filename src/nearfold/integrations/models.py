"""Folds inside saved models of sentence-transformers and model2vec, written without either library.

Models are copied, and never changed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from nearfold._utils.files import cause, check_regular, new_folder, open_regular
from nearfold._utils.schema import Positive, checked_json, checked_values, inside
from nearfold.errors import FileError, ParameterError
from nearfold.folds.fold import Fold, read_safetensors, safetensors_bytes
from nearfold.integrations.linear import linear_only, normalized

__all__ = ["write_model2vec", "write_sentence_transformer"]

T = TypeVar("T")

# More than the settings of any model.
_MOST_JSON = 16 << 20

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

    The copy loads with sentence-transformers alone. The fold becomes a Dense layer, with a Normalize layer
    behind it where folded vectors are to have norm 1.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold that takes the dimensions that the model gives.
    model : path
        The folder of a saved SentenceTransformer, which holds modules.json.
    folder : path
        The folder that the copy is written to. It must not exist yet, or be empty.
    normalize : bool, optional
        Whether to add the Normalize layer. The default is to add it where folded vectors are searched by
        cosine.

    Raises
    ------
    ParameterError
        The fold is a network.
    FileError
        There is no such model, its vectors have other dimensions than the fold takes, or the copy can't be
        written.
    """
    encoder = linear_only(fold, "a sentence-transformers model")
    source = Path(model)
    modules = _json(source, "modules.json", list[dict[str, Any]])
    width = _width(source, modules)
    if width not in (None, encoder.n_features):
        raise FileError(
            f"{source}: the model gives {width} dimensions, the fold takes {encoder.n_features}; fold the "
            f"vectors of this model"
        )
    settings_path = source / "config_sentence_transformers.json"
    settings = _json(source, settings_path.name, dict[str, Any]) if settings_path.exists() else {}
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

    The vector of a text is a weighted mean of token vectors, so folding those folds it. The model becomes
    smaller, and encoding a text takes no further step.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold without bias that takes the dimensions of the token vectors.
    model : path
        The folder of a saved StaticModel.
    folder : path
        The folder that the copy is written to. It must not exist yet, or be empty.

    Raises
    ------
    ParameterError
        The fold is a network or has a bias.
    FileError
        There is no such model, its token vectors have other dimensions than the fold takes or are not floats,
        or the copy can't be written.
    """
    encoder = linear_only(fold, "a model2vec model")
    if encoder.bias is not None:
        raise ParameterError(
            "token vectors are averaged with weights, which a bias doesn't survive; use a fold without"
        )
    source = Path(model)
    config = _json(source, "config.json", dict[str, Any])
    weights = source / "model.safetensors"
    metadata, tensors = read_safetensors(_checked(source, weights))
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


def _roots(model: Path) -> tuple[Path, ...]:
    """Return the folders that a model's files may lie in: its own, and the blobs of a hub's cache."""
    root = model.resolve()
    cache = root.parent.parent
    if root.parent.name == "snapshots" and cache.name.startswith("models--"):
        return root, cache / "blobs"
    return (root,)


def _checked(model: Path, path: Path) -> Path:
    """Return where a file of a model is; refuse what is no file, or is one outside the model."""
    try:
        there = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        said = cause(error) if isinstance(error, OSError) else error
        raise FileError(f"{path}: can't be read: {said}; give the folder of a saved model") from error
    if not any(there.is_relative_to(root) for root in _roots(model)):
        raise FileError(
            f"{path}: is a link out of the model's folder; if you trust it, copy the folder with its "
            f"links followed (cp -rL) and give the copy"
        )
    check_regular(there, str(path))
    return there


def _json(model: Path, name: str, kind: type[T]) -> T:
    path = model / name
    with open_regular(_checked(model, path)) as file:
        content = file.read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise FileError(f"{path}: is larger than any settings of a model; give the folder of a saved model")
    return checked_json(content, kind, str(path), "give the folder of a saved model")


def _copy(source: Path, target: Path) -> None:
    """Copy a model's files; nothing from outside its folder, and nothing that is no file."""

    def refuse(error: OSError) -> None:
        raise FileError(f"{error.filename}: can't be read: {cause(error)}") from error

    for parent, folders, names in os.walk(source, onerror=refuse):
        here = target / Path(parent).relative_to(source)
        here.mkdir(exist_ok=True)
        for name in (*names, *(each for each in folders if (Path(parent) / each).is_symlink())):
            with (
                open_regular(_checked(source, Path(parent) / name)) as file,
                (here / name).open("xb") as copy,
            ):
                shutil.copyfileobj(file, copy)


class _Module(msgspec.Struct):
    """A layer of a sentence-transformers model: what is read of its entry in modules.json."""

    path: str = ""


class _Sizes(msgspec.Struct):
    """What the settings of a layer say of the vectors that it gives."""

    out_features: Positive | None = None
    embedding_dimension: Positive | None = None
    word_embedding_dimension: Positive | None = None


def _width(model: Path, modules: list[dict[str, Any]]) -> int | None:
    """Return the dimensions of a sentence-transformers model's vectors; None where its files don't say."""
    todo = "give the folder of a saved model"
    paths = [checked_values(module, _Module, str(model / "modules.json"), todo).path for module in modules]
    for path in reversed(paths):
        if path and not inside(path):
            raise FileError(f"{model / 'modules.json'}: names {path!r}, which is outside the model; {todo}")
        name = f"{path}/config.json" if path else "config.json"
        if not os.path.lexists(model / name):
            continue
        config = _json(model, name, dict[str, Any])
        sizes = _json(model, name, _Sizes)
        if sizes.out_features is not None:
            return sizes.out_features
        width = sizes.embedding_dimension or sizes.word_embedding_dimension
        if width is not None:
            modes = sum(bool(v) for name, v in config.items() if name.startswith("pooling_mode_"))
            return width * max(1, modes)
    return None
