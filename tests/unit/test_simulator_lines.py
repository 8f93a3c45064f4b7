"""A simulated line: the same part again and again, a little different each time, spoilt where asked."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_daemon.errors import UsageError
from edge_daemon.simulator import Exposure, PlannedDefect
from edge_daemon.simulator.lines import Line

SIDE = 160
#: An exposure without anything that is drawn anew for each frame but its noise.
CLEAN = Exposure(wall_mm=6.0, wall_grey=0.5, quanta=1e7, electronic=0.0, row_noise=0.0, bits=16)


def test_the_same_arguments_give_the_same_frames_and_other_numbers_others() -> None:
    first, again = (Line(5, "gear", "film", (SIDE, SIDE)) for _ in range(2))
    assert np.array_equal(first.frame(3).pixels, again.frame(3).pixels)
    assert not np.array_equal(first.frame(3).pixels, first.frame(4).pixels)
    assert not np.array_equal(first.frame(3).pixels, Line(6, "gear", "film", (SIDE, SIDE)).frame(3).pixels)


def test_every_frame_shows_the_same_part_within_the_stated_play() -> None:
    line = Line(7, "valve_body", "flat_panel", (SIDE, SIDE), exposure=CLEAN)
    frames = [np.float32(cv2.GaussianBlur(line.frame(k).pixels, (0, 0), 1.5)) / 65535.0 for k in range(6)]
    assert len({frame.tobytes() for frame in frames}) == 6
    for frame in frames[1:]:
        warp = np.eye(2, 3, dtype=np.float32)
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
        agreement, warp = cv2.findTransformECC(frames[0], frame, warp, cv2.MOTION_AFFINE, criteria, None, 5)
        assert agreement > 0.99
        turn = np.degrees(np.arctan2(warp[1, 0], warp[0, 0]))
        zoom = np.sqrt(abs(np.linalg.det(warp[:, :2])))
        middle = warp @ np.array([SIDE / 2, SIDE / 2, 1.0]) - SIDE / 2
        # Both frames have their play: up to twice 1 degree, 0.5 % and 4 px.
        assert abs(turn) < 2.2
        assert abs(zoom - 1.0) < 0.012
        assert np.abs(middle).max() < 8.5


def test_what_is_planted_is_missing_metal_of_this_frame_only() -> None:
    """A void of a few mm in a line without noise is brighter, foreign metal darker, and nothing else changes much."""
    line = Line(9, "block", "flat_panel", (SIDE, SIDE), exposure=CLEAN)
    sound = line.frame(2)
    assert not sound.labels.any()
    assert not sound.signal.any()
    for kind, sense in (("gas_hole", 1), ("foreign_more_dense", -1)):
        spoilt = line.frame(2, [PlannedDefect(kind, 3.0, 2.0)])
        inside = spoilt.labels > 0
        change = spoilt.pixels.astype(np.float64) - sound.pixels.astype(np.float64)
        assert inside.any()
        assert (np.sign(change[inside]) == sense).mean() > 0.95
        # The change is the stated signal; so many quanta leave next to no noise.
        assert np.abs(change / 257.0 - spoilt.signal).max() < 0.6
        assert [one.type for one in spoilt.defects] == [kind]


def test_a_frame_may_be_asked_to_hold_at_least_some_defects() -> None:
    line = Line(11, "gear", "intensifier", (SIDE, SIDE))
    assert all(len(line.frame(k, None, at_least=2).defects) >= 2 for k in range(5))
    assert any(not line.frame(k, None).defects for k in range(12))


@pytest.mark.parametrize(
    ("family", "mode", "size", "what"),
    [("teapot", "film", (64, 64), "family"), ("gear", "polaroid", (64, 64), "mode"), ("gear", "film", (8, 8), "px")],
)
def test_what_cannot_be_simulated_is_refused(family: str, mode: str, size: tuple[int, int], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Line(1, family, mode, size)
