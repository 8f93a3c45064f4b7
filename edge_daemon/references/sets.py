"""A reference set on disk: the graded plates of one discontinuity, read and verified from their manifest.

What is handed out is frozen; the pictures in it are read-only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, EdgeError, IntegrityError, RuleError
from ..images import PICTURE_SUFFIXES
from ..judge import Scale
from ..records import TYPE_IDS, read_only
from ..signing import SIGNATURE, Trust
from .pictures import POLARITIES, load_mask, load_plate

__all__ = ["METALS", "ReferenceImage", "ReferenceSet", "load_reference_set", "read_reference_set", "references_sha256"]

METALS = ("aluminum", "magnesium", "steel", "titanium")

#: Plates of a manifest that lie beside it, and plates it names by a path of their own.
_BESIDE = re.compile(r"([1-8])\.(png|tif|tiff|dcm|dic)\Z")
_ELSEWHERE = re.compile(r"([1-8])\Z")
_MASK = re.compile(r"([1-8])\.mask\.png\Z")
_FORMS = ("film", "digital")

Trouble = Callable[[EdgeError], None]


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """One plate: its level, picture (uint8/uint16, read-only, voids bright) and the SHA-256 of its file.

    mask: bool (H, W), read-only: where the discontinuity exactly is, or None where nobody knows; with its hash.
    """

    level: int
    path: Path
    pixels: NDArray[Any] = field(repr=False)
    sha256: str
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    mask_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """The graded plates of one discontinuity, all at one scale. sha256: of manifest.json, which names every file's.

    images: every level from 1 up without a gap. form: ``film`` or ``digital``, None where unsaid. metrics: what the
    manifest says was measured on the masks, by level. document: the whole manifest.
    """

    folder: Path
    name: str
    discontinuity: str
    metal: str
    scale: Scale
    images: Mapping[int, ReferenceImage]
    sha256: str
    thickness_mm: float | None = None
    licence: str = ""
    edition: str = ""
    form: str | None = None
    polarity: str = "bright_void"
    metrics: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height), the same for every plate."""
        height, width = next(iter(self.images.values())).pixels.shape[:2]
        return width, height

    @property
    def has_masks(self) -> bool:
        """Whether every plate has its exact mask, so that masks may stand in for an engine."""
        return all(image.mask is not None for image in self.images.values())

    def labels(self, level: int) -> NDArray[np.uint8]:
        """The exact mask of a plate as a label image: uint8 (H, W), read-only, 1 where the set's discontinuity is.

        Raises ConfigError for a level or a mask that the set does not have.
        """
        image = self.images.get(level)
        if image is None or image.mask is None:
            raise ConfigError(f"{self.folder}: no exact mask of plate {level}", hint="let the engine measure this set")
        return read_only(image.mask.astype(np.uint8))


def load_reference_set(folder: Path, trust: Trust | None = None) -> ReferenceSet:
    """Read and verify a reference set.

    manifest.json: {"schema": 1, "set", "metal", "thickness_mm", "discontinuity", "mm_per_px", "u_mm_per_px", "licence",
    "files": {"1.png": sha256, ...}}; optional: "levels" (8), "polarity", "bits_stored", "form", "edition", "masks",
    "metrics". A plate elsewhere is named {"1": {"path", "sha256"}}; a relative path starts at the set's folder. Every
    file named must exist with that hash, and every level from 1 to "levels" must be there. Raises IntegrityError (exit
    code 4) for a changed, missing or unnamed picture and for a signature that ``trust`` refuses, before any picture is
    decoded; ConfigError for a manifest that does not make sense.
    """

    def stop(error: EdgeError) -> None:
        raise error

    found = read_reference_set(folder, stop, trust)
    assert found is not None
    return found


