"""The simulator's field library: what materials attenuate and what an X-ray tube emits, written as one small table.

    python -m edge_daemon.testing.make_attenuation [--out edge_daemon/simulator/attenuation.json]

Attenuation: Elam, Ravel and Sieber (2002) as xraydb carries it, total with coherent scattering; a mixture's is the
sum over its elements by mass fraction. Tube spectra: spekpy, tungsten anode of 20 degrees, bare (no window, no air);
filters are applied where the table is read. Bremsstrahlung and characteristic lines are kept apart, because between two
voltages the former stretches and the latter stay where they are.

Not covered: porosity, texture and grain (diffraction mottle), the spread of an alloy's composition inside its standard.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingExtra

__all__ = ["SPECS", "MaterialSpec", "main", "table", "written"]


@dataclass(frozen=True, slots=True)
class MaterialSpec:
    """A material of the table. mass_pct: element -> mass per cent, sums to 100. source: where density and composition
    are from."""

    density_g_cm3: float
    mass_pct: dict[str, float]
    source: str


_NIST = "NIST X-ray mass attenuation coefficients, table 1"

SPECS: dict[str, MaterialSpec] = {
    "aluminum": MaterialSpec(2.699, {"Al": 100}, _NIST),
    "magnesium": MaterialSpec(1.740, {"Mg": 100}, _NIST),
    "titanium": MaterialSpec(4.540, {"Ti": 100}, _NIST),
    "iron": MaterialSpec(7.874, {"Fe": 100}, _NIST),
    "copper": MaterialSpec(8.960, {"Cu": 100}, _NIST),
    "lead": MaterialSpec(11.35, {"Pb": 100}, _NIST),
    "tungsten": MaterialSpec(19.30, {"W": 100}, _NIST),
    "graphite": MaterialSpec(1.700, {"C": 100}, _NIST + " (polycrystalline, with its pores)"),
    "AlSi7Mg0.3": MaterialSpec(
        2.68,
        {"Si": 7.0, "Mg": 0.35, "Fe": 0.12, "Ti": 0.12, "Al": 92.41},
        "EN 1706 EN AC-42100 (A356), middle of the composition; handbook density",
    ),
    "AlSi9Cu3": MaterialSpec(
        2.75,
        {"Si": 9.0, "Cu": 3.0, "Fe": 0.9, "Zn": 0.8, "Mn": 0.3, "Mg": 0.3, "Al": 85.7},
        "EN 1706 EN AC-46000 (near A380), middle of the composition; handbook density",
    ),
    "AlSi10Mg": MaterialSpec(
        2.65,
        {"Si": 10.0, "Mg": 0.35, "Fe": 0.4, "Mn": 0.3, "Al": 88.95},
        "EN 1706 EN AC-43000, middle of the composition; handbook density",
    ),
    "AZ91": MaterialSpec(
        1.81,
        {"Al": 9.0, "Zn": 0.7, "Mn": 0.25, "Mg": 90.05},
        "ASTM B94 AZ91D, middle of the composition; handbook density",
    ),
    "Ti6Al4V": MaterialSpec(
        4.43, {"Al": 6.0, "V": 4.0, "Fe": 0.15, "O": 0.15, "Ti": 89.7}, "ASTM B367 grade C5; handbook density"
    ),
    "steel": MaterialSpec(
        7.85, {"C": 0.2, "Mn": 0.8, "Si": 0.4, "Fe": 98.6}, "unalloyed cast steel of 0.2 % C; handbook density"
    ),
    "brass": MaterialSpec(8.44, {"Cu": 63.0, "Zn": 37.0}, "CuZn37 (CW508L); handbook density"),
    "Al2O3": MaterialSpec(3.97, {"Al": 52.925, "O": 47.075}, "corundum; handbook density"),
    "SiO2": MaterialSpec(2.65, {"Si": 46.744, "O": 53.256}, "a grain of quartz sand; handbook density"),
}

ENERGY_KEV = (10.0, 450.0)
#: Ratio of neighbouring energies minus one. Straight lines between logarithms then err by 0.03 %,
#: above L edges by 0.06 %.
_STEP = 0.03
#: The tabulation jumps within this of an edge's energy, not exactly there; looked for in steps of 1 eV.
_EDGE_SEARCH_EV = 30

TUBE_KV = (*range(50, 201, 10), 225, 250, 275, 300)
_ANODE_DEG = 20.0
_BIN_KEV = 1.0


def table(voltages: Sequence[int] = TUBE_KV) -> dict[str, Any]:
    """The table as written to the file; voltages: in kV, of the tube spectra, a second each.

    Raises MissingExtra without xraydb and spekpy.
    """
    xraydb, spekpy = _library("xraydb"), _library("spekpy")
    return {
        "what": "linear attenuation (total with coherent scattering) and bare tungsten tube spectra",
        "made_by": "python -m edge_daemon.testing.make_attenuation",
        "versions": {"xraydb": xraydb.__version__.split("+")[0], "spekpy": spekpy.__version__},
        "attenuation": "Elam, Ravel, Sieber (2002), Radiation Physics and Chemistry 63:121, through xraydb",
        "spectra": f"spekpy (casim), tungsten, {_ANODE_DEG:g} deg, bins of {_BIN_KEV:g} keV, no filter, no air",
        "materials": {name: _material(xraydb, spec) for name, spec in sorted(SPECS.items())},
        "tube": _tube(spekpy, voltages),
    }


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"the simulator's field library ({name})", "simulator-check") from error


def _material(xraydb: Any, spec: MaterialSpec) -> dict[str, Any]:
    count = int(np.ceil(np.log(ENERGY_KEV[1] / ENERGY_KEV[0]) / np.log1p(_STEP))) + 1
    energies = set(np.geomspace(*ENERGY_KEV, count).tolist())
    for element in spec.mass_pct:
        for edge in xraydb.xray_edges(element).values():
            if ENERGY_KEV[0] < edge.energy / 1e3 < ENERGY_KEV[1]:
                energies |= _jump(xraydb, element, edge.energy)
    energy_kev = np.array(sorted(energies))
    cm2_per_g = sum(
        pct / 100.0 * np.asarray(xraydb.mu_elam(element, energy_kev * 1e3)) for element, pct in spec.mass_pct.items()
    )
    return {
        "density_g_cm3": spec.density_g_cm3,
        "mass_pct": spec.mass_pct,
        "source": spec.source,
        "energy_keV": _rounded(energy_kev, 7),
        "attenuation_per_mm": _rounded(cm2_per_g * spec.density_g_cm3 / 10.0, 6),
    }


def _jump(xraydb: Any, element: str, edge_ev: float) -> set[float]:
    """The two energies, keV, 1 eV apart, between which an element's attenuation jumps at an edge."""
    around = edge_ev + np.arange(-_EDGE_SEARCH_EV, _EDGE_SEARCH_EV + 1)
    at = int(np.argmax(np.diff(np.log(xraydb.mu_elam(element, around)))))
    return {float(around[at]) / 1e3, float(around[at + 1]) / 1e3}


