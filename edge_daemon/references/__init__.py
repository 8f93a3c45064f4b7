"""Reference sets: the graded plates 1 to 8 that a part is compared with.

    sets.py        read and verified from a manifest: one discontinuity, one metal, one thickness, one scale
    pictures.py    a plate's file: PNG, TIFF or DICOM; depth and polarity as the engine expects them
    limits.py      what an engine, or the true masks, measure on every plate: monotone, cached
    examining.py   everything that is wrong with a set, at once
    importing.py   a manifest for a site's own licensed set; the pictures stay where they are
    making.py      demonstration sets from the simulator (never imported at run time)
    card.py        the printable card of eight; drawing.py: one drawing as PDF or PNG

The manifest is described for people in references/README.md.
"""

from .limits import LevelLimits, Metric, PlateValues, SetLimits, bent_limits, default_cache_folder, measure_limits
from .sets import METALS, ReferenceImage, ReferenceSet, load_reference_set, references_sha256

__all__ = [
    "METALS",
    "LevelLimits",
    "Metric",
    "PlateValues",
    "ReferenceImage",
    "ReferenceSet",
    "SetLimits",
    "bent_limits",
    "default_cache_folder",
    "load_reference_set",
    "measure_limits",
    "references_sha256",
]
