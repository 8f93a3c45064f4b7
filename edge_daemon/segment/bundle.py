"""The sealed engine bundle: everything that decides what an engine sees, in one folder, under one hash.

    engines/<name>/
      manifest.json      what it is, what it takes, what it was qualified for; SHA-256 of every other file; its seal
      model.onnx         the network, weights inside
      labels.json        {"types": [...]}, equal to the manifest's
      thresholds.json    from logits to labels: calibration, hysteresis, unknown, image gate
      certificate.json   what was measured on parts it was never trained on
      card.md            the same for people, with limits
      signature.json     who answers for it, where somebody signed (``edge_daemon/signing.py``); not under the seal

``load`` opens each file once, hashes those bytes and hands on those bytes: what was verified is what runs. Nothing else
may lie in the folder, so a TensorRT plan (built per device) lives in a cache outside it. The seal finds any changed
byte; where a replaced bundle must not go unnoticed, ask for a signature, or pin ``Bundle.sha256``.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError, IntegrityError
from ..records import TYPE_IDS, UNKNOWN_TYPE
from ..signing import SIGNATURE, Trust
from .onnx_bytes import NotOnnxError, external_tensors
from .prepare import VIEWS
from .reader import Reader
from .sealed import open_document, parse_json, seal_document, sha256_hex, write_atomically
from .texture import TEXTURE_KEYS, TEXTURE_PLANES, Texture, texture_from

__all__ = ["FILES", "MANIFEST", "POLARITIES", "Bundle", "InputSpec", "Qualified", "Thresholds", "load", "seal"]

MANIFEST = "manifest.json"
FILES = ("model.onnx", "labels.json", "thresholds.json", "certificate.json", "card.md")

#: Which way a void deviates from sound material; ``none`` where the question makes no sense (a surface picture).
POLARITIES = ("bright_void", "dark_void", "none")

_SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_MAX_BYTES = {"model.onnx": 2**30}
_MAX_BYTES_OTHER = 2**26
_MAX_TYPES = 254  # a label is one byte; 0 is sound and 255 unknown


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the network takes: tensor ``name``, float32 (N, len(views), H, W), sides multiples of ``multiple_of_px``
    and at most ``tile_px``; larger pictures are tiled with ``overlap_px``."""

    name: str
    views: tuple[str, ...]
    local_sigma_px: float
    tile_px: int
    overlap_px: int
    multiple_of_px: int

    @property
    def smallest_px(self) -> int:
        """Shortest side of a picture that can be judged: one stride of the network, and two sigma of background."""
        return max(self.multiple_of_px, math.ceil(2 * self.local_sigma_px))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From logits to labels. coverage = sigmoid(defect / temperature + bias).

    seed, grow: hysteresis on coverage, 0 < grow <= seed < 1. min_region_px: smaller regions are dropped.
    unknown_alpha: a region is unknown if its conformal p is below it. known_scores: per type, ascending, in [0, 1],
    1 - (mean softmax of the type) of known regions never trained on; empty where there were none.
    type_seeds: a region of a type (``unknown``: of none; without that key its nearest type's) is dropped unless a pixel
    of it reaches that coverage; where one threshold would be too low for some and too high for others.
    texture: what the surroundings of known types look like; with it the known scores are its strangeness.
    min_contrast: of the grey range [0, 1], between the 0.5 % and 99.5 % quantiles. max_clipped_pct: of the pixels.
    """

    temperature: float
    bias: float
    seed: float
    grow: float
    min_region_px: int
    unknown_alpha: float
    known_scores: Mapping[str, tuple[float, ...]]
    min_contrast: float
    max_clipped_pct: float
    type_seeds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    texture: Texture | None = None

    def can_be_unknown(self, type_name: str) -> bool:
        """Whether any region predicted as ``type_name`` could be called unknown at all.

        The smallest p-value that n calibration scores allow is 1 / (n + 1); with too few scores it never falls below
        alpha, and unknown defects that look like this type pass as known.
        """
        return 1.0 / (len(self.known_scores.get(type_name, ())) + 1) < self.unknown_alpha


@dataclass(frozen=True, slots=True)
class Qualified:
    """What the engine was trained and tested for: scale range in mm per px, polarity, bits per pixel (8, 16)."""

    mm_per_px: tuple[float, float]
    polarity: str
    bits: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified bundle. sha256: of the manifest's bytes, and so of everything. Compared by identity.

    groups: types it cannot tell apart from a single view; a type stands in at most one. type_stride_px: the type logits
    have one value for a square of so many pixels a side. stranger: there is one plane of type logits more than types,
    for defects of no type that it learned. has_texture: after those come the planes of the filter bank (``texture``),
    which are no logits. model_bytes: the ONNX model whose hash was checked; runtimes load these
    bytes, never the file again. manifest: all keys as sealed, read-only at the top level.
    """

    name: str
    version: str
    types: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    input: InputSpec
    defect_output: str
    type_output: str
    type_stride_px: int
    stranger: bool
    has_texture: bool
    thresholds: Thresholds
    qualified: Qualified
    sha256: str
    model_sha256: str
    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)
    certificate: Mapping[str, Any] = field(repr=False)
    model_bytes: bytes = field(repr=False)

    @property
    def type_planes(self) -> int:
        """Planes of the type output: logits for each type, and for strangers where there are; then the filter bank."""
        return self.logit_planes + (TEXTURE_PLANES if self.has_texture else 0)

    @property
    def logit_planes(self) -> int:
        """Planes of type logits: one for each type, and one for strangers where there is one."""
        return len(self.types) + self.stranger

    def alike(self, type_name: str) -> tuple[str, ...]:
        """The types, this one included, that this engine cannot tell apart from a single view."""
        return next((group for group in self.groups if type_name in group), (type_name,))

    def edge_px(self, type_name: str) -> tuple[float, float] | None:
        """(bias, spread) of the place of this type's edges in px, as certified; None where nobody measured them."""
        try:
            figures = self.certificate["edge_px"][type_name]
            bias, spread = float(figures["bias"]), float(figures["std"])
        except (KeyError, TypeError, ValueError):
            return None
        return (bias, spread) if math.isfinite(bias) and math.isfinite(spread) and spread >= 0 else None


