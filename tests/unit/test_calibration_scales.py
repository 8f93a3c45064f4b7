"""Scale from a gauge, from magnification, from DICOM tags; thickness from a step wedge."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest

from edge_daemon.calibration import (
    Heading,
    dicom_spacing,
    find_steps,
    fit_wedge,
    load_wedge,
    measure_step,
    read_length,
    save_document,
    scale_from_length,
    scale_from_pixel_pitch,
    wedge_document,
)
from edge_daemon.errors import ImageError, MissingExtra, UsageError


def gauge(length_px, angle, middle=(320.0, 240.0), skew=0.0, noise=0.02, seed=0, bits=8):
    """A dark bar of known length, ends at right angles to its axis (but for skew), 80 px wide, blurred 1 px."""
    u = np.array([np.cos(angle), np.sin(angle)])
    v = np.array([-u[1], u[0]])
    slanted = u * np.cos(skew) - v * np.sin(skew)
    y, x = np.mgrid[0:480, 0:640].astype(float)
    p = np.stack([x - middle[0], y - middle[1]], axis=2)
    sides = [length_px / 2 + p @ u, length_px / 2 - p @ slanted, 40.0 - np.abs(p @ v)]
    # The share of a pixel on the near side of a straight edge, nearly: its distance plus a half, cut off.
    inside = np.prod([np.clip(one + 0.5, 0, 1) for one in sides], axis=0)
    coarse = cv2.GaussianBlur(200.0 - 160.0 * inside, (0, 0), 1.0)
    top = 2**bits - 1
    noisy = coarse / 255 + np.random.default_rng(seed).normal(0, noise, coarse.shape)
    return np.rint(np.clip(noisy, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)


def ends(length_px, angle, middle=(320.0, 240.0), off=4.0):
    u = np.array([np.cos(angle), np.sin(angle)])
    return tuple(middle - (length_px / 2 - off) * u), tuple(middle + (length_px / 2 + off) * u)


class TestLength:
    @pytest.mark.parametrize(("length_px", "angle"), [(400.3, 0.0), (351.7, 0.21), (300.0, 1.4), (420.9, -0.35)])
    @pytest.mark.parametrize("bits", [8, 16])
    def test_a_gauge_to_a_few_hundredths_of_a_pixel(self, length_px, angle, bits):
        reading = read_length(gauge(length_px, angle, bits=bits), "bar.png", *ends(length_px, angle))
        assert reading.length_px == pytest.approx(length_px, abs=0.06)
        assert 0.002 < reading.u_px < 0.1

    def test_the_line_between_the_points_need_not_be_straight_along_the_gauge(self):
        start, end = ends(400.0, 0.0)
        reading = read_length(gauge(400.0, 0.0), "bar.png", (start[0], start[1] - 12), (end[0], end[1] + 12))
        assert reading.length_px == pytest.approx(400.0, abs=0.06)  # along the line it would be 400.7

    def test_reading_uncertainty_covers_the_spread(self):
        readings = [read_length(gauge(380.4, 0.1, seed=n), "b", *ends(380.4, 0.1)) for n in range(12)]
        scatter = np.std([one.length_px for one in readings], ddof=1)
        assert 0.3 < np.mean([one.u_px for one in readings]) / scatter < 4.0

    def test_scale_and_budget(self):
        readings = [
            read_length(gauge(400.0, 0.0, (320.0, y), seed=n), f"{n}", *ends(400.0, 0.0, (320.0, y)))
            for n, y in enumerate((100.0, 240.0, 380.0))
        ]
        result = scale_from_length(readings, 50.0, 0.01)
        assert result.mm_per_px[0] == result.mm_per_px[1] == pytest.approx(0.125, rel=2e-4)
        items = {name: u for name, u, _ in result.budget}
        assert set(items) == {"length", "reading", "spread"}
        assert items["length"] == pytest.approx(2e-4)
        assert result.u_relative == pytest.approx(np.sqrt(sum(u * u for u in items.values())))
        single = scale_from_length(readings[:1], 50.0, 0.01)
        assert any("one picture" in note for note in single.notes)

    def test_points_read_by_eye(self):
        reading = read_length(gauge(400.0, 0.0), "bar.png", (120, 240), (520, 240), refine=False, point_u_px=0.4)
        assert reading.length_px == 400.0
        assert reading.u_px == pytest.approx(0.4 * np.sqrt(2))

    def test_refusals(self):
        bar = gauge(400.0, 0.0)
        with pytest.raises(ImageError, match="no straight edge") as caught:
            read_length(bar, "bar.png", (200, 100), (400, 100))
        assert caught.value.code == "NO_EDGE" and "bar.png" in caught.value.message
        with pytest.raises(ImageError, match="not parallel"):
            read_length(gauge(400.0, 0.0, skew=0.06), "bar.png", *ends(400.0, 0.0))
        with pytest.raises(UsageError, match="not inside"):
            read_length(bar, "bar.png", (-5, 100), (400, 100))
        with pytest.raises(UsageError, match="too few"):
            read_length(bar, "bar.png", (100, 100), (110, 100))
        for length, u in ((0.0, 0.0), (50.0, -1.0), (50.0, 10.0), (float("inf"), 0.0)):
            with pytest.raises(UsageError):
                scale_from_length([read_length(bar, "b", *ends(400.0, 0.0))], length, u)
        far = [read_length(gauge(n, 0.0), "b", *ends(n, 0.0)) for n in (400.0, 440.0)]
        with pytest.raises(ImageError, match="differ by"):
            scale_from_length(far, 50.0, 0.01)


class TestMagnification:
    def test_size_on_the_part(self):
        result = scale_from_pixel_pitch((0.1, 0.2), 1.25, 0.01, 1e-4)
        assert result.mm_per_px == pytest.approx((0.08, 0.16))
        assert result.u_relative == pytest.approx(np.hypot(0.008, 0.001))

    @pytest.mark.parametrize(
        ("pitch", "m", "mu", "pu"),
        [(0.0, 1.2, 0.01, 0), (0.1, 0.0, 0.01, 0), (0.1, 1.2, -0.1, 0), (0.1, 1.2, 0.7, 0), (0.1, 1.2, 0.01, 0.1),
         (float("nan"), 1.2, 0.01, 0), (0.1, float("nan"), 0.01, 0)],
    )  # fmt: skip
    def test_nonsense_is_refused(self, pitch, m, mu, pu):
        with pytest.raises(UsageError):
            scale_from_pixel_pitch((pitch, pitch), m, mu, pu)


class TestDicom:
    @pytest.fixture
    def make(self, tmp_path):
        pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom: pip install 'edge-daemon[dicom]'")

        def write(**tags):
            data = pydicom.Dataset()
            data.Rows, data.Columns = 480, 640
            data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
            for key, value in tags.items():
                setattr(data, key, value)
            data.file_meta = pydicom.dataset.FileMetaDataset()
            data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            path = tmp_path / "x.dcm"
            pydicom.dcmwrite(path, data, enforce_file_format=True)
            return path

        return write

    def test_imager_spacing_is_at_the_detector_rows_first(self, make):
        found = dicom_spacing(make(ImagerPixelSpacing=[0.2, 0.1], DetectorID="D7"))
        assert found.spacing_mm == (0.1, 0.2) and not found.at_part
        assert found.magnification is None and found.size_px == (640, 480) and found.camera == "D7"

    def test_magnification_from_its_tag_or_the_distances(self, make):
        distances = {"DistanceSourceToDetector": 1000.0, "DistanceSourceToPatient": 800.0}
        assert dicom_spacing(make(ImagerPixelSpacing=[0.1, 0.1], **distances)).magnification == pytest.approx(1.25)
        found = dicom_spacing(
            make(ImagerPixelSpacing=[0.1, 0.1], EstimatedRadiographicMagnificationFactor=1.3, **distances)
        )
        assert found.magnification == pytest.approx(1.3)

    @pytest.mark.parametrize("kind", ["FIDUCIAL", "GEOMETRY"])
    def test_calibrated_pixel_spacing_is_on_the_part(self, make, kind):
        found = dicom_spacing(
            make(PixelSpacing=[0.08, 0.08], ImagerPixelSpacing=[0.1, 0.1], PixelSpacingCalibrationType=kind)
        )
        assert found.at_part and found.spacing_mm == (0.08, 0.08) and found.magnification is None

    def test_two_spacings_that_agree_are_at_the_detector(self, make):
        found = dicom_spacing(make(PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[0.1, 0.1]))
        assert not found.at_part and found.tag == "ImagerPixelSpacing"

    def test_film(self, make):
        found = dicom_spacing(make(NominalScannedPixelSpacing=[0.05, 0.05]))
        assert not found.at_part and found.tag == "NominalScannedPixelSpacing"

    def test_what_does_not_say_enough_is_refused(self, make, tmp_path):
        ambiguous = {"PixelSpacing": [0.08, 0.08], "ImagerPixelSpacing": [0.1, 0.1]}
        for tags, words in (
            ({}, "no pixel spacing"),
            ({"PixelSpacing": [0.1, 0.1]}, "PixelSpacing alone"),
            (ambiguous, "does not say how it was calibrated"),
        ):
            with pytest.raises(ImageError, match=words) as caught:
                dicom_spacing(make(**tags))
            assert caught.value.code == "NO_SCALE"
        assert dicom_spacing(make(**ambiguous), magnification_known=True).spacing_mm == (0.1, 0.1)
        with pytest.raises(ImageError, match="cannot be read"):
            dicom_spacing(make(ImagerPixelSpacing=[0.0, 0.1]))
        with pytest.raises(ImageError, match="Rows and Columns"):
            dicom_spacing(make(ImagerPixelSpacing=[0.1, 0.1], Rows=0))
        other = tmp_path / "not.dcm"
        other.write_bytes(b"\x89PNG" + bytes(300))
        with pytest.raises(ImageError, match="not a DICOM file"):
            dicom_spacing(other)
        with pytest.raises(ImageError, match="cannot be read"):
            dicom_spacing(tmp_path / "absent.dcm")

    def test_without_pydicom_the_extra_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(MissingExtra) as caught:
            dicom_spacing(tmp_path / "x.dcm")
        assert caught.value.exit_code == 3
        assert caught.value.extra == "dicom"


def wedge_picture(thicknesses, grey_of, noise=0.004, seed=0, vertical=False, bits=16):
    columns = np.repeat([grey_of(t) for t in thicknesses], 60)
    picture = np.tile(columns, (200, 1)).astype(np.float64)
    picture = cv2.GaussianBlur(picture, (0, 0), 2.0) + np.random.default_rng(seed).normal(0, noise, picture.shape)
    top = 2**bits - 1
    picture = np.rint(np.clip(picture, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
    return np.ascontiguousarray(picture.T) if vertical else picture


STEPS = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]


def physical(t):
    return 0.08 + 0.85 * np.exp(-0.12 * t)


def hardened(t):
    """Two energies: not one exponential."""
    return 0.02 + 0.5 * np.exp(-0.02 * t) + 0.4 * np.exp(-0.9 * t)


def measured(picture, thicknesses):
    regions = find_steps(picture, len(thicknesses), "wedge.tif")
    return [measure_step(picture, region, t, "wedge.tif") for region, t in zip(regions, thicknesses, strict=True)]


class TestWedge:
    @pytest.mark.parametrize("vertical", [False, True])
    @pytest.mark.parametrize("bits", [8, 16])
    def test_physics_gives_back_its_numbers(self, vertical, bits):
        curve = fit_wedge(measured(wedge_picture(STEPS, physical, vertical=vertical, bits=bits), STEPS), 0.02)
        assert curve.model == "physics"
        assert curve.numbers == pytest.approx((0.08, 0.85, 0.12), rel=0.03)
        t = np.linspace(2.1, 11.9, 41)
        error = curve.thickness(np.array([physical(one) for one in t])) - t
        assert np.abs(error).max() < 0.03
        assert np.sqrt(np.mean(error**2)) < 2 * curve.u_mm
        assert curve.u_mm >= 0.02
        assert curve.u_thickness_mm(10.0, 0.01) > curve.u_thickness_mm(4.0, 0.01) > curve.u_mm

    def test_beam_hardening_is_interpolated(self):
        curve = fit_wedge(measured(wedge_picture(STEPS, hardened, noise=0.002), STEPS))
        assert curve.model == "interpolation"
        assert np.all(np.diff(curve.grey_at(np.linspace(2, 12, 500))) < 0)
        assert curve.grey_at(np.array(STEPS)) == pytest.approx([hardened(t) for t in STEPS], abs=1e-3)
        assert fit_wedge(measured(wedge_picture(STEPS, hardened), STEPS), model="physics").u_mm > curve.u_mm / 2

    def test_nothing_outside_the_range(self):
        curve = fit_wedge(measured(wedge_picture(STEPS, physical), STEPS))
        found = curve.thickness(np.array([physical(1.0), physical(2.5), physical(13.0)]))
        assert np.isnan(found[[0, 2]]).all() and found[1] == pytest.approx(2.5, abs=0.05)
        assert np.isnan(curve.grey_at(np.array([1.0, 13.0]))).all()
        assert curve.range_mm == (2.0, 12.0)

    def test_integers_are_scaled_by_their_type(self):
        curve = fit_wedge(measured(wedge_picture(STEPS, physical), STEPS))
        as_u16 = curve.thickness(np.array([round(physical(6.0) * 65535)], np.uint16))
        as_u8 = curve.thickness(np.array([round(physical(6.0) * 255)], np.uint8))
        assert as_u16[0] == pytest.approx(6.0, abs=0.05) and as_u8[0] == pytest.approx(6.0, abs=0.08)

    def test_thicker_may_be_brighter(self):
        curve = fit_wedge(measured(wedge_picture(STEPS, lambda t: 1.0 - physical(t)), STEPS))
        assert curve.thickness(np.array([1.0 - physical(5.0)]))[0] == pytest.approx(5.0, abs=0.05)

    def test_clipped_steps_are_refused(self):
        bright = wedge_picture(STEPS, lambda t: 1.35 * physical(t))
        with pytest.raises(ImageError, match="step of 2 mm is clipped") as caught:
            measure_step(bright, (10, 40, 30, 100), 2.0, "wedge.tif")
        assert caught.value.code == "CLIPPED"
        twelve_bit = np.minimum(bright.astype(np.int64) // 8, 4095).astype(np.uint16)
        with pytest.raises(ImageError, match="clipped"):
            measure_step(twelve_bit, (10, 40, 30, 100), 2.0, "wedge.tif")
        with pytest.raises(ImageError, match="clipped"):
            measure_step(np.minimum(bright, 3000), (10, 40, 30, 100), 2.0, "wedge.tif", white=3000)

    def test_what_is_no_wedge(self):
        picture = wedge_picture(STEPS, physical)
        with pytest.raises(ImageError, match="only rise or only fall"):
            find_steps(np.full((200, 360), 7000, np.uint16), 6, "w")
        with pytest.raises(ImageError, match="too few for"):
            find_steps(picture[:10, :20], 6, "w")
        with pytest.raises(ImageError, match="colours"):
            find_steps(np.zeros((50, 90, 3), np.uint8), 3, "w")
        with pytest.raises(UsageError, match="not inside"):
            measure_step(picture, (350, 0, 60, 60), 2.0, "w")
        steps = measured(picture, STEPS)
        with pytest.raises(UsageError, match="too few"):
            fit_wedge(steps[:3])
        with pytest.raises(UsageError, match="same thickness"):
            fit_wedge([*steps, steps[0]])
        with pytest.raises(ImageError, match="turns back"):
            fit_wedge(measured(picture, [2.0, 6.0, 4.0, 8.0, 10.0, 12.0]))
        with pytest.raises(UsageError, match="plausible"):
            fit_wedge(steps, -1.0)

    def test_sealed_and_back(self, tmp_path):
        steps = measured(wedge_picture(STEPS, physical), STEPS)
        curve = fit_wedge(steps, 0.02)
        made = datetime(2026, 3, 1, tzinfo=timezone.utc)
        heading = Heading([("wedge.tif", "0")], valid=timedelta(days=30), now=made)
        save_document(tmp_path / "w.json", wedge_document(curve, steps, (360, 200), heading))
        again = load_wedge(tmp_path / "w.json", now=made)
        grey = np.array([physical(7.3)])
        assert again.thickness(grey) == curve.thickness(grey)
        with pytest.raises(Exception, match="expired") as caught:
            load_wedge(tmp_path / "w.json", now=made + timedelta(days=30))
        assert caught.value.code == "EXPIRED"
