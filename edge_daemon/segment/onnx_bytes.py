"""What must be known about ONNX bytes before a runtime touches them, without the ``onnx`` package.

ONNX allows weights to live in other files ("external data"). A runtime that is handed verified bytes would then read
the weights from files nobody hashed (ONNX Runtime looks in the working directory). So every tensor of the model,
in every subgraph and function, must hold its data itself.

Source: onnx.proto3 (ONNX 1.16): the field numbers below; the protocol buffer wire format. Not covered: whether the
graph makes sense; the runtime checks that.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["NotOnnxError", "external_tensors"]

# message -> field number -> message that the field holds
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION = 8, 13, 14
_MAX_DEPTH = 64


class NotOnnxError(ValueError):
    """The bytes are no ONNX model."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise NotOnnxError("truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise NotOnnxError(f"wire type {wire}")
        if at + size > len(data):
            raise NotOnnxError("truncated")
        yield key >> 3, data[at : at + size]
        at += size


def _walk(data: memoryview, message: str, depth: int, found: list[str]) -> None:
    if depth > _MAX_DEPTH:
        raise NotOnnxError("nested too deeply")
    name, external = "?", False
    for number, value in _fields(data):
        child = _CHILDREN[message].get(number)
        if child is not None:
            if isinstance(value, int):
                raise NotOnnxError(f"field {number} of {message} is no message")
            _walk(value, child, depth + 1, found)
        elif message == "Tensor":
            if number == _TENSOR_NAME and not isinstance(value, int):
                name = bytes(value).decode("utf-8", "replace")
            external |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_LOCATION and value != 0)
    if external:
        found.append(name)


def external_tensors(model: bytes) -> list[str]:
    """Names of the tensors whose data lies outside ``model``; empty for a self-contained one.

    Raises NotOnnxError when the bytes are not a protocol buffer that holds a graph.
    """
    data = memoryview(model)
    if not any(number == 7 for number, _ in _fields(data)):
        raise NotOnnxError("no graph")
    found: list[str] = []
    _walk(data, "Model", 0, found)
    return found
