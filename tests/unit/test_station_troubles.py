"""What goes wrong beside the page: pictures that are damaged or go while somebody looks, banks that are locked."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.records import Outcome, Record
from edge_daemon.station import views_record, web
from edge_daemon.station.app import PageServer
from edge_daemon.station.options import StationOptions
from edge_daemon.station.users import Users

RECORD = "01a209b9-8a43-7b62-bd4f-f59662ce57a4"
ADDRESS = f"/records/line/{RECORD}"
PASSWORD = "a sentence of its own"
DEFECT = {"type": "crack", "known": True, "nearest_type": "crack", "bbox_px": [10, 10, 5, 5], "confidence": 0.9,
          "p_known": 0.9, "area_mm2": 0.25, "area_u_mm2": 0.01, "feret_max_mm": 0.5, "feret_u_mm": 0.01,
          "centroid_px": [12, 12]}  # fmt: skip


@pytest.fixture
def bugs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page took for a mistake of its own."""
    found: list[str] = []
    monkeypatch.setattr(web, "log", lambda event, text, **_: found.append(f"{event}: {text}"))
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures" / RECORD
    pictures.mkdir(parents=True)
    pixels = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    write_png_atomic(pictures / "frame.png", pixels)
    write_png_atomic(pictures / "highlight.png", np.repeat(pixels[:, :, None], 3, axis=2))
    write_png_atomic(pictures / "labels.png", np.zeros_like(pixels))
    document: dict[str, Any] = {
        "record_id": RECORD, "part_id": 7, "image": None, "image_sha256": None, "recipe": "plain", "station": "cell-1",
        "trigger_utc": "2026-11-23T18:00:00.000Z", "result": "FAIL", "outcome": "FAIL", "advisory": True,
        "reasons": [], "message": None, "defects": [DEFECT], "types": [], "not_inspected": [], "blind_pct": None,
        "working": None, "calibration": None, "engine": {"name": "x", "sha256": "ab" * 32, "backend": "cpu"},
        "calibration_sha256": None, "table_sha256": None, "references_sha256": None, "config_sha256": None,
        "timings_ms": {}, "notices": [],
    }  # fmt: skip
    with MemoryBank(tmp_path / "memory.db") as bank:
        record = Record(RECORD, 7, "cell-1", document["trigger_utc"], Outcome.FAIL, "FAIL", document)
        bank.store(record, pictures=str(pictures))
    users = Users(tmp_path / "users.json")
    users.add("ann", "administrator", PASSWORD)
    users.add("otto", "operator", PASSWORD)
    return tmp_path


@pytest.fixture
def server(place: Path) -> Iterator[PageServer]:
    options = StationOptions(
        data=place / "data", port=0, database=place / "memory.db", users=place / "users.json", backend="onnxruntime"
    )
    with PageServer(options) as running:
        yield running


@pytest.fixture
def ann(server: PageServer) -> Iterator[httpx.Client]:
    with closing(browser(server, "ann")) as client:
        yield client


def browser(server: PageServer, name: str) -> httpx.Client:
    base = f"http://127.0.0.1:{server.port}"
    client = httpx.Client(base_url=base, headers={"origin": base, "accept-language": "en"}, timeout=30.0)
    assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    return client


def csrf_of(client: httpx.Client, path: str = "/history") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found.group(1)


PICTURES = ("/picture/original", "/picture/highlight", "/picture/thumbnail", "/picture/indication-0", "/frame.png",
            "/labels.png", "/highlight.png")  # fmt: skip
PARTS = ("", *PICTURES, "/report.pdf", "/report.html", "/correct", "/similar", "/record.json")


def damaged(folder: Path, how: str) -> None:
    for path in sorted(folder.iterdir()):
        if how == "empty":
            path.write_bytes(b"")
        elif how == "cut":
            path.write_bytes(path.read_bytes()[:20])
        elif how == "rubbish":
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 200)
        elif how == "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("how", ["empty", "cut", "rubbish", "a folder", "gone"])
