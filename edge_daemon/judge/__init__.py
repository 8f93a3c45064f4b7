"""The judge: indications, windows, measurement, limits, verdict. Pure NumPy/OpenCV: no I/O, no clock, no globals.

    indications.py   connected regions of one type: area, largest caliper distance, centroid, gap
    windows.py       the worst window over every position, exactly
    measure.py       label image (+ coverage) and scale in, a Measurement out: the same for part and reference
    zones.py         areas of the part with rules of their own
    verdict.py       rules, limits, guard band, the four outcomes, measured severity

Parts of two plants must be comparable, so nothing here is a plug-in point.
"""

from .measure import Measurement, Scale, TypeMeasurement, Uncertainty, Value, WindowMeasurement, measure
from .verdict import CombineRule, Limits, Rule, RuleKind, TypeVerdict, Verdict, combined, judge, limits_of
from .zones import polygon_mask, zone_region

__all__ = [
    "CombineRule",
    "Limits",
    "Measurement",
    "Rule",
    "RuleKind",
    "Scale",
    "TypeMeasurement",
    "TypeVerdict",
    "Uncertainty",
    "Value",
    "Verdict",
    "WindowMeasurement",
    "combined",
    "judge",
    "limits_of",
    "measure",
    "polygon_mask",
    "zone_region",
]
