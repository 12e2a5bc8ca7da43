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

__all__ = ["onnx_model", "write_onnx"]

# ReduceL2 takes its axes as an input since 18; runtimes from 2023 on know it.
_OPSET = 18
_IR_VERSION = 8
# The smallest norm that is divided by: zero rows stay zero.
_LEAST_NORM = 1e-30


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
    graph = _Graph(onnx, half)
    if isinstance(fold, Encoder):
        folded = graph.linear("vectors", fold.weight, fold.bias)
    elif isinstance(fold, MLPEncoder):
        folded = "vectors"
        for number, (weight, bias) in enumerate(fold.layers):
            if number:
                folded = graph.node("Relu", folded)
            folded = graph.linear(folded, weight, bias)
        if fold.skip is not None:
            folded = graph.node("Add", folded, graph.linear("vectors", fold.skip, None))
    else:
        raise ParameterError(f"a {type(fold).__name__} can't be exported as ONNX")
    if normalized(fold, normalize):
        axes = graph.constant(np.array([1], np.int64))
        norms = graph.node("ReduceL2", folded, axes, keepdims=1)
        least = graph.constant(np.array(_LEAST_NORM, np.float32))
        folded = graph.node("Div", folded, graph.node("Max", norms, least))
    kinds = onnx.TensorProto
    graph.node("Cast", folded, output="folded", to=kinds.FLOAT16 if half else kinds.FLOAT)
    helper = onnx.helper
    shape = ["batch", fold.n_features], ["batch", fold.n_components]
    made = helper.make_graph(
        graph.nodes,
        "fold",
        [helper.make_tensor_value_info("vectors", kinds.FLOAT, shape[0])],
        [helper.make_tensor_value_info("folded", kinds.FLOAT16 if half else kinds.FLOAT, shape[1])],
        graph.constants,
    )
    model = helper.make_model(
        made,
        producer_name="nearfold",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, {"nearfold.method": fold.method, "nearfold.metric": fold.metric})
    onnx.checker.check_model(model, full_check=True)
    return model


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


class _Graph:
    """The nodes and constants of a model, collected in the order in which they are made."""

    def __init__(self, onnx: Any, half: bool) -> None:
        self._onnx, self._half = onnx, half
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def linear(self, vectors: str, weight: Any, bias: Any | None) -> str:
        product = self.node("MatMul", vectors, self._weight(weight.T))
        return product if bias is None else self.node("Add", product, self._weight(bias))

    def _weight(self, array: Any) -> str:
        if not self._half:
            return self.constant(np.ascontiguousarray(array))
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, np.float16)
        if not np.isfinite(stored).all():
            raise ParameterError("a weight is beyond float16; export without half")
        return self.node("Cast", self.constant(stored), to=self._onnx.TensorProto.FLOAT)
