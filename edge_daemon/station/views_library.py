"""References and tables, to browse: what a part is compared with, and by which row."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from anyio import to_thread
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from ..errors import EdgeError
from ..records import TYPE_IDS
from ..references import ReferenceSet, load_reference_set
from ..resources import data_folder
from ..standards import METALS, Requirement
from ..units import length_mm
from .report.figures import encoded
from .web import Refused, needs, render, services

__all__ = ["Plates", "library", "plate", "reference_set", "standard"]

_KEPT_SETS = 6
_PLATE_PX = 420


class Plates:
    """The reference sets of this installation, read and verified when they are looked at; the last few are kept."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or data_folder("references")
        self._lock = threading.Lock()
        self._sets: OrderedDict[str, ReferenceSet] = OrderedDict()

    def names(self) -> list[str]:
        """Every set, by its folders below the root."""
        return sorted(str(path.parent.relative_to(self._root)) for path in self._root.rglob("manifest.json"))

    def get(self, name: str) -> ReferenceSet | None:
        """A set by its name in the list; None for any other. Raises EdgeError for one that is broken."""
        with self._lock:
            found = self._sets.get(name)
            if found is not None:
                self._sets.move_to_end(name)
                return found
        if name not in self.names():
            return None
        found = load_reference_set(self._root / name)
        with self._lock:
            self._sets[name] = found
            while len(self._sets) > _KEPT_SETS:
                self._sets.popitem(last=False)
        return found


@needs("operator")
async def library(request: Request) -> Response:
    """What there is."""
    own = services(request)

    def look() -> Any:
        return request.app.state.plates.names(), own.choices.standards(), own.choices.broken_standards()

    names, standards, broken = await to_thread.run_sync(look)
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        folder, _, kind = name.rpartition("/")
        groups.setdefault(folder.replace("/", " · "), []).append((name, kind))
    return render(request, "library.html", groups=groups, standards=list(standards.values()), broken=broken)


async def _set(request: Request) -> ReferenceSet:
    found: ReferenceSet | None = await to_thread.run_sync(request.app.state.plates.get, request.path_params["name"])
    if found is None:
        raise Refused(404, "refused.404")
    return found


@needs("operator")
async def reference_set(request: Request) -> Response:
    """The plates of a set, all in one contrast and scale, with what is known about them."""
    found = await _set(request)
    return render(request, "reference.html", set=found, name=request.path_params["name"])


@needs("operator")
async def plate(request: Request) -> Response:
    """One plate for the eye; ``?marked=1`` with its exact mask in yellow."""
    found = await _set(request)
    level = request.path_params["level"]
    if level not in found.images:
        raise Refused(404, "refused.404")
    marked = request.query_params.get("marked") == "1"
    data = await to_thread.run_sync(_plate_png, found, level, marked)
    return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=600"})


def _plate_png(found: ReferenceSet, level: int, marked: bool) -> bytes:
    image = found.images[level]
    shown = _stretched(found, image.pixels)
    rgb = np.array(shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, axis=2))
    if marked and image.mask is not None:
        rgb[image.mask] = (255, 255, 0)
    zoom = min(1.0, _PLATE_PX / max(rgb.shape[:2]))
    if zoom < 1.0:
        size = max(1, round(rgb.shape[1] * zoom)), max(1, round(rgb.shape[0] * zoom))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
    return encoded(rgb.astype(np.uint8), "PNG")


def _stretched(found: ReferenceSet, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Every plate of a set through one grey curve, at most eightfold: noise is not to look like structure."""
    pooled = np.concatenate([one.pixels[::4, ::4].ravel() for one in found.images.values()])
    low, high = (float(one) for one in np.quantile(pooled, (0.001, 0.999)))
    least = float(np.iinfo(pooled.dtype).max) / 8
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    scaled = (pixels.astype(np.float32) - low) * (255.0 / (high - low)) + 0.5
    return np.asarray(np.clip(scaled, 0, 255)).astype(np.uint8)


@needs("operator")
async def standard(request: Request) -> Response:
    """A standard's heading and rows; with metal and thickness in the address, what it asks of each type."""
    standards = await to_thread.run_sync(services(request).choices.standards)
    found = standards.get(request.path_params["name"])
    if found is None:
        raise Refused(404, "refused.404")
    query = {
        name: request.query_params.get(name, "").strip()[:60] for name in ("metal", "thickness", "grade", "process")
    }
    answers: list[tuple[str, Any]] = []
    error: EdgeError | None = None
    if query["metal"] and query["thickness"]:
        try:
            answers = _answers(found, query)
        except EdgeError as caught:
            error = caught
    return render(
        request, "standard.html", standard=found, query=query, answers=answers, error=error, metals=METALS,
        requirement=Requirement,
    )  # fmt: skip


def _answers(found: Any, query: dict[str, str]) -> list[tuple[str, Any]]:
    thickness_mm = length_mm(query["thickness"])
    return [
        (name, found.lookup(metal=query["metal"], thickness_mm=thickness_mm, grade=query["grade"] or None,
                            discontinuity=name, process=query["process"] or None, zone=None, reference_set=None,
                            form=None, energy=None))
        for name in TYPE_IDS
    ]  # fmt: skip
