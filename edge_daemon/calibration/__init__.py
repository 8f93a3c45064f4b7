"""Millimetres, and how far they can be trusted: targets, lens and plane, known lengths, X-ray, step wedge, drift.

    targets.py      what is printed: ChArUco boards, dot grids, markers
    find.py         where their points are in a picture        edges.py   straight edges of gauges and markers
    geometry.py     plane to frame and back, local scale       fit.py     lens and plane with covariance
    scales.py       known length, magnification, DICOM tags    wedge.py   grey value to thickness
    drift.py        has the camera moved?                      files.py   sealed JSON with an expiry
    calibrated.py   what a station holds

Everything but files.py (and the DICOM reader) is pure: arrays in, values out, no clock, no files.
"""

from .calibrated import BudgetItem, Calibration
from .drift import Drift, DriftLimits, Fiducial, find_fiducial
from .files import Heading, load_calibration, load_wedge, plane_document, save_document, scale_document, wedge_document
from .find import View, find_target
from .fit import BoardFit, fit_plane
from .scales import dicom_spacing, read_length, scale_from_length, scale_from_pixel_pitch
from .targets import Target, marker_pdf, parse_target, target_pdf, target_png
from .wedge import WedgeCurve, find_steps, fit_wedge, measure_step

__all__ = [
    "BoardFit",
    "BudgetItem",
    "Calibration",
    "Drift",
    "DriftLimits",
    "Fiducial",
    "Heading",
    "Target",
    "View",
    "WedgeCurve",
    "dicom_spacing",
    "find_fiducial",
    "find_steps",
    "find_target",
    "fit_plane",
    "fit_wedge",
    "load_calibration",
    "load_wedge",
    "marker_pdf",
    "measure_step",
    "parse_target",
    "plane_document",
    "read_length",
    "save_document",
    "scale_document",
    "scale_from_length",
    "scale_from_pixel_pitch",
    "target_pdf",
    "target_png",
    "wedge_document",
]
