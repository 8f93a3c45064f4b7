"""What a surface engine learns from: a site's own labelled pictures, their outlines, and crops of them. No torch.

Masks are taken as they are. Where only boxes were drawn, their elements are outlined first (``outlines``). A box of
another class than the picture's, or one in which a mask shows nothing, is IGNORED: somebody saw something there.
Part of the crops get strangers planted on sound surface (``strangers``); their pixels are UNTYPED.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..segment.prepare import grey_from_pixels, prepare
from .annotations import type_of
from .labelled import Labelled
from .outlines import outline_boxes
from .pictures import IGNORED, UNTYPED
from .strangers import plant_stranger

__all__ = ["Surface", "read_surfaces", "surface_batch", "without_types"]

# Local normalisation of a crop needs this much around it to be what it is in the whole picture.
_AROUND_PX = 24
_MARGIN_PX = 5
_ONCE: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Surface:
    """One picture to learn from. grey: float32 (H, W) in [0, 1]. labels: uint8 (H, W), 0 sound, k + 1 of the engine's
    types, IGNORED. part: crops of one strip, or pictures of one part, must not be split. kind: index of the picture's
    type, None if it is sound. weak: its outlines were made from boxes."""

    name: str
    part: str
    grey: NDArray[np.float32]
    labels: NDArray[np.uint8]
    kind: int | None
    weak: bool

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture in 8 bit: what the line shows the network."""
        return np.round(self.grey * 255.0).astype(np.uint8)


def read_surfaces(pictures: Iterable[Labelled], types: Sequence[str]) -> list[Surface]:
    """The pictures with labels in terms of ``types``; what belongs to another type is IGNORED."""
    found = []
    for picture in pictures:
        grey = grey_from_pixels(np.asarray(picture.pixels))
        kind = None if picture.kind is None else type_of(picture.kind)
        labels, weak = _labels(picture, grey, kind, types)
        index = types.index(kind) if kind in types else None
        if picture.kind is None:  # a form that states no class of the whole: what most of its defect is
            counts = np.bincount(labels.reshape(-1), minlength=256)[1 : len(types) + 1]
            index = int(counts.argmax()) if counts.any() else None
        found.append(Surface(picture.name, picture.part, grey, labels, index, weak))
    return found


def _labels(
    picture: Labelled, grey: NDArray[np.float32], kind: str | None, types: Sequence[str]
) -> tuple[NDArray[np.uint8], bool]:
    labels = np.zeros(grey.shape, np.uint8)
    boxes = picture.boxes or ()
    if picture.labels is not None:
        look_up = np.full(256, IGNORED, np.uint8)
        look_up[0] = 0
        for value, name in enumerate(picture.types, 1):
            if name in types:
                look_up[value] = types.index(name) + 1
        labels = look_up[picture.labels]
        for box in boxes:
            window = _window(box, grey.shape)
            if not labels[window].any():
                labels[window] = IGNORED
        return labels, False
    for name in sorted({box.type or "" for box in boxes}, key=lambda name: name == kind):
        own = tuple(box for box in boxes if (box.type or "") == name)
        if name in types and name == kind:
            labels[outline_boxes(grey, own, name)] = types.index(name) + 1
        else:
            for box in own:
                labels[_window(box, grey.shape)] = IGNORED
    return labels, True


def _window(box: Any, shape: tuple[int, ...]) -> tuple[slice, slice]:
    return np.s_[max(0, int(box.y_px)) : min(shape[0], int(np.ceil(box.y_px + box.height_px))),
                 max(0, int(box.x_px)) : min(shape[1], int(np.ceil(box.x_px + box.width_px)))]  # fmt: skip


def without_types(pictures: Sequence[Surface], left_out: Sequence[int]) -> list[Surface]:
    """The pictures whose own type is not left out, and in the others the labels of such types IGNORED: an engine that
    was never trained on them."""
    found = []
    for one in pictures:
        if one.kind in left_out:
            continue
        labels = one.labels
        for kind in left_out:
            labels = np.where(labels == kind + 1, np.uint8(IGNORED), labels)
        found.append(Surface(one.name, one.part, one.grey, labels, one.kind, one.weak))
    return found