def _tube(spekpy: Any, voltages: Sequence[int]) -> dict[str, Any]:
    """Quanta per cm2, keV and mAs at 1 m, at the middles of the bins from ``first_keV`` on up to the voltage; the lines
    as quanta per cm2 and mAs."""
    first = ENERGY_KEV[0] + _BIN_KEV / 2
    bremsstrahlung, lines = {}, {}
    for tube_kv in voltages:
        energy, quanta = spekpy.Spek(kvp=tube_kv, th=_ANODE_DEG, dk=_BIN_KEV, char=False).get_spectrum()
        bremsstrahlung[str(tube_kv)] = _rounded(quanta[energy >= first], 5)
        energy, quanta = spekpy.Spek(kvp=tube_kv, th=_ANODE_DEG, dk=_BIN_KEV, brem=False).get_spectrum()
        seen = (energy >= first) & (quanta > 0)
        lines[str(tube_kv)] = [
            [float(at), *_rounded(np.array([of * _BIN_KEV]), 5)]
            for at, of in zip(energy[seen], quanta[seen], strict=True)
        ]
    return {
        "anode": "tungsten",
        "anode_deg": _ANODE_DEG,
        "first_keV": first,
        "bin_keV": _BIN_KEV,
        "bremsstrahlung": bremsstrahlung,
        "lines": lines,
    }


def _rounded(values: Any, digits: int) -> list[float]:
    return [float(f"{value:.{digits - 1}e}") for value in np.asarray(values, np.float64)]


def written(content: dict[str, Any]) -> str:
    """The file's text: one line a list of numbers, so that a change shows as the lines that changed."""
    return _lines(content, 0) + "\n"


def _lines(value: Any, depth: int) -> str:
    if isinstance(value, dict) and value:
        pad = " " * (depth + 1)
        inner = ",\n".join(f"{pad}{json.dumps(key)}: {_lines(each, depth + 1)}" for key, each in value.items())
        return "{\n" + inner + "\n" + " " * depth + "}"
    return json.dumps(value, separators=(",", ":"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.make_attenuation", description=__doc__)
    default = Path(__file__).resolve().parents[1] / "simulator" / "attenuation.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args(arguments)
    try:
        text = written(table())
    except MissingExtra as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    options.out.write_text(text, encoding="utf-8")
    print(f"{options.out}: {len(text.encode()) / 1000:.0f} kB")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
