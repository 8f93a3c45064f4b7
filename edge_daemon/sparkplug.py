"""Sparkplug B payloads: metrics as protobuf bytes and back, by the field numbers that the specification publishes.

The message classes are made at run time from a description of those fields, so that no generated code ties the product
to one version of the protobuf runtime (extra ``sparkplug``). Only what this product says or hears is described: plain
values, no data sets, no templates; unknown fields in what comes in are skipped, as protobuf does.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import MissingExtra, UsageError

__all__ = ["MAX_PAYLOAD_BYTES", "DataType", "Metric", "Payload", "decode", "encode", "require_protobuf"]

#: Largest payload that is looked at; a command is a few dozen bytes.
MAX_PAYLOAD_BYTES = 65536


class DataType:
    """Numbers of the types used here (Sparkplug 3.0, Metric.datatype)."""

    INT64 = 4
    UINT64 = 8
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATE_TIME = 13


#: Field name, number, protobuf type (its number in descriptor.proto), oneof.
_METRIC_FIELDS: tuple[tuple[str, int, str, bool], ...] = (
    ("name", 1, "STRING", False),
    ("alias", 2, "UINT64", False),
    ("timestamp", 3, "UINT64", False),
    ("datatype", 4, "UINT32", False),
    ("is_historical", 5, "BOOL", False),
    ("is_transient", 6, "BOOL", False),
    ("is_null", 7, "BOOL", False),
    ("int_value", 10, "UINT32", True),
    ("long_value", 11, "UINT64", True),
    ("float_value", 12, "FLOAT", True),
    ("double_value", 13, "DOUBLE", True),
    ("boolean_value", 14, "BOOL", True),
    ("string_value", 15, "STRING", True),
    ("bytes_value", 16, "BYTES", True),
)
_VALUE_FIELD = {
    DataType.INT64: "long_value",
    DataType.UINT64: "long_value",
    DataType.DATE_TIME: "long_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One value. name: only in births and where there is no alias. timestamp_ms: UTC since 1970.

    value: None is sent as ``is_null``. historical: it did not happen now.
    """

    name: str | None
    datatype: int
    value: Value
    timestamp_ms: int
    alias: int | None = None
    historical: bool = False


@dataclass(frozen=True, slots=True)
class Payload:
    """timestamp_ms: of sending. seq: 0 to 255; None in an NDEATH and in commands."""

    timestamp_ms: int | None
    seq: int | None
    metrics: tuple[Metric, ...]


def require_protobuf() -> None:
    """Raises MissingExtra where the protobuf runtime is not installed."""
    try:
        importlib.import_module("google.protobuf.message_factory")
    except ImportError:
        raise MissingExtra("Sparkplug B", "sparkplug") from None


@functools.cache
def _payload_class() -> Any:
    require_protobuf()
    pb2 = importlib.import_module("google.protobuf.descriptor_pb2")
    kind = pb2.FieldDescriptorProto
    file = pb2.FileDescriptorProto(name="edge_sparkplug_b.proto", package="edge.sparkplug", syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for name, number, type_name, in_value in _METRIC_FIELDS:
        added = metric.field.add(name=name, number=number, type=kind.Type.Value(f"TYPE_{type_name}"), label=1)
        if in_value:
            added.oneof_index = 0
    payload.field.add(name="timestamp", number=1, type=kind.TYPE_UINT64, label=1)
    payload.field.add(
        name="metrics", number=2, type=kind.TYPE_MESSAGE, label=3, type_name=".edge.sparkplug.Payload.Metric"
    )
    payload.field.add(name="seq", number=3, type=kind.TYPE_UINT64, label=1)
    pool = importlib.import_module("google.protobuf.descriptor_pool").DescriptorPool()
    pool.Add(file)
    factory = importlib.import_module("google.protobuf.message_factory")
    return factory.GetMessageClass(pool.FindMessageTypeByName("edge.sparkplug.Payload"))


def encode(metrics: Iterable[Metric], *, timestamp_ms: int | None, seq: int | None) -> bytes:
    """The bytes of a payload. Integers below zero are sent in two's complement, as the specification asks."""
    message = _payload_class()()
    if timestamp_ms is not None:
        message.timestamp = timestamp_ms
    if seq is not None:
        message.seq = seq
    for one in metrics:
        added = message.metrics.add(timestamp=one.timestamp_ms, datatype=one.datatype)
        if one.name is not None:
            added.name = one.name
        if one.alias is not None:
            added.alias = one.alias
        if one.historical:
            added.is_historical = True
        if one.value is None or (isinstance(one.value, float) and not math.isfinite(one.value)):
            added.is_null = True
        else:
            field = _VALUE_FIELD[one.datatype]
            value = int(one.value) % 2**64 if field == "long_value" else one.value
            setattr(added, field, value)
    return bytes(message.SerializeToString())


def decode(data: bytes) -> Payload:
    """What somebody else sent. Raises UsageError for bytes that are no payload, or too many of them."""
    if len(data) > MAX_PAYLOAD_BYTES:
        raise UsageError(f"a Sparkplug payload of {len(data)} bytes", hint=f"at most {MAX_PAYLOAD_BYTES}")
    message = _payload_class()()
    error_class = importlib.import_module("google.protobuf.message").DecodeError
    try:
        message.ParseFromString(data)
    except (error_class, ValueError):  # upb: DecodeError; the pure Python runtime also ValueError
        raise UsageError("not a Sparkplug B payload", hint="protobuf, by the specification's fields") from None
    metrics = tuple(
        Metric(
            name=one.name if one.HasField("name") else None,
            datatype=int(one.datatype),
            value=None if one.is_null else _value(one),
            timestamp_ms=int(one.timestamp),
            alias=int(one.alias) if one.HasField("alias") else None,
            historical=bool(one.is_historical),
        )
        for one in message.metrics
    )
    return Payload(
        timestamp_ms=int(message.timestamp) if message.HasField("timestamp") else None,
        seq=int(message.seq) if message.HasField("seq") else None,
        metrics=metrics,
    )


def _value(metric: Any) -> Value:
    field = metric.WhichOneof("value")
    if field is None or field == "bytes_value":
        return None
    value: Value = getattr(metric, field)
    if metric.datatype == DataType.INT64 and isinstance(value, int) and value >= 2**63:
        return value - 2**64
    return value
