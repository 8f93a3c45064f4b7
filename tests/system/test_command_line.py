"""The command line as its users meet it: a process, its exit code, one sentence on stderr, JSON on stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_daemon.resources import engine_folder
from edge_daemon.simulator import conveyor_part


def edge(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_daemon", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=cwd, env=environment, check=False)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    with as_file(files("edge_daemon.demo").joinpath("recipe.toml")) as shipped:
        shutil.copyfile(shipped, path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for number, planted in enumerate(("sound", "crack")):
        cv2.imwrite(str(folder / f"{planted}.png"), conveyor_part(980_000 + number, planted).pixels)
    return folder


def test_a_sound_part_exits_0_and_a_cracked_one_1(recipe: Path, parts: Path) -> None:
    sound = edge("inspect", parts / "sound.png", "--recipe", recipe, "--json")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert json.loads(sound.stdout)["outcome"] == "PASS"
    crack = edge("inspect", parts / "crack.png", "--recipe", recipe, "--json")
    assert crack.returncode == 1
    assert {defect["type"] for defect in json.loads(crack.stdout)["defects"]} == {"crack"}
    assert edge("inspect", parts / "crack.png", "--recipe", recipe, "--exit-zero").returncode == 0


def test_a_folder_gives_one_object_an_image_and_the_files_of_each(recipe: Path, parts: Path, tmp_path: Path) -> None:
    answer = edge("inspect", parts, parts / "sound.png", "--recipe", recipe, "--json", "--out", tmp_path / "out")
    documents = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [Path(one["image"]).name for one in documents] == ["crack.png", "sound.png", "sound.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["crack", "sound", "sound-2"]
    for folder in (tmp_path / "out").iterdir():
        written = {path.name for path in folder.iterdir()}
        assert written >= {"record.json", "labels.png", "highlight.png", "report.html", "report.pdf"}
    pixels = cv2.imread(str(parts / "crack.png"), cv2.IMREAD_UNCHANGED)
    labels = cv2.imread(str(tmp_path / "out" / "crack" / "labels.png"), cv2.IMREAD_UNCHANGED)
    yellow = cv2.imread(str(tmp_path / "out" / "crack" / "highlight.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == pixels.shape
    assert (yellow[labels > 0] == (0, 255, 255)).all()
    assert (yellow[labels == 0] == pixels[labels == 0][:, None]).all()


def _bad_pictures(folder: Path) -> dict[str, str]:
    """File name -> a word its message must contain."""
    grey = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    good = cv2.imencode(".png", grey)[1].tobytes()
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").write_bytes(b"")
    cv2.imwrite(str(folder / "one.png"), grey[:1, :1])
    Image.fromarray(np.dstack([grey, grey, grey, grey]), "RGBA").save(folder / "alpha.png")
    Image.fromarray(grey.astype(np.float32), "F").save(folder / "float.tif")
    turned = Image.new("RGB", (64, 48))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    huge = bytearray(good)
    huge[16:24] = (200_000).to_bytes(4, "big") * 2
    import zlib

    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4, "big")
    (folder / "huge.png").write_bytes(bytes(huge))
    (folder / "folder.png").mkdir()
    return {
        "truncated.png": "",
        "text.png": "",
        "empty.png": "empty",
        "one.png": "1",
        "alpha.png": "transparen",
        "float.tif": "float",
        "turned.jpg": "turned",
        "huge.png": "more than",
        "missing.png": "does not exist",
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_a_bad_picture_gets_one_sentence_exit_code_2_and_leaves_nothing(tmp_path: Path) -> None:
    for name, word in _bad_pictures(tmp_path).items():
        out = tmp_path / f"out-{name}"
        answer = edge("inspect", tmp_path / name, "--mm-per-px", "0.1", "--json", "--out", out)
        assert answer.returncode == 2, (name, answer.stderr)
        assert answer.stdout == ""
        assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
        assert name in answer.stderr
        assert word in answer.stderr, (name, answer.stderr)
        assert "Traceback" not in answer.stderr
        assert not out.exists() or not any(out.rglob("*")), name


def test_16_bit_is_inspected_like_8_bit(recipe: Path, parts: Path, tmp_path: Path) -> None:
    pixels = cv2.imread(str(parts / "crack.png"), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), pixels)
    answer = edge("inspect", tmp_path / "deep.png", "--recipe", recipe, "--json", "--out", tmp_path / "out")
    assert {defect["type"] for defect in json.loads(answer.stdout)["defects"]} == {"crack"}
    yellow = cv2.imread(str(tmp_path / "out" / "deep" / "highlight.png"), cv2.IMREAD_UNCHANGED)
    assert yellow.dtype == np.uint16
    labels = cv2.imread(str(tmp_path / "out" / "deep" / "labels.png"), cv2.IMREAD_UNCHANGED)
    assert (yellow[labels == 0] == pixels[labels == 0][:, None]).all()


def test_one_bad_picture_among_good_ones_does_not_stop_them(recipe: Path, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    answer = edge("inspect", tmp_path / "broken.png", parts / "sound.png", "--recipe", recipe, "--json")
    assert answer.returncode == 2
    assert [json.loads(line)["outcome"] for line in answer.stdout.splitlines()] == ["PASS"]


def test_a_bundle_with_one_byte_changed_is_refused_with_exit_code_4(parts: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(engine_folder("castings-xray"), tmp_path / "bundle"))
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(bytes(data))
    for arguments in (("inspect", parts / "sound.png", "--engine", bundle), ("engine", "verify", bundle)):
        answer = edge(*arguments)
        assert answer.returncode == 4, answer.stderr
        assert "model.onnx" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("inspect",), 2, "IMAGE|DIR"),
        (("inspect", "x.png", "--mm-per-px", "-1"), 2, "not a positive number"),
        (("inspect", "x.png", "--mm-per-px-u", "0.1"), 2, "without --mm-per-px"),
        (("inspect", "x.png", "--engine", "nonesuch"), 2, "was not found"),
        (("judge", "a.png", "--against", "b.png", "--mm-per-px", "0.1"), 2, "--window-mm"),
        (
            ("judge", "a.png", "--against", "b.png", "--mm-per-px", "0.1", "--window-mm", "0"),
            2,
            "not a positive number",
        ),
        (("run", "--config", "absent.toml"), 2, "no such file"),
        (("check", "--config", "absent.toml"), 2, ""),
        (("memory", "stats", "--database", "absent.db"), 2, "no such memory bank"),
        (("demo", "--rate", "3 furlongs"), 2, "not a unit of rate"),
        (("nonesuch",), 2, "invalid choice"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], code: int, words: str) -> None:
    answer = edge(*arguments)
    assert answer.returncode == code, answer.stderr
    assert words in answer.stderr + answer.stdout
    assert "Traceback" not in answer.stderr


def test_judge_prints_the_contracts_object(tmp_path: Path) -> None:
    part, reference = np.zeros((50, 60), np.uint8), np.zeros((40, 40), np.uint8)
    part[10:14, 10:20] = 2
    reference[5:9, 5:15] = 2
    cv2.imwrite(str(tmp_path / "part.png"), part)
    cv2.imwrite(str(tmp_path / "ref.png"), reference)
    answer = edge("judge", tmp_path / "part.png", "--against", tmp_path / "ref.png", "--mm-per-px", "0.1",
                  "--window-mm", "1", "20", "--json")  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")
    document = json.loads(answer.stdout)
    (one,) = document["types"]
    assert [window["side_px"] for window in one["windows"]] == [10, 200]
    # The large window is clipped to either image: 40 of 3000 pixels against 40 of 1600.
    assert one["windows"][1]["area_pct"]["value"] == pytest.approx(100 * 40 / 3000)
    assert one["windows"][1]["area_pct"]["limit"] == pytest.approx(100 * 40 / 1600)
    assert one["max_size_mm"]["value"] == pytest.approx(np.hypot(1.0, 0.4))


def test_help_of_every_command_has_an_example() -> None:
    from edge_daemon.cli import build_parser

    def walk(parser):
        yield parser
        for action in parser._actions:
            if isinstance(getattr(action, "choices", None), dict):
                for child in action.choices.values():
                    yield from walk(child)

    commands = list(walk(build_parser()))
    assert len(commands) > 20
    for parser in commands:
        assert "example: edge-daemon" in (parser.epilog or ""), parser.prog
