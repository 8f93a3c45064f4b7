"""A manifest for a site's own licensed set: the pictures stay where they are, named by path and SHA-256."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, EdgeError, ImageError, StorageError, UsageError
from ..images import PICTURE_SUFFIXES, Picture, make_folder, write_bytes_atomic
from ..judge import Scale
from ..records import TYPE_IDS
from ..resources import data_folder
from .pictures import POLARITIES, is_dicom, load_mask, load_plate
from .sets import METALS, ReferenceSet, load_reference_set

__all__ = ["ImportPlan", "import_set"]

_SUFFIXES = PICTURE_SUFFIXES | {".dcm", ".dic", ""}
_COPIED_AS = {b"\x89PNG": "png", b"II*\0": "tif", b"MM\0*": "tif"}


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What a person says about a set.

    mm_per_px: scale on the part; None reads the spacing from DICOM tags. u_mm_per_px: its standard uncertainty.
    magnification, magnification_u: for a spacing that is at the detector; None takes the tags' own.
    pattern: how the files are called, ``{n}`` standing for the level; any suffix. levels: 5 for sets of five.
    """

    name: str
    metal: str
    thickness_mm: float
    discontinuity: str
    licence: str
    imported_by: str
    polarity: str = "bright_void"
    mm_per_px: float | None = None
    u_mm_per_px: float | None = None
    magnification: float | None = None
    magnification_u: float | None = None
    levels: int = 8
    pattern: str = "{n}"
    form: str = "digital"
    edition: str = ""
    bits_stored: int | None = None
    copy: bool = False