def read_reference_set(folder: Path, trouble: Trouble, trust: Trust | None = None) -> ReferenceSet | None:
    """As ``load_reference_set``, but every finding goes to ``trouble``; None where there was any."""
    findings = 0

    def report(error: EdgeError) -> None:
        nonlocal findings
        findings += 1
        trouble(error)

    try:
        document, sha256 = _manifest(folder)
        if trust is not None:
            trust.check("references", folder / SIGNATURE, sha256)
    except EdgeError as error:
        report(error)
        return None
    where = folder / "manifest.json"
    plates = _plates_named(where, document, report)
    masks = _masks_named(where, document, report)
    for name in _unnamed(folder, {*plates.values(), *masks.values()}):
        report(IntegrityError(f"{folder}: {name} is not named in the manifest", hint="restore the reference set"))
    reading = _reading(where, document, report)
    images = {}
    for level, path in sorted(plates.items()):
        image = _image(level, path, document, masks.get(level), reading, report)
        if image is not None:
            images[level] = image
    shapes = sorted({image.pixels.shape for image in images.values()})
    if len(shapes) > 1:
        report(ConfigError(f"{folder}: plates of different sizes {shapes}", hint="one set has one size"))
    for level, image in images.items():
        if image.mask is not None and image.mask.shape != image.pixels.shape[:2]:
            report(ConfigError(f"{folder}: mask of plate {level} is of another size", hint="a mask fits its plate"))
    scale = _scale(where, document, report)
    words = _words(where, document, report)
    if findings:
        return None
    assert scale is not None and words is not None
    return ReferenceSet(
        folder=folder,
        images=images,
        sha256=sha256,
        scale=scale,
        polarity=reading[0],
        metrics=_metrics(document),
        document=document,
        **words,
    )


def references_sha256(references: Mapping[str, ReferenceSet]) -> str | None:
    """One hash over all reference sets of a recipe, by type name; None where there are none."""
    if not references:
        return None
    digest = hashlib.sha256()
    for type_name in sorted(references):
        digest.update(f"{type_name}:{references[type_name].sha256}\n".encode())
    return digest.hexdigest()


# ---- the manifest --------------------------------------------------------------------------------------------------


def _manifest(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "manifest.json"
    try:
        raw = path.read_bytes()
        document = json.loads(raw)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}", hint="restore the reference set") from None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON: {error}", hint="restore the reference set") from None
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise IntegrityError(f"{path}: not a reference manifest of schema 1", hint="restore the reference set")
    return document, hashlib.sha256(raw).hexdigest()


def _plates_named(where: Path, document: Mapping[str, Any], trouble: Trouble) -> dict[int, Path]:
    """Level -> file; complete from 1 to "levels", or trouble."""
    files, levels = document.get("files"), document.get("levels", 8)
    if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= 8:
        trouble(ConfigError(f"{where}: levels = {levels!r}", hint="a whole number from 1 to 8"))
        return {}
    if not isinstance(files, dict) or not files:
        trouble(ConfigError(f"{where}: names no files", hint='"files": {"1.png": "<sha256>", ...}'))
        return {}
    plates: dict[int, Path] = {}
    for name, entry in files.items():
        beside, elsewhere = _BESIDE.match(name), _ELSEWHERE.match(name)
        if beside and isinstance(entry, str):
            level, path = int(beside.group(1)), where.parent / name
        elif elsewhere and isinstance(entry, dict) and isinstance(entry.get("path"), str):
            level, path = int(name), where.parent / entry["path"]
        else:
            trouble(ConfigError(f"{where}: {name!r} is not a level", hint="plates are called 1.png to 8.png"))
            continue
        if level in plates:
            trouble(ConfigError(f"{where}: names two pictures of plate {level}", hint="one picture a level"))
        plates[level] = path
    missing = [str(level) for level in range(1, levels + 1) if level not in plates]
    if missing:
        trouble(
            ConfigError(
                f"{where}: plate {', '.join(missing)} of {levels} is not named", hint="a set is complete from 1 up"
            )
        )
    surplus = [str(level) for level in plates if level > levels]
    if surplus:
        trouble(ConfigError(f"{where}: names plate {', '.join(surplus)}, but has {levels} levels"))
    return plates


def _masks_named(where: Path, document: Mapping[str, Any], trouble: Trouble) -> dict[int, Path]:
    masks = document.get("masks", {})
    if not isinstance(masks, dict):
        trouble(ConfigError(f"{where}: masks make no sense", hint='"masks": {"1.mask.png": "<sha256>", ...}'))
        return {}
    found = {}
    for name in masks:
        match = _MASK.match(name)
        if match is None:
            trouble(ConfigError(f"{where}: {name!r} is no mask", hint="masks are called 1.mask.png to 8.mask.png"))
        else:
            found[int(match.group(1))] = where.parent / name
    return found


def _unnamed(folder: Path, named: Iterable[Path]) -> list[str]:
    """Pictures in the folder that nobody sealed."""
    known = {path.name for path in named if path.parent == folder}
    suffixes = PICTURE_SUFFIXES | {".dcm", ".dic"}
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name not in known)


def _reading(where: Path, document: Mapping[str, Any], trouble: Trouble) -> tuple[str, int | None]:
    """Polarity and stored bits: how pixels are read."""
    polarity, bits = document.get("polarity", "bright_void"), document.get("bits_stored")
    if polarity not in POLARITIES:
        trouble(ConfigError(f"{where}: polarity = {polarity!r}", hint=" or ".join(POLARITIES)))
        polarity = "bright_void"
    if bits is not None and (not isinstance(bits, int) or isinstance(bits, bool) or not 8 <= bits <= 16):
        trouble(ConfigError(f"{where}: bits_stored = {bits!r}", hint="8 to 16"))
        bits = None
    return polarity, bits