def test_pictures_that_are_damaged_or_gone_leave_the_record_readable(
    ann: httpx.Client, place: Path, bugs: list[str], how: str
) -> None:
    folder = place / "pictures" / RECORD
    if how == "gone":
        shutil.rmtree(folder)
    else:
        damaged(folder, how)
    for part in PARTS:
        answer = ann.get(ADDRESS + part)
        assert answer.status_code in (200, 404, 503), (part, answer.status_code)
        assert "Traceback" not in answer.text and str(place) not in answer.text, part
    for part in ("", "/record.json", *(("/report.pdf", "/report.html") if how in ("gone", "a folder") else ())):
        assert ann.get(ADDRESS + part).status_code == 200, part
    again = ann.get("/", params={"again": ADDRESS.removeprefix("/records/")})
    assert again.status_code in (200, 404)
    form = {"csrf": csrf_of(ann, "/"), "rule": "none", "mm_per_px": "0.1", "again": f"line/{RECORD}"}
    answer = ann.post("/inspect", data=form)
    assert answer.status_code in (400, 404, 503) and str(place) not in answer.text
    for page in ("/history", "/live", "/statistics"):
        assert ann.get(page).status_code == 200
    assert bugs == []


def test_a_picture_that_goes_between_two_looks_is_not_there(
    ann: httpx.Client, place: Path, bugs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention removes it after the page has seen that it is there."""
    really = views_record._file

    def gone(folder: Path | None, name: str) -> Path:
        path = really(folder, name)
        path.unlink()
        return path

    monkeypatch.setattr(views_record, "_file", gone)
    for part in ("/picture/highlight", "/picture/thumbnail", "/frame.png", "/labels.png"):
        assert ann.get(ADDRESS + part).status_code in (404, 503), part
    assert ann.get(ADDRESS).status_code == 200
    assert bugs == []


@pytest.mark.parametrize("which", ["page", "line"])
def test_a_bank_that_another_program_keeps_locked_is_a_sentence_and_nothing_is_half_done(
    server: PageServer, ann: httpx.Client, place: Path, bugs: list[str], which: str
) -> None:
    users = place / "users.json"
    before = users.read_bytes()
    form = {"csrf": csrf_of(ann)}
    path = place / ("data/page.db" if which == "page" else "memory.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for page in ("/history", ADDRESS, "/statistics", "/knowledge", "/audit", "/system"):
            assert ann.get(page).status_code == 200, "reading waits for nobody"
        if which == "line":
            answer = ann.post(f"{ADDRESS}/feedback", data={**form, "verdict": "confirm"})
            assert answer.status_code == 503 and "keeps it locked" in answer.text
        else:
            change = {"do": "role", "name": "otto", "role": "inspector", "why": "x"}
            answer = ann.post("/users", data={**form, **change})
            assert answer.status_code == 400 and "keeps it locked" in answer.text
            answer = ann.post("/login", data={**form, "name": "otto", "password": PASSWORD})
            assert answer.status_code == 503 and "set-cookie" not in answer.headers
    assert users.read_bytes() == before
    assert ann.post(f"{ADDRESS}/feedback", data={**form, "verdict": "confirm"}).status_code == 303
    with MemoryBank(place / "memory.db", read_only=True) as bank:
        assert len(bank.feedback_of(RECORD)) == 1
    assert bugs == []


def test_two_browsers_speak_about_the_same_indication_and_both_words_stay(
    server: PageServer, ann: httpx.Client, place: Path
) -> None:
    with closing(browser(server, "otto")) as otto:
        for client, verdict in ((ann, "confirm"), (otto, "false_call")):
            form = {"csrf": csrf_of(client), "verdict": verdict, "position": "0", "why": f"said {verdict}"}
            assert client.post(f"{ADDRESS}/feedback", data=form).status_code == 303
        page = otto.get(ADDRESS).text
    assert "said confirm" in page and "said false_call" in page
    with MemoryBank(place / "memory.db", read_only=True) as bank:
        assert [(one.who, one.current) for one in bank.feedback_of(RECORD)] == [("otto", True), ("ann", False)]
