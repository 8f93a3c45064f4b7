"""What a material attenuates and what a tube emits, from the table that lies beside this file.

Linear attenuation (total with coherent scattering) of casting alloys, pure metals, markers and inclusions, 10 to
450 keV; bare spectra of a tungsten anode, 50 to 300 kV, behind any filter of those materials. Made by
``python -m edge_daemon.testing.make_attenuation``, which names every source; the table carries the versions.

>>> round(float(attenuation_per_mm("aluminum", 60.0)), 5)
0.07499

Not covered: an alloy's own spread of composition, porosity, diffraction; the heel of the anode across the field.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import RuleError

__all__ = [
    "BARE",
    "COPPER_FILTERED",
    "ENERGY_KEV",
    "INHERENT",
    "MATERIALS",
    "METAL_MATERIAL",
    "TUBE_KV",
    "Filtration",
    "Material",
    "attenuation_per_mm",
    "material",
    "spectrum",
]

Floats = NDArray[np.float64]
#: Sheets in the beam before the part: (material, thickness in mm) each.
Filtration = tuple[tuple[str, float], ...]

BARE: Filtration = ()
#: A tube's own window and oil, as the millimetre of aluminium they are rated at.
INHERENT: Filtration = (("aluminum", 1.0),)
COPPER_FILTERED: Filtration = (("aluminum", 1.0), ("copper", 0.5))

#: Energies that can be asked for.
ENERGY_KEV = (10.0, 450.0)
#: Voltages that can be asked for. Above 300 kV no spectrum is tabulated: that of 300 kV is stretched.
TUBE_KV = (50.0, 450.0)

MATERIALS = (
    "AZ91",
    "Al2O3",
    "AlSi10Mg",
    "AlSi7Mg0.3",
    "AlSi9Cu3",
    "SiO2",
    "Ti6Al4V",
    "aluminum",
    "brass",
    "copper",
    "graphite",
    "iron",
    "lead",
    "magnesium",
    "steel",
    "titanium",
    "tungsten",
)

#: The alloy that stands for a recipe's metal.
METAL_MATERIAL = {"aluminum": "AlSi7Mg0.3", "magnesium": "AZ91", "steel": "steel", "titanium": "Ti6Al4V"}

# A line grows as about the 1.65th power of the voltage's excess over its edge, so this power of it grows linearly.
_LINE_POWER = 1.0 / 1.65


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """One row of the table. energy_kev, attenuation_per_mm: float64 (N,), ascending energies, an absorption edge as two
    points 1 eV apart. mass_pct: element -> mass per cent. source: where density and composition are from."""

    name: str
    density_g_cm3: float
    mass_pct: dict[str, float]
    source: str
    energy_kev: Floats
    attenuation_per_mm: Floats


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("attenuation.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


@lru_cache(maxsize=len(MATERIALS))
def material(name: str) -> Material:
    """The table's row of a material of ``MATERIALS``. Raises RuleError for any other name."""
    if name not in MATERIALS:
        raise RuleError(f"no attenuation is known of the material {name!r}", hint="known: " + ", ".join(MATERIALS))
    row = _table()["materials"][name]
    energy, attenuation = _fixed(row["energy_keV"]), _fixed(row["attenuation_per_mm"])
    return Material(name, row["density_g_cm3"], row["mass_pct"], row["source"], energy, attenuation)


def attenuation_per_mm(name: str, energy_kev: ArrayLike) -> Floats:
    """Linear attenuation of a material at energies of any shape, 10..450 keV: float64 of that shape, 1/mm.

    Between the tabulated energies both logarithms are interpolated: within 0.1 % of the source. Raises RuleError for
    an unknown material and for an energy outside the table, not-a-number included.
    """
    row = material(name)
    energy = np.asarray(energy_kev, np.float64)
    if not np.all((energy >= ENERGY_KEV[0]) & (energy <= ENERGY_KEV[1])):
        raise RuleError(
            f"the attenuation of {name} is tabulated from {ENERGY_KEV[0]:g} to {ENERGY_KEV[1]:g} keV only",
            hint="give energies in keV inside that range",
        )
    logarithm = np.interp(np.log(energy), np.log(row.energy_kev), np.log(row.attenuation_per_mm))
    return np.asarray(np.exp(logarithm), np.float64)


@lru_cache(maxsize=256)
def spectrum(tube_kv: float, filtration: Filtration = INHERENT) -> tuple[Floats, Floats]:
    """Quanta by energy behind a filter.

    Returns (energy_keV, weight): the middles of bins of 1 keV from 10.5 on, and each bin's share of the quanta, both
    float64 (N,), read-only; the weights sum to 1. A detector that integrates energy multiplies them by the energy.

    Between two tabulated voltages both bremsstrahlung spectra are stretched to the wanted voltage (as functions of
    energy over voltage) and averaged by distance; characteristic lines stay at their energies and only their strength
    is interpolated, by its law; the filter is applied last, at the true energies. What passes 40 mm of aluminium or
    10 mm of steel is within 0.35 % of spekpy's own at that voltage. Above 300 kV the last spectrum is stretched.
    Raises RuleError for a voltage outside 50..450 kV, an unknown material and a negative thickness.
    """
    if not TUBE_KV[0] <= tube_kv <= TUBE_KV[1]:
        raise RuleError(
            f"no tube spectrum is known at {tube_kv:g} kV", hint=f"give {TUBE_KV[0]:g} to {TUBE_KV[1]:g} kV"
        )
    tube = _table()["tube"]
    voltages = [int(each) for each in tube["bremsstrahlung"]]
    first, step = float(tube["first_keV"]), float(tube["bin_keV"])
    energy = np.arange(first, tube_kv, step)

    upper = bisect_right(voltages, tube_kv)
    low, high = voltages[upper - 1], voltages[min(upper, len(voltages) - 1)]
    share = (tube_kv - low) / (high - low) if high > low else 0.0
    quanta = np.zeros_like(energy)
    strengths = np.zeros_like(energy)
    for voltage, part in ((low, 1.0 - share), (high, share)):
        if part > 0.0:
            bins = np.asarray(tube["bremsstrahlung"][str(voltage)], np.float64)
            quanta += part * _stretched(bins, first, step, energy * (voltage / tube_kv), voltage)
            for at, strength in tube["lines"][str(voltage)]:
                # A line above the wanted voltage cannot be excited by it.
                if at <= energy[-1]:
                    strengths[round((at - first) / step)] += part * strength**_LINE_POWER
    quanta += strengths ** (1.0 / _LINE_POWER) / step
    for name, thickness_mm in filtration:
        if not (thickness_mm >= 0.0 and math.isfinite(thickness_mm)):
            raise RuleError(
                f"a filter of {thickness_mm:g} mm of {name} cannot be", hint="give a thickness in mm, 0 or more"
            )
        quanta *= np.exp(-attenuation_per_mm(name, energy) * thickness_mm)
    total = quanta.sum()
    if not total > 0.0:
        raise RuleError(f"nothing of a tube at {tube_kv:g} kV passes this filter", hint="give a thinner filter")
    return _fixed(energy), _fixed(quanta / total)


def _stretched(quanta: Floats, first: float, step: float, at: Floats, voltage: int) -> Floats:
    """A tabulated spectrum between its bins; it ends at its voltage."""
    middles = np.append(first + step * np.arange(quanta.size), float(voltage))
    return np.asarray(np.interp(at, middles, np.append(quanta, 0.0)), np.float64)


def _fixed(values: ArrayLike) -> Floats:
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array
