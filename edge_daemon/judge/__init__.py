"""The judge: indications, windows, measurement, limits, verdict. Pure NumPy/OpenCV: no I/O, no clock, no globals.

    indications.py   connected regions of one type: area, largest caliper distance, centroid, gap
    windows.py       the worst window over every position, exactly
    measure.py       label image (+ coverage) and scale in, a Measurement out: the same for part and reference
    verdict.py       rules, limits, guard band, the four outcomes, measured severity

Parts of two plants must be comparable, so nothing here is a plug-in point.
"""

from .measure import Measurement, Scale, TypeMeasurement, Value, WindowMeasurement, measure
from .verdict import Limits, Rule, RuleKind, TypeVerdict, Verdict, judge, limits_of

__all__ = [
    "Limits",
    "Measurement",
    "Rule",
    "RuleKind",
    "Scale",
    "TypeMeasurement",
    "TypeVerdict",
    "Value",
    "Verdict",
    "WindowMeasurement",
    "judge",
    "limits_of",
    "measure",
]
