"""Sharpness: blur lowers it, light and noise do not, and a limit is given only where it means something."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_daemon import focus
from edge_daemon.errors import ConfigError
from edge_daemon.focus import focus_refusal, limit_of, read_focus, sharpness
from edge_daemon.images import write_png_atomic
from edge_daemon.settings import Settings
from edge_daemon.simulator import conveyor_part


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    return [conveyor_part(985_000 + n, ("sound", "crack", "rejectable")[n % 3]).pixels for n in range(9)]


def test_the_constants_of_white_noise_are_what_they_are_called() -> None:
    noise = np.random.default_rng(1).normal(size=(900, 900)).astype(np.float32)
    assert focus._slope2(noise, focus._FINE_PX).mean() == pytest.approx(focus._NOISE_FINE, rel=0.03)
    assert focus._slope2(noise, focus._COARSE_PX).mean() == pytest.approx(focus._NOISE_COARSE, rel=0.1)
    assert focus._noise(noise) == pytest.approx(1.0, rel=0.03)


def test_blur_lowers_it_steadily(frames: list[NDArray[np.uint8]]) -> None:
    found = [sharpness(cv2.GaussianBlur(frames[0], (0, 0), sigma) if sigma else frames[0]) for sigma in (0, 1, 2, 4)]
    assert found == sorted(found, reverse=True)
    assert found[1] < 0.97 * found[0]


def test_light_depth_and_colour_do_not_matter(frames: list[NDArray[np.uint8]]) -> None:
    frame = frames[0]
    as_it_is = sharpness(frame)
    assert sharpness(frame.astype(np.uint16) * 257) == pytest.approx(as_it_is, rel=1e-4)
    assert sharpness(np.dstack([frame] * 3)) == pytest.approx(as_it_is, rel=1e-4)
    assert sharpness((frame * 0.7).round().astype(np.uint8)) == pytest.approx(as_it_is, rel=0.03)


def test_a_frame_without_any_edge_is_not_sharp() -> None:
    assert sharpness(np.full((64, 64), 80, np.uint8)) == 0.0
    assert focus_refusal(np.full((64, 64), 80, np.uint8), 0.5) is not None
    assert focus_refusal(np.full((64, 64), 80, np.uint8), None) is None


def test_the_limit_takes_sharp_frames_it_never_saw_and_refuses_blurred_ones(frames: list[NDArray[np.uint8]]) -> None:
    least, sigma_px = limit_of(frames[:6])
    assert sigma_px <= 1.5
    for frame in frames[6:]:
        assert focus_refusal(frame, least) is None
        refusal = focus_refusal(focus._blurred(frame, sigma_px), least)
        assert refusal is not None
        assert refusal.code == "FOCUS"


def test_pictures_of_different_things_give_no_limit(frames: list[NDArray[np.uint8]]) -> None:
    soft = cv2.GaussianBlur(frames[1], (0, 0), 6.0)
    with pytest.raises(ConfigError, match="cannot be told from the sharp ones"):
        limit_of([frames[0], soft])


def _read(folder: Path, text: str) -> float | None:
    (folder / "recipe.toml").write_text(f"[focus]\n{text}\n")
    return read_focus(Settings.load(folder / "recipe.toml").table("focus"))


def test_the_recipe_states_the_limit_and_its_frames_say_which(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    assert read_focus(None) is None
    assert _read(tmp_path, "least = 1.46") == 1.46
    (tmp_path / "sharp").mkdir()
    for text in ("", 'frames = "nowhere"', 'frames = "sharp"', "least = -1", "most = 2"):
        with pytest.raises(ConfigError):
            _read(tmp_path, text)
    for number, frame in enumerate(frames):
        write_png_atomic(tmp_path / "sharp" / f"{number}.png", frame)
    with pytest.raises(ConfigError, match=r"9 frames say least = 1\.\d+"):
        _read(tmp_path, 'frames = "sharp"')
