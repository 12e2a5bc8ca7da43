"""Folds as ONNX models: linear folds and networks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nearfold._utils.extras import import_extra
from nearfold._utils.files import replacing
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.folds.mlp import MLPEncoder
from nearfold.integrations.linear import normalized

__all__ = ["Graph", "onnx_model", "write_onnx"]

# ReduceL2 takes its axes as an input since 18; runtimes from 2023 on know it.
_OPSET = 18
_IR_VERSION = 8
# The smallest norm that is divided by: zero rows stay zero.
_LEAST_NORM = 1e-30

# The most bytes of a constant that is looked for among those that are there.
_SMALL = 4096


def onnx_model(fold: Fold, *, normalize: bool | None = None, half: bool = False) -> Any:
    """Return a fold as an ONNX model.

    Its input `vectors` has shape (batch, d) and type float32, for a batch of any size. Its output `folded`
    has shape (batch, m).

    Parameters
    ----------
    fold : Encoder or MLPEncoder
        A fitted fold from d to m dimensions.
    normalize : bool, optional
        Whether to scale folded vectors to norm 1; zero rows stay zero. The default is to do so where they are
        searched by cosine.
    half : bool, default=False
        Whether to store weights as float16 and to return float16. The arithmetic stays float32.

    Returns
    -------
    onnx.ModelProto
        A model of IR version 8 and operator set 18, which runtimes from 2023 on can run.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    ParameterError
        A weight is beyond float16.
    """
    onnx = import_extra("onnx", "onnx", "exporting to ONNX")
    graph = Graph(onnx, half=half)
    folded = graph.folded("vectors", fold)
    if normalized(fold, normalize):
        folded = graph.normalized(folded)
    kinds = onnx.TensorProto
    kind = kinds.FLOAT16 if half else kinds.FLOAT
    graph.node("Cast", folded, output="folded", to=kind)
    facts = {"nearfold.method": fold.method, "nearfold.metric": fold.metric}
    return graph.model("fold", fold.n_features, ("folded", kind, fold.n_components), facts)


def write_onnx(
    fold: Fold, path: str | os.PathLike[str], *, normalize: bool | None = None, half: bool = False
) -> None:
    """Write the model of `onnx_model` to a file, atomically.

    Parameters
    ----------
    fold : Encoder or MLPEncoder
        A fitted fold.
    path : path
        The file to write.
    normalize : bool, optional
        As for `onnx_model`.
    half : bool, default=False
        As for `onnx_model`.

    Raises
    ------
    MissingExtraError, ParameterError
        As `onnx_model` raises them.
    FileError
        The file can't be written.
    """
    model = onnx_model(fold, normalize=normalize, half=half)
    with replacing(path) as file:
        file.write(model.SerializeToString())


class Graph:
    """The nodes and constants of a model, collected in the order in which they are made.

    Parameters
    ----------
    onnx : module
        The package onnx.
    half : bool, default=False
        Whether weights are stored as float16.
    """

    def __init__(self, onnx: Any, *, half: bool = False) -> None:
        self._onnx, self._half = onnx, half
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        """Add an array, and return its name; small ones that are alike become one."""
        stored = np.asarray(array, order="C")
        new = f"constant_{len(self._constants)}"
        if stored.nbytes <= _SMALL:
            name = self._known.setdefault((stored.dtype.str, stored.shape, stored.tobytes()), new)
            if name != new:
                return name
        self._constants.append(self._onnx.numpy_helper.from_array(stored, new))
        return new

    def linear(self, vectors: str, weight: Any, bias: Any | None = None) -> str:
        """Add vectors weight^T + bias."""
        product = self.node("MatMul", vectors, self._weight(weight.T))
        return product if bias is None else self.node("Add", product, self._weight(bias))

    def folded(self, vectors: str, fold: Fold) -> str:
        """Add a fold; raise ParameterError where it is neither linear nor a network."""
        if isinstance(fold, Encoder):
            return self.linear(vectors, fold.weight, fold.bias)
        if not isinstance(fold, MLPEncoder):
            raise ParameterError(f"a {type(fold).__name__} can't be exported as ONNX")
        found = vectors
        for number, (weight, bias) in enumerate(fold.layers):
            if number:
                found = self.node("Relu", found)
            found = self.linear(found, weight, bias)
        return found if fold.skip is None else self.node("Add", found, self.linear(vectors, fold.skip))

    def normalized(self, vectors: str) -> str:
        """Add the scaling of vectors to norm 1; zero rows stay zero."""
        axes = self.constant(np.array([1], np.int64))
        norms = self.node("ReduceL2", vectors, axes, keepdims=1)
        least = self.constant(np.array(_LEAST_NORM, np.float32))
        return self.node("Div", vectors, self.node("Max", norms, least))

    def model(self, name: str, n_features: int, output: tuple[str, int, int], facts: dict[str, str]) -> Any:
        """Return the checked model of float32 `vectors` (batch, n_features).

        Parameters
        ----------
        name : str
            The name of the graph.
        n_features : int
            The dimensions of the vectors.
        output : (str, int, int)
            The name of the output, its type as onnx numbers it, and the length of its rows.
        facts : dict of str to str
            The metadata.
        """
        helper, (result, kind, width) = self._onnx.helper, output
        vectors = helper.make_tensor_value_info(
            "vectors", self._onnx.TensorProto.FLOAT, ["batch", n_features]
        )
        made = helper.make_graph(
            self._nodes,
            name,
            [vectors],
            [helper.make_tensor_value_info(result, kind, ["batch", width])],
            self._constants,
        )
        model = helper.make_model(
            made,
            producer_name="nearfold",
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
        )
        helper.set_model_props(model, facts)
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _weight(self, array: Any) -> str:
        if not self._half:
            return self.constant(array)
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, np.float16)
        if not np.isfinite(stored).all():
            raise ParameterError("a weight is beyond float16; export without half")
        return self.node("Cast", self.constant(stored), to=self._onnx.TensorProto.FLOAT)