def surface_batch(
    rng: np.random.Generator, pictures: Sequence[Surface], batch: int, crop_px: int, *, strangers: float = 0.3,
    aimed: float = 0.5, local_sigma_px: float = 12.0, times: Mapping[int, int] = _ONCE,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:  # fmt: skip
    """Crops for one step: views float32 (batch, 2, crop, crop), labels uint8 (batch, crop, crop).

    Every type is drawn equally often, sound pictures as often as one type; a type in ``times`` so many times as often.
    A share ``aimed`` of the crops shows a defect, the rest lies anywhere. Each is turned, mirrored, and changed in
    brightness, contrast, gamma, sharpness and noise; a share ``strangers`` gets one to three strangers where it is
    sound.
    """
    kinds: dict[int | None, list[int]] = {}
    for index, one in enumerate(pictures):
        kinds.setdefault(one.kind, []).append(index)
    groups = [some for kind, some in kinds.items() for _ in range(1 if kind is None else times.get(kind, 1))]
    views = np.empty((batch, 2, crop_px, crop_px), np.float32)
    labels = np.empty((batch, crop_px, crop_px), np.uint8)
    for n in range(batch):
        group = groups[int(rng.integers(len(groups)))]
        one = pictures[group[int(rng.integers(len(group)))]]
        grey, label = _cut(rng, one, crop_px + 2 * _AROUND_PX, rng.random() < aimed)
        grey = _changed(rng, grey)
        if rng.random() < strangers:
            free = cv2.dilate((label > 0).view(np.uint8), np.ones((2 * _MARGIN_PX + 1,) * 2, np.uint8)) == 0
            for _ in range(int(rng.integers(1, 4))):
                donor = pictures[int(rng.integers(len(pictures)))]
                other, _ = _cut(rng, donor, crop_px + 2 * _AROUND_PX, False)
                marked, faint = plant_stranger(rng, grey, free, other)
                label[faint & (label == 0)] = IGNORED
                label[marked] = UNTYPED
        inner = np.s_[_AROUND_PX:-_AROUND_PX, _AROUND_PX:-_AROUND_PX]
        eight = np.round(grey * 255.0).astype(np.uint8)
        views[n] = prepare(eight, ("grey", "local"), local_sigma_px)[:, inner[0], inner[1]]
        labels[n] = label[inner]
    return views, labels


def _cut(
    rng: np.random.Generator, one: Surface, side_px: int, aimed: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A square of the picture, turned and mirrored at random; beyond the border it is reflected, and nothing counts."""
    height, width = one.labels.shape
    at = np.flatnonzero((one.labels > 0) & (one.labels != IGNORED)) if aimed else ()
    if len(at):
        y, x = divmod(int(at[int(rng.integers(len(at)))]), width)
        y, x = (int(v) + int(rng.integers(-side_px // 4, side_px // 4 + 1)) for v in (y, x))
    else:
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    half = side_px // 2 - _AROUND_PX
    y = int(np.clip(y, min(half, height // 2), max(height - half, height // 2)))
    x = int(np.clip(x, min(half, width // 2), max(width - half, width // 2)))
    top, left = y - side_px // 2, x - side_px // 2
    bottom, right = top + side_px, left + side_px
    pad = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    inner = np.s_[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    grey = cv2.copyMakeBorder(one.grey[inner], *pad, cv2.BORDER_REFLECT)
    label = cv2.copyMakeBorder(one.labels[inner], *pad, cv2.BORDER_CONSTANT, value=IGNORED)
    turns, mirror = int(rng.integers(0, 4)), bool(rng.integers(0, 2))
    turned = [np.rot90(plane[:, ::-1] if mirror else plane, turns) for plane in (grey, label)]
    return np.ascontiguousarray(turned[0], np.float32), np.ascontiguousarray(turned[1])


def _changed(rng: np.random.Generator, grey: NDArray[np.float32]) -> NDArray[np.float32]:
    if rng.random() < 0.7:
        gain, offset = rng.uniform(0.75, 1.3), rng.uniform(-0.12, 0.12)
        middle = float(grey.mean())
        grey = np.asarray((grey - middle) * np.float32(gain) + np.float32(middle + offset), np.float32)
    np.clip(grey, 0.0, 1.0, out=grey)
    if rng.random() < 0.4:
        grey = np.asarray(np.power(grey, np.float32(np.exp(rng.uniform(-0.35, 0.35)))), np.float32)
    if rng.random() < 0.2:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), float(rng.uniform(0.4, 1.0))), np.float32)
    if rng.random() < 0.3:
        grey = grey + rng.standard_normal(grey.shape, np.float32) * np.float32(rng.uniform(0.005, 0.02))
    return np.asarray(np.clip(grey, 0.0, 1.0), np.float32)
