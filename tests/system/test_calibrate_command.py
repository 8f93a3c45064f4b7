"""``edge-daemon calibrate`` from rendered pictures in files to sealed calibrations, and every way it says no."""

from __future__ import annotations

import argparse
import json
import zlib

import numpy as np
import pytest

from edge_daemon.calibration import load_calibration, parse_target
from edge_daemon.cli import calibrating, run_command
from edge_daemon.images import load_picture, write_png_atomic
from edge_daemon.resources import data_folder
from edge_daemon.segment.sealed import open_document, seal_document
from edge_daemon.testing import calibration_views
from edge_daemon.testing.calibration_study import one_run
from edge_daemon.testing.calibration_views import random_camera, random_views, render

BOARD = ["--target", "EDC-14x10-10mm", "--pitch", "10mm", "--pitch-u", "0.002mm"]


def calibrate(*words):
    parser = argparse.ArgumentParser(prog="edge-daemon")
    calibrating.register(parser.add_subparsers(dest="command"))
    args = parser.parse_args(["calibrate", *(str(word) for word in words)])
    return run_command(args.run, args)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Six rendered views, as the module command writes them, and the truth of the plane view."""
    folder = tmp_path_factory.mktemp("views")
    assert calibration_views.main([str(folder), "--seed", "4", "--views", "6"]) == 0
    rng = np.random.default_rng(4)
    camera = random_camera(rng)
    poses = random_views(camera, parse_target("EDC-14x10-10mm"), 10.0, rng, 6)
    return folder, camera.seeing(poses[-1])


@pytest.fixture(scope="module")
def board(views):
    folder, _ = views
    out = folder / "station.json"
    assert calibrate("board", *sorted(folder.glob("view-*.png")), *BOARD, "--camera", "c1", "--fiducial",
                     folder / "station.png", "--height-u", "0.2mm", "--out", out) == 0  # fmt: skip
    return out


@pytest.mark.parametrize("seed", [901, 902])
def test_goal_held_out_rms_and_scale_error(seed):
    """Noise 2 %, blur 1 px: held-out points within 0.05 px RMS, scale within 200 ppm wherever the target lay."""
    run = one_run(seed, views=6, size_px=(1120, 896))
    assert run.held_out_rms_px <= 0.05
    assert run.worst_inside_ppm <= 200
    assert abs(run.mean_ppm) <= 100
    assert run.u_ppm < 100
    assert run.worst_inside_ppm < 5 * run.u_largest_ppm


def test_goal_with_a_dot_grid():
    run = one_run(903, "EDD-21x15-8mm", 6, size_px=(1120, 896))
    assert run.held_out_rms_px <= 0.05
    assert run.worst_inside_ppm <= 200


def test_board_file_is_true_and_complete(views, board):
    _, truth = views
    calibration = load_calibration(board)
    middle = np.array([[639.5, 511.5]])
    seen = calibration.model.mm_per_px(middle)[0] / truth.mm_per_px(middle)[0] - 1
    assert abs(seen) < 200e-6
    document = calibration.document
    assert document["target"] == {"id": "EDC-14x10-10mm", "pitch_mm": [10.0, 10.0], "pitch_u_mm": 0.002}
    assert document["camera"] == "c1" and document["size_px"] == [1280, 1024]
    folder = board.parent
    assert [one["sha256"] for one in document["sources"]] == [
        load_picture(folder / f"view-{n}.png").sha256 for n in range(1, 7)
    ]
    assert 0 < document["residuals"]["held_out_rms_px"] <= 0.05
    assert document["residuals"]["held_out_points"] > 100
    assert np.array(document["coverage"]).shape == (6, 8)
    assert {one["name"] for one in document["budget"]} == {"fit", "target_pitch", "model", "height"}
    field = document["plane"]["field"]
    assert np.array(field["mm_per_px"]).shape == np.array(field["u_relative"]).shape == (7, 9)
    numbers = np.array(document["plane"]["covariance"])
    assert numbers.shape == (15, 15) and np.all(np.linalg.eigvalsh(numbers) > -1e-9)


def test_one_view_calibrates_the_plane_alone(views, tmp_path, capsys):
    folder, truth = views
    assert calibrate("board", folder / "view-6.png", *BOARD, "--out", tmp_path / "one.json", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "plane" and "free of distortion" in shown["notes"][0]
    calibration = load_calibration(tmp_path / "one.json")
    middle = np.array([[639.5, 511.5]])
    error = calibration.model.mm_per_px(middle)[0] / truth.mm_per_px(middle)[0] - 1
    assert 200e-6 < abs(error) <= 2 * calibration.scale.relative_u  # the lens is not in it, and the budget says so


def test_check_and_drift(views, board, capsys, tmp_path):
    folder, _ = views
    assert calibrate("check", "--calibration", board, folder / "station.png", "--json") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["watches_drift"] and first["sha256"] == load_calibration(board).sha256
    assert second["ok"] and second["shift_px"] < 0.01
    pixels = load_picture(folder / "station.png").pixels
    write_png_atomic(tmp_path / "moved.png", np.roll(pixels, 6, axis=1))
    assert calibrate("check", "--calibration", board, tmp_path / "moved.png") == 1
    assert "CALIBRATION_DRIFT" in capsys.readouterr().out


def test_a_changed_byte_and_an_expired_file_are_exit_code_4(board, tmp_path, capsys):
    data = bytearray(board.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.json").write_bytes(bytes(data))
    assert calibrate("check", "--calibration", tmp_path / "bad.json") == 4
    assert "bad.json" in capsys.readouterr().err
    document = open_document(board.read_bytes(), "")
    old = {**document, "made_utc": "2019-07-01T00:00:00Z", "expires_utc": "2020-01-01T00:00:00Z"}
    (tmp_path / "old.json").write_bytes(seal_document(old, ""))
    assert calibrate("check", "--calibration", tmp_path / "old.json") == 4
    error = capsys.readouterr().err
    assert "[EXPIRED]" in error and "calibrate again" in error


class TestTargets:
    @pytest.mark.parametrize("kind", ["charuco", "dots", "marker"])
    def test_pdf(self, tmp_path, kind):
        assert calibrate("target", kind, "--pitch", "12mm", "--out", tmp_path / "t.pdf") == 0
        data = (tmp_path / "t.pdf").read_bytes()
        assert data.startswith(b"%PDF-1.") and data.endswith(b"%%EOF\n")
        offset = int(data[data.rindex(b"startxref") :].split()[1])
        assert data[offset : offset + 4] == b"xref"

    def test_png_is_found_again_and_states_its_resolution(self, tmp_path, capsys):
        """The printed page, taken as a picture, is calibrated by its own dpi: 25.4 / 200 mm per px."""
        for kind, verb, size in (("charuco", "board", "14x10"), ("dots", "dots", "15x11")):
            page = tmp_path / f"{kind}.png"
            assert (
                calibrate("target", kind, "--pitch", "10mm", "--size", size, "--dpi", "200", "--out", page, "--json")
                == 0
            )
            target = json.loads(capsys.readouterr().out.splitlines()[-1])["target"]
            out = tmp_path / f"{kind}.json"
            assert calibrate(verb, page, "--target", target, "--pitch", "10mm", "--pitch-u", "0mm", "--out", out) == 0
            calibration = load_calibration(out)
            assert calibration.scale.x_mm_per_px == pytest.approx(25.4 / 200, rel=1e-3)
            width, height = calibration.size_px
            local = calibration.model.mm_per_px(np.array([[width / 2, height / 2]]))[0]
            assert local == pytest.approx(25.4 / 200, rel=3e-4)

    def test_refusals(self, tmp_path, capsys):
        assert calibrate("target", "charuco", "--pitch", "10", "--out", tmp_path / "t.pdf") == 2
        assert "no unit" in capsys.readouterr().err
        assert calibrate("target", "charuco", "--pitch", "10mm", "--out", tmp_path / "t.svg") == 2
        assert calibrate("target", "dots", "--pitch", "10mm", "--size", "3x3", "--out", tmp_path / "t.pdf") == 2
        assert calibrate("target", "marker", "--pitch", "10mm", "--number", "77", "--out", tmp_path / "t.pdf") == 2
        assert not list(tmp_path.iterdir())


class TestRefusals:
    """Each: exit code 2, one line that names the file and says how to put it right, and no file written."""

    @pytest.fixture
    def refuse(self, views, tmp_path, capsys):
        def run(images, *words, code=2):
            out = tmp_path / "out" / "never.json"
            out.parent.mkdir(exist_ok=True)
            assert calibrate("board", *images, *(words or BOARD), "--out", out) == code
            assert not out.exists()
            lines = capsys.readouterr().err.strip().splitlines()
            assert len(lines) == 1
            return lines[0]

        return run

    def test_pictures(self, views, tmp_path, refuse):
        folder, _ = views
        good = sorted(folder.glob("view-*.png"))
        empty = tmp_path / "empty.png"
        write_png_atomic(empty, np.random.default_rng(0).integers(90, 130, (1024, 1280), dtype=np.uint8))
        assert "empty.png" in (line := refuse([good[0], empty, good[-1]])) and "[NO_TARGET]" in line
        small = tmp_path / "small.png"
        write_png_atomic(small, np.zeros((480, 640), np.uint8))
        assert "small.png has 640 x 480" in (line := refuse([good[0], small])) and "[SIZE_MIX]" in line
        text = tmp_path / "notes.png"
        text.write_text("not a picture")
        assert "notes.png" in (line := refuse([good[0], text])) and "[IMAGE]" in line
        assert "absent.png" in refuse([tmp_path / "absent.png"])
        assert "[DUPLICATE_VIEW]" in refuse([good[0], good[2], good[0]])
        assert "[TOO_FEW_VIEWS]" in refuse(good[-3:])

    def test_blurred_picture(self, tmp_path, refuse):
        rng = np.random.default_rng(4)
        camera, target = random_camera(rng), parse_target("EDC-14x10-10mm")
        model = camera.seeing(random_views(camera, target, 10.0, rng, 2)[-1])
        write_png_atomic(tmp_path / "soft.png", render(target, 10.0, model, camera.size_px, rng, blur_px=6.0))
        assert "soft.png: blurred" in (line := refuse([tmp_path / "soft.png"])) and "focus" in line

    def test_options(self, views, refuse, tmp_path, board):
        folder, _ = views
        flat = folder / "view-6.png"
        base = ["--target", "EDC-14x10-10mm"]
        assert "no unit" in refuse([flat], *base, "--pitch", "10", "--pitch-u", "0.01mm")
        assert "does not belong" in refuse([flat], *base, "--pitch", "10cm", "--pitch-u", "0.01mm")
        assert "calibrate dots" in refuse([flat], "--target", "EDD-21x15-8mm", "--pitch", "8mm", "--pitch-u", "0mm")
        assert "not an identifier" in refuse([flat], "--target", "board", "--pitch", "8mm", "--pitch-u", "0mm")
        assert "none of the images" in refuse([flat], *BOARD, "--plane", "other.png")
        assert "not plausible" in refuse([flat], *BOARD, "--valid", "0d")
        assert "needs the distance" in refuse([flat], *BOARD, "--height-u", "1mm")
        assert "no marker" in refuse([flat], *BOARD, "--fiducial", flat)
        assert calibrate("board", flat, *BOARD, "--out", board) == 2  # never over an existing calibration


class TestScaleAndWedge:
    @pytest.fixture
    def bar(self, tmp_path):
        rng = np.random.default_rng(0)
        pixels = np.full((300, 600), 190.0)
        pixels[120:180, 100:500] = 50.0  # edges between pixels: 99.5 and 499.5, 400 px apart
        write_png_atomic(
            tmp_path / "bar.png", np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
        )
        return tmp_path / "bar.png"

    def test_length(self, bar, tmp_path, capsys):
        out = tmp_path / "bar.json"
        words = (
            "--length",
            "50mm",
            "--length-u",
            "0.01mm",
            "--from",
            "103,150",
            "--to",
            "496,151",
            "--out",
            out,
            "--json",
        )
        assert calibrate("scale", bar, *words) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["scale"]["mm_per_px"] == pytest.approx([0.125, 0.125], rel=2e-4)
        assert load_calibration(out).scale.relative_u == pytest.approx(2e-4, rel=0.5)
        assert load_calibration(out).size_px == (600, 300)

    def test_magnification(self, bar, tmp_path):
        out = tmp_path / "x.json"
        assert calibrate("scale", bar, "--pixel-pitch", "0.1mm", "--magnification", "1.25", "--magnification-u", "0.01",
                         "--height-u", "5mm", "--distance", "800mm", "--out", out) == 0  # fmt: skip
        scale = load_calibration(out).scale
        assert scale.x_mm_per_px == pytest.approx(0.08)
        assert scale.relative_u == pytest.approx(np.hypot(0.008, 0.00625))

    def test_dicom(self, tmp_path, capsys):
        pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom: pip install 'edge-daemon[dicom]'")
        data = pydicom.Dataset()
        data.Rows, data.Columns, data.ImagerPixelSpacing = 300, 600, [0.1, 0.1]
        data.DistanceSourceToDetector, data.DistanceSourceToPatient = 1000.0, 800.0
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        pydicom.dcmwrite(tmp_path / "x.dcm", data, enforce_file_format=True)
        out = tmp_path / "d.json"
        assert calibrate("scale", "--dicom", tmp_path / "x.dcm", "--out", out) == 2
        assert "--magnification-u" in capsys.readouterr().err
        assert calibrate("scale", "--dicom", tmp_path / "x.dcm", "--magnification-u", "0.01", "--out", out) == 0
        assert load_calibration(out).scale.both == pytest.approx((0.08, 0.08))

    def test_dicom_without_the_extra_is_exit_code_3(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
        assert calibrate("scale", "--dicom", tmp_path / "x.dcm", "--out", tmp_path / "d.json") == 3
        assert "edge-daemon[dicom]" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ((), "nothing given"),
            (("--length", "50mm", "--pixel-pitch", "0.1mm"), "--length and --pixel-pitch"),
            (("--length", "50mm", "--from", "1,2", "--to", "3,4"), "--length-u is missing"),
            (("--length", "50mm", "--length-u", "0mm", "--from", "103,150"), "1 --from and 0 --to"),
            (("--pixel-pitch", "0.1mm"), "--magnification"),
            (("--length", "50mm", "--length-u", "0mm", "--magnification", "2"), "no place beside"),
            (("--pixel-pitch", "0.1mm", "--from", "1,2"), "belong to --length"),
        ],
    )
    def test_scale_refusals(self, bar, tmp_path, capsys, words, said):
        assert calibrate("scale", bar, *words, "--out", tmp_path / "n.json") == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "n.json").exists()

    def test_wedge(self, tmp_path, capsys):
        steps = np.array([2.0, 4.0, 6.0, 8.0, 10.0])
        grey = 65535 * (0.05 + 0.8 * np.exp(-0.15 * np.repeat(steps, 50)))
        pixels = np.full((220, 330), 64000.0)
        pixels[40:180, 40:290] = grey
        pixels += np.random.default_rng(0).normal(0, 150, pixels.shape)
        path, out = tmp_path / "wedge.png", tmp_path / "wedge.json"
        write_png_atomic(path, np.clip(pixels, 0, 65535).astype(np.uint16))
        words = ("--steps", "2mm,4mm,6mm,8mm,10mm", "--steps-u", "0.01mm", "--area", "40,40,250,140")
        assert calibrate("wedge", path, *words, "--out", out, "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["curve"]["model"] == "physics"
        assert shown["curve"]["numbers"] == pytest.approx([0.05, 0.8, 0.15], rel=0.05)
        assert calibrate("check", "--calibration", out) == 2
        assert "step wedge" in capsys.readouterr().err
        assert calibrate("wedge", path, *words[:-2], "--out", tmp_path / "n.json") == 2
        assert (
            calibrate("wedge", path, "--steps", "2mm,4mm", "--area", "40,40,250,140", "--out", tmp_path / "n.json") == 2
        )


class TestDataFolder:
    """What calibration/ ships: targets that the command makes, and an example that loads and is true."""

    def test_example_is_whole_and_true(self):
        calibration = load_calibration(data_folder("calibration") / "example.json", allow_expired=True)
        rng = np.random.default_rng(7)  # as ``python -m edge_daemon.testing.calibration_views DIR --seed 7``
        camera = random_camera(rng)
        truth = camera.seeing(random_views(camera, parse_target("EDC-14x10-10mm"), 10.0, rng, 8)[-1])
        middle = np.array([[639.5, 511.5]])
        assert calibration.model.mm_per_px(middle)[0] == pytest.approx(truth.mm_per_px(middle)[0], rel=200e-6)
        assert calibration.fiducial is not None and calibration.camera == "synthetic"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("EDC-14x10-10mm.pdf", ("charuco", "--pitch", "10mm")),
            ("EDD-21x15-8mm.pdf", ("dots", "--pitch", "8mm")),
            ("marker-0.pdf", ("marker", "--pitch", "20mm")),
        ],
    )
    def test_printed_targets_are_those_of_the_command(self, name, words, tmp_path):
        assert calibrate("target", *words, "--out", tmp_path / "t.pdf") == 0
        shipped, made = ((path).read_bytes() for path in (data_folder("calibration") / name, tmp_path / "t.pdf"))

        def drawn(data):
            return zlib.decompress(data.split(b"stream\n", 1)[1].split(b"\nendstream", 1)[0])

        assert drawn(shipped) == drawn(made)
        assert drawn(made).count(b" re") >= 20