def _image(
    level: int, path: Path, document: Mapping[str, Any], mask_path: Path | None, reading: tuple[str, int | None],
    trouble: Trouble,
) -> ReferenceImage | None:  # fmt: skip
    """One plate with its mask, both as sealed; None after trouble."""
    entry = document["files"].get(path.name) or document["files"].get(str(level))
    expected = entry.get("sha256") if isinstance(entry, dict) else entry
    if not path.is_file():
        trouble(IntegrityError(f"{path} is missing", hint="restore the reference set"))
        return None
    mask, mask_sha256 = None, None
    try:
        _check_hash(path, expected, "picture")
        picture = load_plate(path, polarity=reading[0], bits_stored=reading[1])
        if picture.sha256 != expected:
            raise IntegrityError(f"{path} is not the sealed picture", hint="restore the reference set")
        if mask_path is not None:
            if not mask_path.is_file():
                raise IntegrityError(f"{mask_path} is missing", hint="restore the reference set")
            _check_hash(mask_path, document["masks"][mask_path.name], "mask")
            mask, mask_sha256 = load_mask(mask_path)
            if mask_sha256 != document["masks"][mask_path.name]:
                raise IntegrityError(f"{mask_path} is not the sealed mask", hint="restore the reference set")
    except EdgeError as error:
        trouble(error)
        return None
    return ReferenceImage(level, path, picture.pixels, picture.sha256, mask, mask_sha256)


def _check_hash(path: Path, expected: object, what: str) -> None:
    """Before decoding, so that a changed byte reads as a broken seal and not as whatever the decoder makes of it."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror or error}", hint="check the disk") from None
    if found != expected:
        raise IntegrityError(f"{path} is not the sealed {what}", hint="restore the reference set")


def _scale(where: Path, document: Mapping[str, Any], trouble: Trouble) -> Scale | None:
    if "mm_per_px" not in document:
        trouble(ConfigError(f"{where}: mm_per_px is missing", hint="no scale, no verdict"))
        return None
    stated = document["mm_per_px"]
    both = stated if isinstance(stated, list) else [stated, stated]
    u = document.get("u_mm_per_px", 0.0)
    if len(both) != 2 or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (*both, u)):
        trouble(ConfigError(f"{where}: mm_per_px = {stated!r}, u_mm_per_px = {u!r}", hint="numbers, such as 0.1"))
        return None
    try:
        return Scale(float(both[0]), float(both[1]), float(u))
    except (RuleError, OverflowError) as error:
        trouble(ConfigError(f"{where}: {error}", hint="no scale, no verdict"))
        return None


def _words(where: Path, document: Mapping[str, Any], trouble: Trouble) -> dict[str, Any] | None:
    """What the set is, in the field names of ReferenceSet."""
    absent = [key for key in ("set", "metal", "discontinuity") if not isinstance(document.get(key), str)]
    if absent:
        trouble(ConfigError(f"{where}: {absent[0]} is missing", hint="what the set shows must be said"))
        return None
    metal, discontinuity = document["metal"], document["discontinuity"]
    if discontinuity not in TYPE_IDS or metal not in METALS:
        trouble(ConfigError(f"{where}: unknown discontinuity {discontinuity!r} or metal {metal!r}"))
        return None
    thickness, form = document.get("thickness_mm"), document.get("form")
    number = isinstance(thickness, (int, float)) and not isinstance(thickness, bool)
    if thickness is not None and not (number and isfinite(thickness) and thickness > 0):
        trouble(ConfigError(f"{where}: thickness_mm = {thickness!r}", hint="mm, such as 6.35"))
        return None
    if form is not None and form not in _FORMS:
        trouble(ConfigError(f"{where}: form = {form!r}", hint=" or ".join(_FORMS)))
        return None
    return {
        "name": document["set"],
        "metal": metal,
        "discontinuity": discontinuity,
        "thickness_mm": None if thickness is None else float(thickness),
        "licence": str(document.get("licence", "")),
        "edition": str(document.get("edition", "")),
        "form": form,
    }


def _metrics(document: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    metrics = document.get("metrics", {})
    if not isinstance(metrics, dict):
        return {}
    return {int(key): value for key, value in metrics.items() if _ELSEWHERE.match(key) and isinstance(value, dict)}
