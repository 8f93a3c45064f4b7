"""Lens and plane from points: inverse maps, dot bias, covariance against simulation, refusals. No pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_daemon.calibration import fit_plane, parse_target
from edge_daemon.calibration.fit import _centroids
from edge_daemon.calibration.geometry import PlaneModel, distort, smooth_field, undistort
from edge_daemon.errors import ImageError, UsageError
from edge_daemon.testing.calibration_study import length_errors
from edge_daemon.testing.calibration_views import Camera, point_view, pose, random_camera, random_views

BOARD = parse_target("EDC-14x10-10mm")
DOTS = parse_target("EDD-21x15-8mm")


def camera_and_views(seed, target=BOARD, sd_px=0.012, count=7):
    rng = np.random.default_rng(seed)
    camera = random_camera(rng)
    poses = random_views(camera, target, target.pitch_mm, rng, count)
    views = [
        point_view(camera, target, target.pitch_mm, one, rng, sd_px, f"view{n}.png") for n, one in enumerate(poses)
    ]
    return camera, poses, views


@pytest.fixture(scope="module")
def views():
    return camera_and_views(3)[2]


def fit(views, target=BOARD, **kwargs):
    return fit_plane(views, target, (target.pitch_mm, target.pitch_mm), 0.0, **kwargs)


class TestGeometry:
    def test_lens_and_its_inverse(self):
        lens = np.array([-0.25, 0.1, 1e-3, -8e-4, 0.02])
        points = np.random.default_rng(0).uniform(-0.45, 0.45, (500, 2))
        there, jacobian = distort(lens, points)
        assert np.abs(undistort(lens, there) - points).max() < 1e-12
        step = 1e-6
        numeric = (distort(lens, points + np.array([step, 0]))[0] - distort(lens, points - np.array([step, 0]))[0]) / (
            2 * step
        )
        assert np.abs(jacobian[:, :, 0] - numeric).max() < 1e-8

    def test_a_folded_lens_has_no_inverse(self):
        lens = np.array([-0.5, 0.0, 0.0, 0.0, 0.0])  # r (1 - r^2 / 2) turns back at r = 0.8165, at 0.5443
        assert np.isnan(undistort(lens, np.array([[0.6, 0.0]]))).all()
        assert np.isfinite(undistort(lens, np.array([[0.5, 0.0]]))).all()

    def test_plane_and_back(self):
        camera = random_camera(np.random.default_rng(1))
        model = camera.seeing(pose(BOARD, 10.0, 400.0, (20.0, -10.0), 7.0))
        uv = np.random.default_rng(2).uniform((0, 0), camera.size_px, (200, 2))
        assert np.abs(model.to_frame(model.to_plane(uv)) - uv).max() < 1e-9

    def test_straight_above_the_scale_is_distance_over_focal_length(self):
        camera = Camera((1000, 800), (2000.0, 2000.0, 499.5, 399.5, 0, 0, 0, 0, 0))
        model = camera.seeing(pose(BOARD, 10.0, 300.0, (0.0, 0.0), 12.0))
        scale = model.mm_per_px(np.array([[0.0, 0.0], [999.0, 799.0], [500.0, 10.0]]))
        assert scale == pytest.approx([0.15, 0.15, 0.15], rel=1e-9)

    def test_smooth_field_equals_the_function(self):
        camera = random_camera(np.random.default_rng(5))
        model = camera.seeing(pose(BOARD, 10.0, 350.0, (25.0, 15.0), 30.0))
        field = smooth_field(model.to_plane, 1280, 1024)
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 1280, 300), rng.integers(0, 1024, 300)
        exact = model.to_plane(np.column_stack([x, y]).astype(float))
        assert np.abs(field[:, y, x].T - exact).max() * camera.lens[0] / 350.0 < 1e-3  # px

    def test_dot_bias_equals_the_ellipse_of_the_conic(self):
        # Truth by hand: the dual conic of a circle maps as H C* H^T; the centre of an ellipse is its last column.
        model = PlaneModel(
            "homography", np.array([8.0, 0.5, 300.0, -0.3, 6.5, 200.0, 1.2e-3, 2.1e-3]), np.zeros((8, 8))
        )
        homography = np.append(model.theta, 1.0).reshape(3, 3)
        centre, radius = np.array([20.0, 30.0]), 2.0
        dual = np.outer([*centre, 1.0], [*centre, 1.0]) - np.diag([radius**2, radius**2, 0.0])
        seen = homography @ dual @ homography.T
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        outline = model.to_frame(centre + radius * np.column_stack([np.cos(angles), np.sin(angles)]))
        assert _centroids(outline[None])[0] == pytest.approx(seen[:2, 2] / seen[2, 2], abs=2e-4)
        assert np.linalg.norm(seen[:2, 2] / seen[2, 2] - model.to_frame(centre[None])[0]) > 0.03


class TestFit:
    def test_exact_points_give_back_the_camera(self):
        camera, poses, exact = camera_and_views(11, sd_px=0.0)
        found = fit(exact)
        assert found.model.theta[:4] == pytest.approx(camera.lens[:4], rel=1e-6)
        assert found.model.theta[4:8] == pytest.approx(camera.lens[4:8], abs=1e-6)
        assert found.model.theta[12:] == pytest.approx(poses[-1][3:], rel=1e-6)
        assert found.held_out_rms_px < 1e-5
        assert found.outliers == 0

    def test_held_out_points_are_not_in_the_fit(self, views):
        moved = []
        for number, view in enumerate(views):
            places = BOARD.indices(view.ids)
            held = (places[:, 0] + 2 * places[:, 1] + number) % 5 == 0
            moved.append(replace(view, uv=np.where(held[:, None], view.uv + 0.5, view.uv)))
        before, after = fit(views), fit(moved)
        assert after.model.theta == pytest.approx(before.model.theta, rel=1e-9, abs=1e-9)  # sums run over threads
        assert after.held_out_rms_px == pytest.approx(0.5, abs=0.02)
        assert before.held_out_rms_px == pytest.approx(0.012, rel=0.2)
        share = before.held_out_points / (before.held_out_points + before.points)
        assert share == pytest.approx(0.2, abs=0.02)

    def test_dots_are_corrected_for_perspective(self):
        """Views hold the centres of gravity that a camera sees; uncorrected they are off by up to 0.2 px."""
        rng = np.random.default_rng(4)
        camera = random_camera(rng)
        angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        seen, worst = [], 0.0
        for number, one in enumerate(random_views(camera, DOTS, 8.0, rng, 7)):
            view = point_view(camera, DOTS, 8.0, one, rng, 0.0, f"{number}")
            model, places = camera.seeing(one), DOTS.points_mm(view.ids, (8.0, 8.0))
            outline = places[:, None] + circle * (8.0 * DOTS.radii(view.ids))[:, None, None]
            centres = _centroids(model.to_frame(outline.reshape(-1, 2)).reshape(len(places), -1, 2))
            worst = max(worst, float(np.abs(centres - view.uv).max()))
            seen.append(replace(view, uv=centres))
        assert worst > 0.05
        found = fit(seen, DOTS)
        assert found.held_out_rms_px < 1e-3
        assert found.model.theta[0] == pytest.approx(camera.lens[0], rel=1e-5)

    def test_a_few_wrong_points_are_left_out(self, views):
        bent = [replace(view, uv=view.uv.copy()) for view in views]
        for view in bent[:3]:
            places = BOARD.indices(view.ids)
            number = bent.index(view)
            free = np.flatnonzero((places[:, 0] + 2 * places[:, 1] + number) % 5 != 0)
            view.uv[free[7]] += 3.0
        found = fit(bent)
        assert found.outliers == 3
        assert found.model.theta[0] == pytest.approx(fit(views).model.theta[0], rel=1e-3)

    def test_stated_uncertainty_covers_the_error(self):
        """30 cameras: a length in a random direction at random places is within k = 2 of the truth in about 95 %."""
        covered, ratios = [], []
        for seed in range(30):
            camera, poses, seen = camera_and_views(1000 + seed, sd_px=0.02, count=6)
            found = fit(seen)
            rng = np.random.default_rng(seed)
            uv = rng.uniform((0, 0), (1279, 1023), (40, 2))
            error = length_errors(camera.seeing(poses[-1]), found.model, uv, rng.uniform(0, np.pi, 40))
            u = found.model.u_relative(uv)
            covered.append(np.mean(np.abs(error) <= 2 * u))
            ratios.append(np.mean((error / u) ** 2))
        # u is that of the worst direction, so a random one is covered a little more often than 95.45 %.
        assert 0.92 <= np.mean(covered) <= 0.995
        assert 0.5 <= np.sqrt(np.mean(ratios)) <= 1.15

    def test_one_view_puts_the_lens_into_the_uncertainty(self):
        rng = np.random.default_rng(8)
        flat = Camera((1280, 1024), (2000.0, 2000.0, 639.5, 511.5, 0, 0, 0, 0, 0))
        bent = replace(flat, lens=(*flat.lens[:4], -0.08, 0.0, 0.0, 0.0, 0.0))
        at = pose(BOARD, 10.0, 225.0, (1.0, -1.0), 2.0)
        uv = np.column_stack([rng.uniform(0, 1279, 300), rng.uniform(0, 1023, 300)])
        angles = rng.uniform(0, np.pi, 300)
        straight = fit([point_view(flat, BOARD, 10.0, at, rng, 0.015, "flat")])
        assert straight.model.kind == "homography"
        assert straight.u_misfit == 0.0
        assert np.abs(length_errors(flat.seeing(at), straight.model, uv, angles)).max() < 300e-6
        curved = fit([point_view(bent, BOARD, 10.0, at, rng, 0.015, "bent")])
        error = np.abs(length_errors(bent.seeing(at), curved.model, uv, angles))
        assert error.max() > 2e-3
        u = np.hypot(curved.u_misfit, curved.model.u_relative(uv))
        assert np.mean(error <= 2 * u) >= 0.95
        assert curved.u_misfit < 5 * np.sqrt(np.mean(error**2))  # honest, not merely huge

    def test_pitch_of_each_axis(self):
        camera = Camera((1280, 1024), (2000.0, 2000.0, 639.5, 511.5, 0, 0, 0, 0, 0))
        rng = np.random.default_rng(0)
        view = point_view(camera, BOARD, 10.0, pose(BOARD, 10.0, 225.0, (0.0, 0.0), 0.0), rng, 0.0, "a")
        found = fit_plane([view], BOARD, (10.0, 10.1), 0.02)
        jacobian = found.model.jacobian(np.array([[640.0, 512.0]]))[0]
        assert jacobian[1, 1] / jacobian[0, 0] == pytest.approx(1.01, rel=1e-6)
        assert found.u_pitch == pytest.approx(0.002)


class TestRefusals:
    def test_too_few_views(self, views):
        with pytest.raises(UsageError, match="3 views are too few") as caught:
            fit(views[-3:])
        assert caught.value.code == "TOO_FEW_VIEWS"

    def test_the_same_view_twice(self, views):
        again = replace(views[2], name="copy.png", sha256="other", uv=views[2].uv + 0.01)
        with pytest.raises(ImageError, match=r"view2\.png and copy\.png show the same view") as caught:
            fit([*views[:-1], again, views[-1]])
        assert caught.value.code == "DUPLICATE_VIEW"

    def test_sizes_mixed(self, views):
        with pytest.raises(ImageError, match=r"640 x 480 px, view0\.png has 1280 x 1024") as caught:
            fit([*views[:3], replace(views[3], size_px=(640, 480)), *views[4:]])
        assert caught.value.code == "SIZE_MIX"

    def test_no_tilt(self):
        rng = np.random.default_rng(2)
        camera = random_camera(rng)
        flat = [
            point_view(
                camera, BOARD, 10.0, pose(BOARD, 10.0, z, (n, 2.0 - n), 4.0 * n, (3.0 * n, -2.0 * n)), rng, 0.01, str(n)
            )
            for n, z in enumerate((262.0, 270.0, 290.0, 265.0, 280.0, 262.0))
        ]
        with pytest.raises(ImageError) as caught:
            fit(flat)
        assert caught.value.code == "TILT"
        assert "tilt the target by 15 to 30 degrees" in caught.value.hint

    def test_the_plane_view_must_show_enough_of_the_target(self, views):
        keep = views[-1].uv[:, 0] < 480
        cut = replace(views[-1], ids=views[-1].ids[keep], uv=views[-1].uv[keep])
        for given in ([*views[:-1], cut], [cut]):
            with pytest.raises(ImageError, match=r"view6\.png: the target covers \d+ % of the frame") as caught:
                fit(given)
            assert caught.value.code == "COVERAGE"

    def test_nothing_seen_on_the_right_is_said_so(self, views):
        crop = [replace(v, ids=v.ids[v.uv[:, 0] < 600], uv=v.uv[v.uv[:, 0] < 600]) for v in views]
        with pytest.raises(ImageError, match=r"top right.*bottom right") as caught:
            fit(crop)
        assert caught.value.code == "COVERAGE"
        assert "left" not in caught.value.message.split("nothing was seen")[1]

    def test_a_view_of_another_target(self, views):
        bent = [*views]
        xy = BOARD.points_mm(bent[1].ids, (10.0, 10.0))
        bent[1] = replace(bent[1], uv=bent[1].uv + 4.0 * np.sin(xy / 15.0))  # a target that is not flat
        with pytest.raises(ImageError, match=r"do not fit one camera and one flat target") as caught:
            fit(bent)
        assert caught.value.code == "MISFIT"

    @pytest.mark.parametrize(
        ("pitch", "u"), [(254.0, 0.0), (0.01, 0.0), (float("nan"), 0.0), (10.0, 2.0), (10.0, -1.0)]
    )
    def test_pitch_that_cannot_be(self, views, pitch, u):
        with pytest.raises(UsageError, match=r"pitch"):
            fit_plane(views, BOARD, (pitch, pitch), u)

    @pytest.mark.parametrize(
        "text", ["EDC-14x10", "EDC-2x10-10mm", "EDC-40x40-10mm", "EDD-21x15-0.001mm", "", "EDC-14x10-10in"]
    )
    def test_targets_that_cannot_be(self, text):
        with pytest.raises(UsageError):
            parse_target(text)
