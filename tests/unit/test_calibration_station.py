"""What a station holds: rectified pictures, labels back on the frame, uncertainty, expiry, seal, drift."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest

from edge_daemon.calibration import (
    Calibration,
    DriftLimits,
    Heading,
    find_fiducial,
    fit_plane,
    load_calibration,
    load_wedge,
    parse_target,
    plane_document,
    save_document,
    scale_document,
    scale_from_pixel_pitch,
)
from edge_daemon.calibration.geometry import rotation
from edge_daemon.errors import ConfigError, ImageError, IntegrityError, UsageError
from edge_daemon.segment.sealed import seal_document
from edge_daemon.testing.calibration_views import (
    Camera,
    add_marker,
    point_view,
    pose,
    random_views,
    render,
)

BOARD = parse_target("EDC-14x10-10mm")
SIZE = (800, 640)
CAMERA = Camera(SIZE, (1300.0, 1300.5, 402.0, 318.0, -0.2, 0.05, 3e-4, -2e-4, 0.0))
MADE = datetime(2026, 3, 1, 8, 0, tzinfo=timezone.utc)
LATER = MADE + timedelta(days=10)


def board_document(plane_pose=None, seed=5, pitch_u=0.01, **kwargs):
    rng = np.random.default_rng(seed)
    poses = random_views(CAMERA, BOARD, 10.0, rng, 7)
    poses[-1] = pose(BOARD, 10.0, 225.0, (6.0, -4.0), 8.0) if plane_pose is None else plane_pose
    views = [point_view(CAMERA, BOARD, 10.0, one, rng, 0.015, f"{n}.png") for n, one in enumerate(poses)]
    fit = fit_plane(views, BOARD, (10.0, 10.0), pitch_u)
    heading = Heading([(v.name, v.sha256) for v in views], valid=timedelta(days=180), camera="cam-7", now=MADE)
    return plane_document(fit, BOARD, (10.0, 10.0), pitch_u, heading, **kwargs), CAMERA.seeing(poses[-1])


@pytest.fixture(scope="module")
def plane():
    document, truth = board_document()
    return Calibration.from_document(document, "0" * 64), document, truth


@pytest.fixture
def flat_scale():
    result = scale_from_pixel_pitch((0.1, 0.125), 1.25, 0.01)
    return scale_document(result, (320, 240), Heading([("a.png", "1")], valid=timedelta(days=30), now=MADE))


class TestRectify:
    def test_squares_come_out_square_and_of_the_stated_size(self, plane):
        """Corners of the rendered board, measured in the rectified picture, are pitch / scale apart everywhere."""
        from edge_daemon.calibration import find_target

        calibration, _, truth = plane
        pixels = render(BOARD, 10.0, truth, SIZE, np.random.default_rng(0), noise=0.005)
        seen = calibration.rectify(pixels)
        assert seen.shape == calibration.rectified_size_px[::-1]
        view = find_target(seen, BOARD, "rectified")
        places = dict(zip(view.ids.tolist(), view.uv * calibration.scale.x_mm_per_px, strict=True))
        lengths = [np.linalg.norm(places[n + 5] - places[n]) for n in places if n + 5 in places and n % 13 < 8]
        assert len(lengths) > 40
        assert np.abs(np.array(lengths) / 50.0 - 1.0).max() < 1.5e-3  # corners in a resampled picture: 0.07 px of 270
        assert abs(np.mean(lengths) / 50.0 - 1.0) < 1.5e-4
        frame_angle = np.degrees(
            np.arctan2(*(truth.to_frame(np.array([[1.0, 0.0]])) - truth.to_frame(np.zeros((1, 2))))[0][::-1])
        )
        there = places[5 + 13 * 4] - places[13 * 4]
        assert np.degrees(np.arctan2(there[1], there[0])) == pytest.approx(frame_angle, abs=3.0)  # upright as the frame

    def test_all_of_the_frame_is_in_it_and_region_says_where(self, plane):
        calibration, _, _ = plane
        marked = np.zeros(SIZE[::-1], np.uint8)
        for x, y in ((0, 0), (799, 0), (0, 639), (799, 639)):
            marked[y, x] = 255
        seen = calibration.rectify(marked)
        corners = [seen[:80, :80], seen[:80, -80:], seen[-80:, :80], seen[-80:, -80:]]
        assert all(one.max() > 30 for one in corners)
        # What the frame shows, in mm^2, is the sum of the local scales over its pixels.
        y, x = np.mgrid[0 : SIZE[1] : 8, 0 : SIZE[0] : 8] + 3.5
        area_mm2 = float((calibration.model.mm_per_px(np.column_stack([x.ravel(), y.ravel()])) ** 2).sum() * 64)
        assert calibration.region.sum() * calibration.scale.x_mm_per_px**2 == pytest.approx(area_mm2, rel=2e-3)

    def test_depths_and_colours_and_bits_repeat(self, plane):
        calibration, document, _ = plane
        rng = np.random.default_rng(3)
        deep = rng.integers(0, 65535, SIZE[::-1], dtype=np.uint16)
        colour = rng.integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
        again = Calibration.from_document(json.loads(json.dumps(document)), "")
        for pixels in (deep, colour):
            before = pixels.copy()
            seen = calibration.rectify(pixels)
            assert seen.dtype == pixels.dtype and seen.shape[2:] == pixels.shape[2:]
            assert np.array_equal(seen, again.rectify(pixels))
            assert np.array_equal(pixels, before)
            assert not seen.flags.writeable

    def test_a_scale_hands_back_the_same_array(self, flat_scale):
        calibration = Calibration.from_document(flat_scale, "")
        pixels = np.zeros((240, 320), np.uint16)
        labels = np.zeros((240, 320), np.uint8)
        assert calibration.rectify(pixels) is pixels
        assert calibration.labels_to_frame(labels, pixels.shape) is labels
        assert calibration.scale.both == pytest.approx((0.08, 0.1))
        assert calibration.u_scale_at(3, 4) == pytest.approx(0.008)
        assert calibration.region is None

    def test_another_size_is_refused(self, plane, flat_scale):
        for calibration in (plane[0], Calibration.from_document(flat_scale, "")):
            with pytest.raises(ImageError) as caught:
                calibration.rectify(np.zeros((100, 100), np.uint8))
            assert caught.value.code == "CALIBRATION_SIZE"
            with pytest.raises(ImageError):
                calibration.labels_to_frame(np.zeros((100, 100), np.uint8), (100, 100))

    def test_labels_return_to_where_they_came_from(self, plane):
        calibration, _, _ = plane
        frame = np.zeros(SIZE[::-1], np.uint8)
        cv2.circle(frame, (300, 200), 25, 255, -1)
        cv2.circle(frame, (700, 550), 12, 255, -1)
        labels = (calibration.rectify(frame) > 127).astype(np.uint8) * 3
        back = calibration.labels_to_frame(labels, frame.shape)
        assert back.shape == frame.shape and set(np.unique(back)) == {0, 3}
        wrong = (back > 0) != (frame > 0)
        outline = cv2.morphologyEx(frame, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        assert not (wrong & ~outline).any()

    def test_no_single_pixel_vanishes_on_the_way_back(self, plane):
        calibration, _, _ = plane
        rng = np.random.default_rng(0)
        y, x = np.nonzero(calibration.region)
        for index in rng.choice(len(x), 60, replace=False):
            labels = np.zeros(calibration.rectified_size_px[::-1], np.uint8)
            labels[y[index], x[index]] = 7
            assert (calibration.labels_to_frame(labels, SIZE[::-1]) == 7).any()


class TestNumbers:
    def test_scale_is_that_of_the_plane(self, plane):
        """mm between two frame points by the calibration, against the truth, within k = 2 of what is stated."""
        calibration, _, truth = plane
        rng = np.random.default_rng(1)
        a, b = (rng.uniform((50, 50), (750, 590), (200, 2)) for _ in range(2))
        true = np.linalg.norm(truth.to_plane(a) - truth.to_plane(b), axis=1)
        seen = np.linalg.norm(calibration.model.to_plane(a) - calibration.model.to_plane(b), axis=1)
        keep = true > 20
        assert np.abs(seen[keep] / true[keep] - 1).max() < 200e-6
        assert calibration.scale.relative_u == pytest.approx(1e-3, rel=0.05)  # the pitch rules: 0.01 of 10 mm

    def test_budget_adds_up_and_height_enters_it(self, plane):
        calibration, document, _ = plane
        budget = calibration.budget_document
        total = np.sqrt(sum(one["u_relative"] ** 2 for one in budget["items"]))
        assert budget["u_relative"] == pytest.approx(total) == pytest.approx(calibration.scale.relative_u)
        assert budget["expanded_k2"] == pytest.approx(2 * total)
        high, _ = board_document(height_u_mm=0.5)
        items = {one["name"]: one["u_relative"] for one in high["budget"]}
        distance = (rotation(CAMERA_POSE[:3]) @ [0, 0, 0] + CAMERA_POSE[3:])[2]
        assert items["height"] == pytest.approx(0.5 / distance, rel=0.02)
        assert high["scale"]["u_relative"] > document["scale"]["u_relative"]
        given, _ = board_document(height_u_mm=0.5, distance_mm=400.0)
        assert {one["name"]: one["u_relative"] for one in given["budget"]}["height"] == pytest.approx(0.00125)

    def test_u_is_smaller_in_the_middle_and_never_above_the_stated(self):
        document, _ = board_document(pitch_u=0.0)
        calibration = Calibration.from_document(document, "")
        width, height = calibration.rectified_size_px
        middle = calibration.u_scale_at(width / 2, height / 2)
        field = [calibration.u_scale_at(x, y) for x in np.linspace(0, width, 9) for y in np.linspace(0, height, 7)]
        assert middle < 0.5 * max(field)
        assert max(field) <= calibration.scale.relative_u
        local = calibration.model.u_relative(calibration.to_frame_px(np.array([[width / 2, height / 2]])))[0]
        assert middle == pytest.approx(local, rel=0.1)

    def test_a_camera_too_oblique_is_refused(self):
        with pytest.raises(UsageError, match="mount the camera straighter"):
            board_document(plane_pose=pose(BOARD, 10.0, 190.0, (48.0, 0.0), 0.0))

    def test_the_camera_must_be_the_one(self, plane):
        plane[0].require_camera("cam-7")
        plane[0].require_camera(None)
        with pytest.raises(ConfigError, match="cam-7"):
            plane[0].require_camera("cam-8")


CAMERA_POSE = pose(BOARD, 10.0, 225.0, (6.0, -4.0), 8.0)


class TestFiles:
    def test_round_trip(self, tmp_path, plane):
        path = tmp_path / "c.json"
        sha256 = save_document(path, plane[1])
        found = load_calibration(path, now=LATER)
        assert found.sha256 == sha256 and found.camera == "cam-7" and found.target_id == BOARD.id
        assert found.scale == plane[0].scale
        assert np.array_equal(found.model.covariance, plane[0].model.covariance)
        assert found.refusal(LATER) is None

    def test_every_changed_byte_is_found(self, tmp_path, flat_scale):
        path = tmp_path / "c.json"
        save_document(path, flat_scale)
        good = path.read_bytes()
        for at in range(0, len(good), 7):
            bad = bytearray(good)
            bad[at] ^= 0x01
            path.write_bytes(bytes(bad))
            with pytest.raises(IntegrityError):
                load_calibration(path, now=LATER)

    def test_expired(self, tmp_path, plane):
        path = tmp_path / "c.json"
        save_document(path, plane[1])
        end = MADE + timedelta(days=180)
        assert load_calibration(path, now=end - timedelta(seconds=1)).refusal(end - timedelta(seconds=1)) is None
        with pytest.raises(IntegrityError, match="expired at 2026-08-28") as caught:
            load_calibration(path, now=end)
        assert caught.value.code == "EXPIRED" and caught.value.exit_code == 4
        late = load_calibration(path, now=end, allow_expired=True)
        assert late.refusal(end).code == "CALIBRATION_EXPIRED"
        assert late.refusal("2026-08-28T08:00:00.000Z").code == "CALIBRATION_EXPIRED"
        assert late.refusal("2026-08-28T07:59:59Z") is None

    def test_a_clock_set_back_does_not_revive_it(self, tmp_path, plane):
        path = tmp_path / "c.json"
        save_document(path, plane[1])
        with pytest.raises(IntegrityError, match="set the clock"):
            load_calibration(path, now=MADE - timedelta(days=2))
        assert load_calibration(path, now=MADE - timedelta(hours=2)).refusal(MADE - timedelta(hours=2)) is None

    def test_not_a_calibration(self, tmp_path, flat_scale):
        path = tmp_path / "c.json"
        with pytest.raises(ConfigError, match="no such calibration"):
            load_calibration(path)
        path.write_text("{}")
        with pytest.raises(IntegrityError, match="no seal"):
            load_calibration(path)
        for wrong in (
            {"schema": 2},
            {"kind": "plane"},
            {"size_px": [0, 5]},
            {"size_px": "big"},
            {"budget": []},
            {"budget": [{"name": "a", "u_relative": -1.0, "source": ""}]},
            {"scale": {"mm_per_px": [0.0, 1.0]}},
            {"expires_utc": "soon"},
            {"drift_limits": {"shift_px": -1.0}},
            {"drift_limits": {"other": 1.0}},
        ):
            path.write_bytes(seal_document({**flat_scale, **wrong}, "x"))
            with pytest.raises(IntegrityError):
                load_calibration(path, now=LATER)
        path.write_bytes(seal_document({**flat_scale, "kind": "wedge"}, "x"))
        with pytest.raises(ConfigError, match="step wedge"):
            load_calibration(path, now=LATER)
        path.write_bytes(seal_document(flat_scale, "x"))
        with pytest.raises(ConfigError, match="not a step wedge"):
            load_wedge(path, now=LATER)

    def test_validity_must_be_plausible(self):
        for days in (0, -1, 5000):
            with pytest.raises(UsageError):
                Heading([], valid=timedelta(days=days))


def scene(seed=0, size=(640, 480)):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(120, 4, size[::-1]), 0, 255).astype(np.uint8)


def watched(pixels, limits=None, dots=()):
    fiducial = find_fiducial(pixels, "station.png", dots)
    result = scale_from_pixel_pitch((0.1, 0.1), 1.0, 0.0)
    size = (pixels.shape[1], pixels.shape[0])
    document = scale_document(
        result, size, Heading([], valid=timedelta(days=1), now=MADE), fiducial=fiducial, limits=limits
    )
    return Calibration.from_document(json.loads(json.dumps(document)), "")


def moved(pixels, shift, scale=1.0, rotation_mrad=0.0, noise=4.0, seed=1):
    """The frame as a camera that has moved would see it, by a known similarity about the frame's middle."""
    height, width = pixels.shape
    turn = scale * np.exp(1j * rotation_mrad / 1000)
    a = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    middle = np.array([width / 2, height / 2])
    matrix = np.column_stack([a, middle + shift - a @ middle])
    seen = cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    noisy = seen + np.random.default_rng(seed).normal(0, noise, seen.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


class TestDrift:
    def two_markers(self):
        pixels = add_marker(scene(), 3, (20, 20), 72)
        return cv2.GaussianBlur(add_marker(pixels, 8, (500, 340), 72), (0, 0), 0.9)

    def test_unmoved(self):
        pixels = self.two_markers()
        calibration = watched(pixels)
        drift = calibration.drift(moved(pixels, (0, 0)))
        assert drift.found and drift.ok and drift.reason is None
        assert drift.shift_px < 0.03 and abs(drift.scale_ppm) < 100 and abs(drift.rotation_mrad) < 0.1
        assert (drift.seen, drift.of) == (2, 2)

    @pytest.mark.parametrize(
        ("shift", "scale", "rotation_mrad"),
        [((1.3, -0.7), 1.0, 0.0), ((0, 0), 1.002, 0.0), ((0, 0), 1.0, 4.0), ((-6.2, 3.1), 0.998, -3.0)],
    )
    def test_known_moves_are_measured(self, shift, scale, rotation_mrad):
        pixels = self.two_markers()
        drift = watched(pixels).drift(moved(pixels, np.array(shift, float), scale, rotation_mrad))
        assert drift.found
        # The marks' own middle moves by the shift and by what scale and rotation do away from the frame's middle.
        assert drift.shift_px == pytest.approx(np.hypot(*shift), abs=0.15)
        assert drift.scale_ppm == pytest.approx(1e6 * (scale - 1), abs=150)
        assert drift.rotation_mrad == pytest.approx(rotation_mrad, abs=0.15)

    def test_limits_decide(self):
        pixels = self.two_markers()
        seen = moved(pixels, (2.0, 0.0))
        assert watched(pixels, DriftLimits(3.0, 500.0, 2.0)).drift(seen).ok
        drift = watched(pixels, DriftLimits(1.0, 500.0, 2.0)).drift(seen)
        assert not drift.ok and drift.reason.code == "CALIBRATION_DRIFT"
        assert not watched(pixels, DriftLimits(10.0, 500.0, 2.0)).drift(moved(pixels, (0, 0), 1.002)).ok
        assert not watched(pixels, DriftLimits(10.0, 5000.0, 2.0)).drift(moved(pixels, (0, 0), 1.0, 4.0)).ok

    def test_one_marker_covered_the_other_serves(self):
        pixels = self.two_markers()
        covered = pixels.copy()
        covered[:130, :130] = 90
        drift = watched(pixels).drift(moved(covered, (1.0, 1.0)))
        assert drift.found and drift.seen == 1
        assert drift.shift_px == pytest.approx(np.sqrt(2), abs=0.1)

    def test_lost(self):
        drift = watched(self.two_markers()).drift(scene(5))
        assert not drift.found and not drift.ok
        assert drift.reason.code == "FIDUCIAL_LOST"

    @pytest.mark.parametrize("dark", [True, False])
    def test_dots(self, dark):
        pixels = np.full((480, 640), 200 if dark else 40, np.uint8)
        for x, y in ((60, 50), (580, 60), (70, 430)):
            cv2.circle(pixels, (x, y), 12, 30 if dark else 220, -1, cv2.LINE_AA)
        pixels = cv2.GaussianBlur(pixels, (0, 0), 1.0)
        calibration = watched(pixels, dots=[(61, 49, 24), (579, 61, 24), (70, 431, 24)])
        for shift, scale, turn in (((0.8, 0.4), 1.0, 0.0), ((4.0, -3.0), 1.001, 2.0)):
            drift = calibration.drift(moved(pixels, np.array(shift), scale, turn))
            assert drift.found
            assert drift.scale_ppm == pytest.approx(1e6 * (scale - 1), abs=250)
            assert drift.rotation_mrad == pytest.approx(turn, abs=0.25)
        assert not calibration.drift(np.full((480, 640), 200, np.uint8)).found

    def test_what_cannot_watch(self, flat_scale):
        with pytest.raises(ImageError, match="no marker") as caught:
            find_fiducial(scene(), "s.png")
        assert caught.value.code == "NO_FIDUCIAL"
        with pytest.raises(UsageError, match="one dot"):
            find_fiducial(scene(), "s.png", [(10, 10, 5)])
        with pytest.raises(ImageError, match="no round dot at"):
            find_fiducial(scene(), "s.png", [(100, 100, 20), (200, 200, 20)])
        with pytest.raises(UsageError, match="no mark"):
            Calibration.from_document(flat_scale, "").drift(np.zeros((240, 320), np.uint8))
        with pytest.raises(UsageError):
            DriftLimits(0.0)
