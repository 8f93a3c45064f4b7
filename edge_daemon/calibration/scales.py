"""Scale without a target: a known length in the picture, pixel pitch and magnification, or the tags of a DICOM file.

Such a scale holds where it was taken: lens distortion, tilt and height are not covered, except as the spread between
several pictures of the length in several places, and as the height term that the user states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, MissingExtra, UsageError
from ..images import dicom_troubles
from .edges import find_step, fit_edge
from .find import grey_float

__all__ = [
    "DicomSpacing",
    "Reading",
    "ScaleResult",
    "dicom_spacing",
    "read_length",
    "scale_from_length",
    "scale_from_pixel_pitch",
]

_SEARCH_PX = 15.0
_BAND_PX = 12.0
#: Two faces of a gauge are parallel; more than this between them (noise alone gives 0.005) is no gauge.
_PARALLEL_RAD = 0.02


@dataclass(frozen=True, slots=True)
class Reading:
    """One length in one picture: what it measures in px, with the standard uncertainty of reading it."""

    name: str
    length_px: float
    u_px: float
    ends_px: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """mm per px in x and y; budget: (name, relative standard uncertainty, where it comes from)."""

    mm_per_px: tuple[float, float]
    budget: tuple[tuple[str, float, str], ...]
    method: str
    notes: tuple[str, ...] = ()

    @property
    def u_relative(self) -> float:
        """All items of the budget together, root of the sum of squares."""
        return float(np.sqrt(sum(u * u for _, u, _ in self.budget)))


def read_length(
    pixels: NDArray[Any],
    name: str,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    refine: bool = True,
    point_u_px: float = 0.5,
) -> Reading:
    """The distance from ``start`` to ``end`` (frame px).

    refine: the points lie near the two faces of a gauge; the faces are found on the line between the points, fitted as
    parallel lines, and the distance is taken at right angles to them. Otherwise the points are taken as given, each
    with ``point_u_px``. Raises ImageError where there is no such edge, or the faces are not parallel.
    """
    grey = grey_float(pixels)
    ends = np.array([start, end], np.float64)
    height, width = grey.shape
    if ends.min() < 0 or (ends > (width - 1, height - 1)).any():
        raise UsageError(f"picture {name}: {start} to {end} is not inside its {width} x {height} px")
    length = float(np.linalg.norm(ends[1] - ends[0]))
    if length < 20:
        raise UsageError(
            f"picture {name}: {length:.0f} px from {start} to {end} are too few", hint="use a longer gauge"
        )
    if not refine:
        return Reading(name, length, float(np.sqrt(2.0) * point_u_px), (start, end))
    along = (ends[1] - ends[0]) / length
    search = min(_SEARCH_PX, 0.2 * length)
    edges = []
    for point in ends:
        place = find_step(grey, point, along, _BAND_PX, search)
        edge = None if place is None else fit_edge(grey, point + place * along, along, _BAND_PX, min(6.0, 0.2 * length))
        if edge is None:
            raise ImageError(
                f"picture {name}: no straight edge across the line at {point[0]:.0f}, {point[1]:.0f}",
                code="NO_EDGE",
                hint=f"give points within {search:.0f} px of the gauge's faces, or --no-refine for marks read by eye",
            )
        edges.append(edge)
    first, second = edges
    normals = first.normal, second.normal * np.sign(first.normal @ second.normal)
    skew = float(abs(normals[0][0] * normals[1][1] - normals[0][1] * normals[1][0]))
    if skew > _PARALLEL_RAD:
        raise ImageError(
            f"picture {name}: the two edges are not parallel ({1e3 * skew:.0f} mrad)",
            code="NO_EDGE",
            hint="image the gauge flat and straight on, and give points on its measuring faces",
        )
    normal = normals[0] + normals[1]
    normal = normal / np.linalg.norm(normal)
    distance = float(abs(normal @ (second.point - first.point)))
    u_px = float(np.hypot(first.u_px, second.u_px))
    a, b = (tuple(float(one) for one in edge.point) for edge in edges)
    return Reading(name, distance, u_px, ((a[0], a[1]), (b[0], b[1])))


def scale_from_length(readings: Sequence[Reading], length_mm: float, length_u_mm: float) -> ScaleResult:
    """Scale from a length read in one picture or several. Pixels are taken as square.

    The spread counts as that of a single reading, not of the mean: taken in several places it stands for how the scale
    varies over the frame.
    """
    if not readings:
        raise UsageError("no picture of a known length", hint="give one or more")
    if not (
        np.isfinite(length_mm) and length_mm > 0 and np.isfinite(length_u_mm) and 0 <= length_u_mm < 0.1 * length_mm
    ):
        raise UsageError(
            f"a length of {length_mm:g} mm with u = {length_u_mm:g} mm is not plausible",
            hint="--length 50mm --length-u 0.01mm",
        )
    scales = np.array([length_mm / reading.length_px for reading in readings])
    mean = float(scales.mean())
    reading_u = float(np.sqrt(np.mean([(r.u_px / r.length_px) ** 2 for r in readings])))
    budget = [
        ("length", length_u_mm / length_mm, "the gauge's own uncertainty"),
        ("reading", reading_u, "edges or points in the picture"),
    ]
    notes = ["pixels taken as square; lens distortion and tilt are not calibrated"]
    if len(readings) > 1:
        spread = float(scales.std(ddof=1)) / mean
        if spread > 0.02:
            raise ImageError(
                f"the {len(readings)} readings differ by {100 * spread:.1f} % (standard deviation)",
                code="MISFIT",
                hint="one gauge, always in the part's plane; such a lens or tilt needs calibrate board",
            )
        budget.append(("spread", spread, f"standard deviation of {len(readings)} readings"))
    else:
        notes.append("one picture: holds where the gauge lay; give several places to cover the frame")
    return ScaleResult((mean, mean), tuple(budget), "length", tuple(notes))


def scale_from_pixel_pitch(
    pitch_mm: tuple[float, float],
    magnification: float,
    magnification_u: float,
    pitch_u_mm: float = 0.0,
    method: str = "magnification",
) -> ScaleResult:
    """X-ray: size on the part = size at the detector / magnification. pitch_mm: detector pixels in x and y."""
    if not all(np.isfinite(pitch) and 1e-6 <= pitch <= 1e3 for pitch in pitch_mm):
        raise UsageError(
            f"a pixel pitch of {pitch_mm[0]:g} x {pitch_mm[1]:g} mm is not plausible", hint="such as 0.1mm"
        )
    if not (np.isfinite(magnification) and 0.1 <= magnification <= 1000):
        raise UsageError(
            f"a magnification of {magnification:g} is not plausible", hint="source to detector over source to part"
        )
    if not (np.isfinite(magnification_u) and 0 <= magnification_u < 0.5 * magnification):
        raise UsageError(f"u = {magnification_u:g} of a magnification of {magnification:g} is not plausible")
    if not (np.isfinite(pitch_u_mm) and 0 <= pitch_u_mm < 0.1 * min(pitch_mm)):
        raise UsageError(f"u = {pitch_u_mm:g} mm of a pixel pitch of {min(pitch_mm):g} mm is not plausible")
    return ScaleResult(
        (pitch_mm[0] / magnification, pitch_mm[1] / magnification),
        (
            ("magnification", magnification_u / magnification, f"magnification {magnification:g}"),
            ("pixel_pitch", pitch_u_mm / min(pitch_mm), "detector pixels"),
        ),
        method,
        ("holds at the depth the magnification is for: state --height-u and --distance (source to part)",),
    )


# ---- DICOM and DICONDE ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DicomSpacing:
    """What the tags of a file say. at_part: the spacing is already that on the part (calibrated); otherwise it is at
    the detector or film and must be divided by the magnification. magnification: from the tags, None where absent."""

    spacing_mm: tuple[float, float]
    at_part: bool
    tag: str
    magnification: float | None
    magnification_tag: str
    size_px: tuple[int, int]
    camera: str | None


def dicom_spacing(path: Path, *, magnification_known: bool = False) -> DicomSpacing:
    """Read spacing and magnification from a DICOM or DICONDE file (x and y; the file has rows first).

    Precedence (DICOM PS3.3, 10.7 Basic Pixel Spacing Calibration Macro): PixelSpacing with PixelSpacingCalibrationType
    FIDUCIAL or GEOMETRY is on the part. ImagerPixelSpacing is at the detector; NominalScannedPixelSpacing at the film.
    PixelSpacing that differs from ImagerPixelSpacing without saying how it was calibrated is refused, unless the user
    states the magnification: then ImagerPixelSpacing counts. PixelSpacing alone says nothing about its plane: refused.
    Magnification: EstimatedRadiographicMagnificationFactor, else DistanceSourceToDetector / DistanceSourceToPatient
    (to the object, in DICONDE). Raises ImageError for what is missing, MissingExtra without pydicom.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise MissingExtra("reading DICOM and DICONDE files", "dicom") from None
    trouble: tuple[type[Exception], ...] = (*dicom_troubles(), NotImplementedError)
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
        size = int(data.get("Columns", 0)), int(data.get("Rows", 0))
        pixel, imager, film = (_pair(data.get(key)) for key in _SPACINGS)
        kind = str(data.get("PixelSpacingCalibrationType", "") or "").upper()
        factor = _number(data.get("EstimatedRadiographicMagnificationFactor"))
        detector, part = (_number(data.get(key)) for key in ("DistanceSourceToDetector", "DistanceSourceToPatient"))
        camera = str(data.get("DetectorID", "") or data.get("DeviceSerialNumber", "") or "") or None
    except InvalidDicomError:
        raise ImageError(f"{path} is not a DICOM file", hint="give a DICOM or DICONDE file") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}", hint="check the path") from None
    except trouble as error:
        raise ImageError(f"{path}: its tags cannot be read: {error}", hint="export the file again") from None
    if min(size) < 1:
        raise ImageError(f"{path}: Rows and Columns are missing", hint="give an image file, not a report or directory")
    if factor is None and detector is not None and part is not None and 0 < part <= detector:
        factor, factor_tag = detector / part, "DistanceSourceToDetector / DistanceSourceToPatient"
    else:
        factor_tag = "EstimatedRadiographicMagnificationFactor" if factor is not None else ""
    if pixel and kind in ("FIDUCIAL", "GEOMETRY"):
        return DicomSpacing(pixel, True, f"PixelSpacing ({kind})", None, "", size, camera)
    if imager and pixel and not np.allclose(imager, pixel, rtol=1e-4) and not magnification_known:
        raise ImageError(
            f"{path}: PixelSpacing {pixel[0]:g} differs from ImagerPixelSpacing {imager[0]:g}, but"
            " PixelSpacingCalibrationType does not say how it was calibrated",
            code="NO_SCALE",
            hint="state --magnification and its uncertainty: then ImagerPixelSpacing counts",
        )
    if imager:
        return DicomSpacing(imager, False, "ImagerPixelSpacing", factor, factor_tag, size, camera)
    if film:
        return DicomSpacing(film, False, "NominalScannedPixelSpacing", factor, factor_tag, size, camera)
    what = (
        "PixelSpacing alone, which does not say whether it is at the detector or on the part"
        if pixel
        else "no pixel spacing"
    )
    raise ImageError(
        f"{path}: has {what}", code="NO_SCALE", hint="state --pixel-pitch, --magnification and --magnification-u"
    )


_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def _pair(value: Any) -> tuple[float, float] | None:
    """(x, y) of a DICOM spacing, which holds row spacing (y) first."""
    if value is None or value == "":
        return None
    y, x = (float(one) for one in value)
    if not (np.isfinite([x, y]).all() and min(x, y) > 0):
        raise ValueError(f"pixel spacing {y} \\ {x}")
    return x, y


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{number} is no distance or factor")
    return number