def seal(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Write ``folder/manifest.json`` with the hashes of the other files, and return the bundle's SHA-256.

    Everything ``load`` would refuse is refused here first, before anything is written; an older manifest is replaced.
    Raises ConfigError (content), IntegrityError (wrong set of files, links), StorageError.
    """
    reserved = sorted({"files", "seal"} & set(manifest))
    if reserved:
        raise ConfigError(f"{folder / MANIFEST}: key '{reserved[0]}' is written by sealing", hint="leave it out")
    members = _read_folder(folder, needs_manifest=False)
    members.pop(MANIFEST, None)
    document = {**manifest, "files": {name: sha256_hex(members[name]) for name in FILES}}
    data = seal_document(document, str(folder / MANIFEST))
    sealed = _parse(folder, data, open_document(data, str(folder / MANIFEST)), members)
    write_atomically(folder / MANIFEST, data)
    return sealed.sha256


def load(folder: Path, *, expect_sha256: str | None = None, trust: Trust | None = None) -> Bundle:
    """Read and verify a sealed bundle.

    expect_sha256: the hash a recipe pins; another bundle is refused even if it is sealed well.
    trust: whose signature is asked for; looked at before the content of any file but the manifest.
    Raises ConfigError: no such folder, or content this version cannot use. IntegrityError: a file missing, extra,
    changed or linked, a broken seal, a name that leaves the folder, weights outside the model, and what ``Trust.check``
    refuses. Both name the file.
    """
    members = _read_folder(folder, needs_manifest=True)
    data = members.pop(MANIFEST)
    manifest = open_document(data, str(folder / MANIFEST))
    if trust is not None:
        trust.check("engine", folder / SIGNATURE, sha256_hex(data))
    _check_hashes(folder, manifest, members)
    bundle = _parse(folder, data, manifest, members)
    if expect_sha256 is not None and bundle.sha256 != expect_sha256:
        raise IntegrityError(
            f"engine bundle {folder} has SHA-256 {bundle.sha256}, not the pinned {expect_sha256}",
            hint="install the bundle that the recipe names, or qualify this one and pin its hash",
        )
    return bundle


def _read_folder(folder: Path, *, needs_manifest: bool) -> dict[str, bytes]:
    """Name -> bytes of the folder's files, each opened once, relative to the folder as it was opened."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"engine bundle {folder} cannot be opened: {error.strerror}", hint="see `edge-daemon engine list`"
        ) from None
    try:
        present = set(os.listdir(handle))
        wanted = {*FILES, MANIFEST} if needs_manifest else set(FILES)
        for name in sorted(wanted - present):
            raise IntegrityError(f"{folder / name} is missing", hint="restore the bundle from its original")
        for name in sorted(present - set(FILES) - {MANIFEST, SIGNATURE}):
            raise IntegrityError(f"{folder / name} does not belong to the bundle", hint="move it elsewhere")
        return {name: _read_member(handle, folder, name) for name in sorted(present - {SIGNATURE})}
    finally:
        os.close(handle)


