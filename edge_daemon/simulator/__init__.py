"""Radiographs that come with their truth: what training learns from, what the demo's conveyor shows, what the synthetic
reference plates are made of. NumPy and OpenCV only; nothing at run time imports it.

>>> picture = conveyor_part(7, "crack")
>>> picture.pixels.shape, picture.defects[0].type
((512, 512), 'crack')
"""

from __future__ import annotations

from .castings import FAMILIES, UNSEEN_FAMILIES
from .discontinuities import CASTING_TYPES
from .physics import METALS, MODES, UNSEEN_MODES, Exposure
from .scenes import (
    CONVEYOR_REFERENCE,
    PlacedDefect,
    PlannedDefect,
    Radiograph,
    Structure,
    conveyor_part,
    plate_area_pct,
    plate_exposure,
    reference_plate,
    simulate,
)

__all__ = [
    "CASTING_TYPES",
    "CONVEYOR_REFERENCE",
    "FAMILIES",
    "METALS",
    "MODES",
    "UNSEEN_FAMILIES",
    "UNSEEN_MODES",
    "Exposure",
    "PlacedDefect",
    "PlannedDefect",
    "Radiograph",
    "Structure",
    "conveyor_part",
    "plate_area_pct",
    "plate_exposure",
    "reference_plate",
    "simulate",
]