def import_set(source: Path, out: Path, plan: ImportPlan, *, now: datetime | None = None) -> ReferenceSet:
    """Write ``out``/manifest.json for the plates in ``source``; with ``plan.copy`` also copies of the plates.

    Everything is checked before anything is written. Masks called ``1.mask.png`` beside the plates come along (they are
    copied: a mask is the site's own). Raises UsageError or ConfigError for a plan or a set that does not make sense,
    ImageError for a picture or tags that cannot be used, MissingExtra for DICOM without its package.
    """
    _check_plan(plan)
    _check_out(out, source, plan)
    plates = _find_plates(source, plan)
    pictures = {level: load_plate(path, polarity=plan.polarity, bits_stored=plan.bits_stored)
                for level, path in plates.items()}  # fmt: skip
    shapes = sorted({one.pixels.shape for one in pictures.values()})
    if len(shapes) > 1:
        raise ConfigError(f"{source}: plates of different sizes {shapes}", hint="one set has one size and one scale")
    scale, scale_source = _scale(plates, plan)
    masks = _masks(source, pictures)
    document: dict[str, Any] = {
        "schema": 1,
        "set": plan.name,
        "edition": plan.edition,
        "metal": plan.metal,
        "thickness_mm": plan.thickness_mm,
        "discontinuity": plan.discontinuity,
        "levels": plan.levels,
        "form": plan.form,
        "polarity": plan.polarity,
        "mm_per_px": scale.x_mm_per_px if scale.x_mm_per_px == scale.y_mm_per_px else list(scale.both),
        "u_mm_per_px": scale.u_mm_per_px,
        "scale_source": scale_source,
        "licence": plan.licence,
        "imported_by": plan.imported_by,
        "imported_on": (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if plan.bits_stored is not None:
        document["bits_stored"] = plan.bits_stored
    names = {level: f"{level}.{_suffix(path)}" for level, path in plates.items()}
    if plan.copy:
        document["files"] = {names[level]: pictures[level].sha256 for level in plates}
    else:
        document["files"] = {
            str(level): {"path": str(path.resolve()), "sha256": pictures[level].sha256}
            for level, path in plates.items()
        }
    if masks:
        document["masks"] = {f"{level}.mask.png": sha256 for level, (_, sha256) in masks.items()}
    copies = {out / names[level]: path for level, path in plates.items()} if plan.copy else {}
    copies |= {out / f"{level}.mask.png": path for level, (path, _) in masks.items()}
    return _written(out, document, copies)


def _written(out: Path, document: Mapping[str, Any], copies: Mapping[Path, Path]) -> ReferenceSet:
    """All of it or nothing: the manifest last, and what was written goes again when the set does not load."""
    was_there = out.is_dir()
    make_folder(out)
    made: list[Path] = []
    try:
        for to, source in copies.items():
            made.append(to)
            shutil.copyfile(source, to)
        made.append(out / "manifest.json")
        write_bytes_atomic(out / "manifest.json", (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
        return load_reference_set(out)
    except (EdgeError, OSError) as error:
        for path in made:
            path.unlink(missing_ok=True)
        if not was_there:
            out.rmdir()
        if isinstance(error, EdgeError):
            raise
        raise StorageError(f"cannot write {out}: {error.strerror or error}", hint="make room") from error


def _check_plan(plan: ImportPlan) -> None:
    for what, value, allowed in (
        ("metal", plan.metal, METALS),
        ("discontinuity", plan.discontinuity, TYPE_IDS),
        ("polarity", plan.polarity, POLARITIES),
        ("form", plan.form, ("film", "digital")),
    ):
        if value not in allowed:
            raise UsageError(f"{what} {value!r} is unknown", hint=", ".join(allowed))
    for what, text in (("set", plan.name), ("licence", plan.licence), ("by", plan.imported_by)):
        if not text.strip():
            raise UsageError(f"--{what} is empty", hint="say it in words: it stands on every card and in every record")
    if not 1 <= plan.levels <= 8:
        raise UsageError(f"a set of {plan.levels} levels", hint="1 to 8; ungraded pictures are a set of one")
    if plan.bits_stored is not None and not 8 <= plan.bits_stored <= 16:
        raise UsageError(f"--bits {plan.bits_stored}", hint="8 to 16")
    if plan.pattern.count("{n}") != 1 or "/" in plan.pattern:
        raise UsageError(f"pattern {plan.pattern!r}", hint="a file name with {n} for the level, such as 'plate-{n}'")
    if plan.mm_per_px is not None and plan.u_mm_per_px is None:
        raise UsageError("a scale and its uncertainty belong together", hint="--mm-per-px 0.1 --mm-per-px-u 0.0005")
    if (plan.magnification is None) != (plan.magnification_u is None):
        raise UsageError(
            "a magnification and its uncertainty belong together", hint="--magnification 1.25 --magnification-u 0.01"
        )


def _check_out(out: Path, source: Path, plan: ImportPlan) -> None:
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder", hint="name the folder that holds the plates")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty", hint="name a new folder of the site")
    target = out.resolve()
    if target.is_relative_to(data_folder("references").resolve()):
        raise UsageError(
            f"{out} belongs to this installation", hint="a licensed set stays in a folder of the site, outside it"
        )
    inside = next((one for one in (target, *target.parents) if (one / ".git").exists()), None)
    if plan.copy and inside is not None:
        raise UsageError(f"{out} lies in the repository {inside}", hint="licensed pictures are never put into one")


def _find_plates(source: Path, plan: ImportPlan) -> dict[int, Path]:
    """Level -> file. Every level exactly once; a picture of the pattern beyond the levels is refused, not left out."""
    before, after = (re.escape(part) for part in plan.pattern.split("{n}"))
    pattern = re.compile(f"{before}(\\d+){after}\\Z")
    plates: dict[int, Path] = {}
    for path in sorted(source.iterdir()):
        if path.suffix.lower() in _SUFFIXES and (match := pattern.match(path.name) or pattern.match(path.stem)):
            level = int(match.group(1))
            if level in plates:
                raise ConfigError(f"{source}: both {plates[level].name} and {path.name} are plate {level}")
            if not 1 <= level <= plan.levels:
                raise ConfigError(
                    f"{source}: {path.name} is plate {level} of a set of {plan.levels}", hint="state --levels"
                )
            plates[level] = path
    missing = [str(level) for level in range(1, plan.levels + 1) if level not in plates]
    if missing:
        raise ConfigError(
            f"{source}: plate {', '.join(missing)} of {plan.levels} is missing",
            hint=f"plates are called {plan.pattern.format(n=1)}.png, .tif or .dcm, and so on; fewer levels: --levels",
        )
    return dict(sorted(plates.items()))


def _masks(source: Path, pictures: Mapping[int, Picture]) -> dict[int, tuple[Path, str]]:
    """Exact masks that lie beside the plates: for every plate or for none."""
    paths = {level: source / f"{level}.mask.png" for level in pictures}
    there = [level for level, path in paths.items() if path.is_file()]
    if not there:
        return {}
    if len(there) < len(paths):
        raise ConfigError(f"{source}: only plate {there} has a mask", hint="masks for every plate or for none")
    masks = {}
    for level, path in paths.items():
        mask, sha256 = load_mask(path)
        if mask.shape != pictures[level].pixels.shape[:2]:
            raise ConfigError(f"{path} is of another size than its plate")
        masks[level] = (path, sha256)
    return masks


def _scale(plates: Mapping[int, Path], plan: ImportPlan) -> tuple[Scale, str]:
    """The scale as stated, or from the tags of every plate, which must agree."""
    if plan.mm_per_px is not None and plan.u_mm_per_px is not None:
        return Scale(plan.mm_per_px, plan.mm_per_px, plan.u_mm_per_px), f"stated by {plan.imported_by}"
    strange = [path.name for path in plates.values() if not is_dicom(path)]
    if strange:
        raise ConfigError(
            f"{strange[0]} does not say its scale", hint="no scale, no verdict: --mm-per-px X --mm-per-px-u U"
        )
    found = [_scale_of_tags(path, plan) for path in plates.values()]
    both = np.array([scale.both for scale, _ in found])
    if float(np.ptp(both, axis=0).max() / both.min()) > 1e-6:
        raise ConfigError(
            f"the plates' tags give scales from {both.min():g} to {both.max():g} mm per px",
            hint="one set has one scale",
        )
    return found[0]


def _scale_of_tags(path: Path, plan: ImportPlan) -> tuple[Scale, str]:
    from ..calibration import dicom_spacing

    tags = dicom_spacing(path, magnification_known=plan.magnification is not None)
    if plan.u_mm_per_px is None and (tags.at_part or plan.magnification_u is None):
        raise ConfigError(
            f"{path}: no tag says how uncertain its {tags.tag} is",
            code="NO_SCALE",
            hint="--mm-per-px-u U, or --magnification M --magnification-u U",
        )
    if tags.at_part:
        return Scale(*tags.spacing_mm, plan.u_mm_per_px or 0.0), tags.tag
    magnification = plan.magnification if plan.magnification is not None else tags.magnification
    if magnification is None:
        raise ImageError(
            f"{path}: {tags.tag} is at the detector, and no tag says the magnification",
            code="NO_SCALE",
            hint="--magnification M --magnification-u U",
        )
    stated = "stated" if plan.magnification is not None else tags.magnification_tag
    x, y = (spacing / magnification for spacing in tags.spacing_mm)
    u = plan.u_mm_per_px
    if u is None:
        u = min(x, y) * (plan.magnification_u or 0.0) / magnification
    return Scale(x, y, u), f"{tags.tag} / magnification {magnification:g} ({stated})"


def _suffix(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if is_dicom(path):
        return "dcm"
    if head not in _COPIED_AS:
        raise UsageError(f"{path}: a plate is PNG, TIFF or DICOM", hint="JPEG and BMP are not kept as references")
    return _COPIED_AS[head]