def _read_member(handle: int, folder: Path, name: str) -> bytes:
    try:
        # O_NONBLOCK so that a FIFO under this name cannot hold the daemon up.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=handle)
    except OSError as error:
        raise IntegrityError(
            f"{folder / name} cannot be read: {error.strerror}", hint="a bundle holds plain readable files, no links"
        ) from None
    limit = _MAX_BYTES.get(name, _MAX_BYTES_OTHER)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{folder / name} is not a plain file", hint="a bundle holds plain files only")
    with open(descriptor, "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise IntegrityError(f"{folder / name} is larger than {limit} bytes", hint="this is not an engine bundle")
    return data


def _check_hashes(folder: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise IntegrityError(f"{folder / MANIFEST}: no 'files'", hint="seal the bundle")
    for name in sorted(files):
        if name not in FILES:
            raise IntegrityError(f"{folder / MANIFEST}: lists {name!r}", hint=f"a bundle holds {', '.join(FILES)}")
    for name in FILES:
        if files.get(name) != sha256_hex(members[name]):
            raise IntegrityError(
                f"{folder / name} was changed after it was sealed", hint="restore the bundle from its original"
            )


def _parse(folder: Path, data: bytes, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> Bundle:
    reader = Reader(manifest, str(folder / MANIFEST))
    if reader.whole("schema", 1, 2**31) != _SCHEMA:
        raise ConfigError(
            f"{folder / MANIFEST}: schema {manifest['schema']}, this version reads {_SCHEMA}",
            hint="update edge-daemon, or export the bundle for this version",
        )
    name = reader.text("name")
    if not _NAME.match(name):
        raise reader.wrong("name", name, "lower-case letters, digits, '.', '_' and '-'")
    types = _parse_types(reader)
    groups = _parse_groups(reader, types)
    spec = _parse_input(reader.sub("input"))
    outputs = reader.sub("output")
    defect_output, type_output = outputs.text("defect"), outputs.text("type")
    type_stride_px = outputs.whole("type_stride_px", 1, 64) if "type_stride_px" in outputs.document else 1
    if spec.multiple_of_px % type_stride_px:
        raise outputs.wrong("type_stride_px", type_stride_px, f"a divisor of multiple_of_px = {spec.multiple_of_px}")
    stranger, has_texture = (_flag(outputs, key) for key in ("stranger", "texture"))
    outputs.done()
    version = reader.text("version")
    for key in ("created_utc", "licence"):
        reader.text(key)
    for key in ("trained_on", "software", "files"):
        reader.any(key)
    qualified = _parse_qualified(reader.sub("qualified"))
    reader.done()

    _check_labels(_json_member(folder, members, "labels.json"), types)
    certificate = _json_member(folder, members, "certificate.json").document
    _check_card(folder / "card.md", members["card.md"])
    _check_model(folder / "model.onnx", members["model.onnx"])
    thresholds = _parse_thresholds(_json_member(folder, members, "thresholds.json"), types)
    if thresholds.texture is not None and not has_texture:
        raise ConfigError(
            f"{folder / 'thresholds.json'} holds a texture, and the network answers none",
            hint="export the network with its filter bank, or leave the texture out",
        )
    return Bundle(
        name=name,
        version=version,
        types=types,
        groups=groups,
        input=spec,
        defect_output=defect_output,
        type_output=type_output,
        type_stride_px=type_stride_px,
        stranger=stranger,
        has_texture=has_texture,
        thresholds=thresholds,
        qualified=qualified,
        sha256=sha256_hex(data),
        model_sha256=sha256_hex(members["model.onnx"]),
        folder=folder.absolute(),
        manifest=MappingProxyType(dict(manifest)),
        certificate=MappingProxyType(dict(certificate)),
        model_bytes=members["model.onnx"],
    )


def _flag(reader: Reader, key: str) -> bool:
    """An optional true or false."""
    value = reader.any(key) if key in reader.document else False
    if not isinstance(value, bool):
        raise reader.wrong(key, value, "true or false")
    return value


def _parse_types(reader: Reader) -> tuple[str, ...]:
    types = tuple(reader.texts("types"))
    for name in types:
        if name not in TYPE_IDS:
            raise reader.wrong("types", name, f"one of {', '.join(TYPE_IDS)}")
    if not 1 <= len(types) <= _MAX_TYPES or len(set(types)) != len(types):
        raise reader.wrong("types", list(types), f"1 to {_MAX_TYPES} different type identifiers")
    return types


def _parse_groups(reader: Reader, types: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The optional key ``groups``: lists of two or more of the types, none of them in two lists."""
    if "groups" not in reader.document:
        return ()
    groups = reader.any("groups")
    wanted = "lists of at least two of its types, each type in one list at most"
    if not isinstance(groups, list) or not all(isinstance(group, list) and len(group) > 1 for group in groups):
        raise reader.wrong("groups", groups, wanted)
    members = [name for group in groups for name in group]
    if not set(members) <= set(types) or len(set(members)) != len(members):
        raise reader.wrong("groups", groups, wanted)
    return tuple(tuple(group) for group in groups)


def _parse_input(reader: Reader) -> InputSpec:
    views = tuple(reader.texts("views"))
    if not views or len(set(views)) != len(views) or not set(views) <= set(VIEWS):
        raise reader.wrong("views", list(views), f"different views out of {', '.join(VIEWS)}")
    multiple_of_px = reader.whole("multiple_of_px", 1, 256)
    spec = InputSpec(
        name=reader.text("name"),
        views=views,
        local_sigma_px=reader.number("local_sigma_px", 0.5, 200.0),
        tile_px=reader.whole("tile_px", multiple_of_px, 8192),
        overlap_px=reader.whole("overlap_px", 0, 4096),
        multiple_of_px=multiple_of_px,
    )
    # Tiles start at multiples of multiple_of_px, so that a strided network sees each pixel in the phase it would have
    # in an untiled picture; and a pixel in more than two tiles per axis would need another blending.
    if spec.tile_px % multiple_of_px:
        raise reader.wrong("tile_px", spec.tile_px, f"a multiple of multiple_of_px = {multiple_of_px}")
    if spec.overlap_px % multiple_of_px or 2 * spec.overlap_px > spec.tile_px:
        raise reader.wrong("overlap_px", spec.overlap_px, f"a multiple of {multiple_of_px}, at most half of tile_px")
    reader.done()
    return spec


def _parse_qualified(reader: Reader) -> Qualified:
    scale = reader.numbers("mm_per_px", 1e-6, 100.0)
    if len(scale) != 2 or scale[0] > scale[1]:
        raise reader.wrong("mm_per_px", scale, "[smallest, largest] in mm per px")
    polarity = reader.text("polarity")
    if polarity not in POLARITIES:
        raise reader.wrong("polarity", polarity, f"one of {', '.join(POLARITIES)}")
    bits = reader.numbers("bits", 8, 16)
    if not bits or not set(bits) <= {8, 16} or len(set(bits)) != len(bits):
        raise reader.wrong("bits", bits, "[8], [16] or [8, 16]")
    reader.done()
    return Qualified((scale[0], scale[1]), polarity, tuple(int(value) for value in bits))


def _parse_thresholds(reader: Reader, types: tuple[str, ...]) -> Thresholds:
    seed = reader.number("seed", 1e-6, 1.0 - 1e-6)
    scores_reader = reader.sub("known_scores")
    scores: dict[str, tuple[float, ...]] = {}
    for name in types:
        if name in scores_reader.document:
            values = scores_reader.numbers(name, 0.0, 1.0)
            if sorted(values) != values:
                raise scores_reader.wrong(name, "unsorted numbers", "ascending numbers")
            scores[name] = tuple(values)
    scores_reader.done()
    seeds: dict[str, float] = {}
    if "type_seeds" in reader.document:
        seeds_reader = reader.sub("type_seeds")
        seeds = {
            name: seeds_reader.number(name, seed, 1.0 - 1e-6)
            for name in (*types, UNKNOWN_TYPE)
            if name in seeds_reader.document
        }
        seeds_reader.done()
    texture = None
    if "texture" in reader.document:
        texture_reader = reader.sub("texture")
        texture = texture_from({key: texture_reader.any(key) for key in TEXTURE_KEYS}, len(types))
        texture_reader.done()
        if texture is None:
            raise reader.wrong("texture", "...", f"{', '.join(TEXTURE_KEYS)} of finite numbers for {len(types)} types")
    gate = reader.sub("gate")
    thresholds = Thresholds(
        temperature=reader.number("temperature", 1e-3, 1e3),
        bias=reader.number("bias", -1e3, 1e3),
        seed=seed,
        grow=reader.number("grow", 1e-6, seed),
        min_region_px=reader.whole("min_region_px", 1, 2**31),
        unknown_alpha=reader.number("unknown_alpha", 1e-6, 1.0 - 1e-6),
        known_scores=MappingProxyType(scores),
        type_seeds=MappingProxyType(seeds),
        min_contrast=gate.number("min_contrast", 0.0, 1.0),
        max_clipped_pct=gate.number("max_clipped_pct", 0.0, 100.0),
        texture=texture,
    )
    gate.done()
    reader.done()
    return thresholds


def _check_labels(reader: Reader, types: tuple[str, ...]) -> None:
    labels = reader.texts("types")
    reader.done()
    if tuple(labels) != types:
        raise reader.wrong("types", labels, f"the manifest's {list(types)}")


def _check_card(path: Path, data: bytes) -> None:
    try:
        empty = not data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="write the card as Markdown in UTF-8") from None
    if empty:
        raise ConfigError(f"{path} is empty", hint="say what the engine was trained on and what it cannot do")


def _check_model(path: Path, data: bytes) -> None:
    try:
        outside = external_tensors(data)
    except NotOnnxError as error:
        raise ConfigError(f"{path} is no ONNX model: {error}", hint="export the network again") from None
    if outside:
        raise IntegrityError(
            f"{path}: weights of {outside[0]!r} lie in another file",
            hint="save the model in one file (onnx.save without save_as_external_data)",
        )


def _json_member(folder: Path, members: Mapping[str, bytes], name: str) -> Reader:
    try:
        document = parse_json(members[name])
    except ValueError as error:
        raise ConfigError(f"{folder / name} is not JSON: {error}", hint="write strict JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{folder / name} is not a JSON object", hint="write {...}")
    return Reader(document, str(folder / name))
