"""What people say on the page: kept beside the record, in the bank where the record is, with who and why; and what one
user must not see of another's."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from edge_daemon.errors import StorageError, UsageError
from edge_daemon.images import load_labels
from edge_daemon.memory import MemoryBank
from edge_daemon.records import Outcome, Record
from edge_daemon.simulator import conveyor_part
from edge_daemon.station.app import PageServer
from edge_daemon.station.clerk import Clerk
from edge_daemon.station.options import StationOptions
from edge_daemon.station.users import Users
from edge_daemon.tickets import new_record_id

PASSWORD = "a sentence of its own"
RECIPE = files("edge_daemon.demo").joinpath("recipe.toml")
UTC = "2026-11-23T18:00:00.000Z"
#: What somebody might write to get at whoever reads it.
NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


def client_of(server: PageServer, user: str = "") -> httpx.Client:
    base = f"http://127.0.0.1:{server.port}"
    client = httpx.Client(base_url=base, headers={"origin": base, "accept-language": "en"}, timeout=60.0)
    if user:
        client.post("/login", data={"name": user, "password": PASSWORD})
    else:
        client.get(server.url)
    return client


def csrf_of(client: httpx.Client, path: str = "/history") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found.group(1)


def finished(client: httpx.Client, job: str) -> str:
    """The address of the record, or the text of what went wrong."""
    while True:
        answer = client.get(f"{job}/state")
        if answer.status_code == 204:
            return str(answer.headers["hx-redirect"])
        if "alert" in answer.text:
            return answer.text
        time.sleep(0.05)


def inspected(client: httpx.Client, name: str, seed: int = 950_020) -> str:
    data = cv2.imencode(".png", conveyor_part(seed, "rejectable").pixels)[1].tobytes()
    form = {"csrf": csrf_of(client), "rule": "recipe:demo-housing"}
    sent = client.post("/inspect", data=form, files={"picture": (name, data)})
    assert sent.status_code == 303, sent.text
    return finished(client, sent.headers["location"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("said")
    (place / "recipe.toml").write_text(RECIPE.read_text())
    users = Users(place / "users.json")
    for name, role in (("ann", "administrator"), ("ian", "inspector"), ("eve", "inspector"), ("otto", "operator")):
        users.add(name, role, PASSWORD)
    return place


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[PageServer]:
    """A page with users, beside a bank of a line."""
    MemoryBank(place / "memory.db").close()
    options = StationOptions(
        data=place / "data", port=0, backend="onnxruntime", users=place / "users.json", database=place / "memory.db",
        recipes=(place / "recipe.toml",), engines=("castings-xray",),
    )  # fmt: skip
    with PageServer(options) as running:
        yield running


@pytest.fixture(scope="module")
def who(server: PageServer) -> Iterator[dict[str, httpx.Client]]:
    clients = {name: client_of(server, name) for name in ("ann", "ian", "eve", "otto")}
    yield clients
    for one in clients.values():
        one.close()


@pytest.fixture(scope="module")
def records(server: PageServer, who: dict[str, httpx.Client], place: Path) -> dict[str, str]:
    """Of ian on the page, and the same as if the line had stored it: their addresses."""
    mine = inspected(who["ian"], "ians.png")
    document = who["ian"].get(f"{mine}/record.json").json()
    record_id = new_record_id()
    document |= {"record_id": record_id, "station": "cell-1", "trigger_utc": UTC}
    del document["chosen"], document["submitted_by"]
    (found,) = (place / "data" / "pictures").glob(f"*/{mine.rpartition('/')[2]}")
    shutil.copytree(found, place / "kept" / record_id)
    with MemoryBank(place / "memory.db") as bank:
        record = Record(record_id, 7, "cell-1", UTC, Outcome(document["outcome"]), "FAIL", document)
        bank.store(record, pictures=str(place / "kept" / record_id))
    return {"page": mine, "line": f"/records/line/{record_id}"}


def words_on(place: Path, address: str) -> list[Any]:
    source, record_id = address.split("/")[2:]
    with MemoryBank(place / ("memory.db" if source == "line" else "data/page.db"), read_only=True) as bank:
        assert bank.verify().ok
        return bank.feedback_of(record_id)


@pytest.mark.parametrize("source", ["line", "page"])
def test_a_word_is_kept_with_who_and_why_and_the_record_stays(
    who: dict[str, httpx.Client], records: dict[str, str], place: Path, source: str
) -> None:
    address = records[source]
    before = who["ian"].get(f"{address}/record.json").content
    form = {"csrf": csrf_of(who["ian"]), "verdict": "wrong_type", "position": "0", "correct_type": "crack",
            "why": "sharp\r\nedges " + NASTY}  # fmt: skip
    answer = who["ian"].post(f"{address}/feedback", data=form)
    assert answer.status_code == 303 and answer.headers["location"] == f"{address}#said"
    (word,) = words_on(place, address)
    assert (word.who, word.verdict, word.position, word.correct_type) == ("ian", "wrong_type", 0, "crack")
    assert word.why == "sharp\nedges " + NASTY
    page = who["ian"].get(address).text
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;script&gt;alert(1)" in page
    assert who["ian"].get(f"{address}/record.json").content == before
    trail = who["ann"].get(f"/audit?source={source}&kind=feedback").text
    assert "ian" in trail and "sharp" in trail and "<script>alert" not in trail


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [({"verdict": "false_call", "why": ""}, 400, "why is missing"), ({"verdict": "splendid"}, 400, "is not known"),
     ({"position": "9999"}, 400, "no indication 9999"), ({"position": "x"}, 400, "could not be read"),
     ({"why": "x" * 2001}, 400, "could not be read"), ({"why": "a\x00b"}, 400, "no text"),
     ({"why": "pass\u202egnp.exe"}, 400, "no text"), ({"csrf": "another"}, 403, "too old")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_a_sentence(
    who: dict[str, httpx.Client], records: dict[str, str], place: Path, change: dict[str, str], status: int, said: str
) -> None:
    before = len(words_on(place, records["line"]))
    form = {"csrf": csrf_of(who["otto"]), "verdict": "false_call", "position": "", "why": "a scratch", **change}
    answer = who["otto"].post(f"{records['line']}/feedback", data=form)
    assert answer.status_code == status and said in answer.text
    assert len(words_on(place, records["line"])) == before


def test_half_characters_break_nothing(who: dict[str, httpx.Client], records: dict[str, str]) -> None:
    """A form may name a charset that makes halves of characters; no database and no hash takes them."""
    for field, value in (("csrf", "\\ud800"), ("why", "\\ud800")):
        fields = {"csrf": csrf_of(who["otto"]), "verdict": "false_call", "why": "x", field: value}
        body = "".join(f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items())
        answer = who["otto"].post(
            f"{records['line']}/feedback", content=f"{body}--b--\r\n",
            headers={"content-type": "multipart/form-data; boundary=b; charset=unicode_escape"},
        )  # fmt: skip
        assert answer.status_code in (400, 403), field


def test_a_users_records_do_not_exist_for_others(who: dict[str, httpx.Client], records: dict[str, str]) -> None:
    mine = records["page"]
    token = csrf_of(who["eve"])
    for path in ("", "/similar", "/correct", "/picture/indication-0", "/mask/" + "0" * 64 + ".png"):
        assert who["eve"].get(mine + path).status_code == 404, path
    assert who["eve"].post(f"{mine}/feedback", data={"csrf": token, "verdict": "confirm"}).status_code == 404
    assert who["eve"].post(f"{mine}/correct", data={"csrf": token}).status_code == 404
    hers = inspected(who["eve"], "eves.png", 950_021)
    name = mine.rpartition("/")[2]
    for path in ("/history?source=page", "/history?source=page&station=page:ian", "/statistics?source=page&by=line",
                 "/history/records.json?source=page&station=page:ian", "/history/indications.csv?source=page",
                 "/history/performance.csv?source=page", f"{hers}/similar?among=page"):  # fmt: skip
        answer = who["eve"].get(path)
        assert answer.status_code == 200
        assert name not in answer.text and "page:ian" not in answer.text.replace('value="page:ian"', ""), path
    assert name in who["ann"].get(f"{hers}/similar?among=page").text, "an administrator sees both"
    assert records["line"] in who["eve"].get(f"{hers}/similar").text, "the line's are everybody's"


def test_roles_bound_what_can_be_said(who: dict[str, httpx.Client], records: dict[str, str]) -> None:
    otto, ian = who["otto"], who["ian"]
    assert otto.get(f"{records['line']}/correct").status_code == 403
    assert otto.get("/history/records.csv").status_code == 403
    assert ian.get("/audit").status_code == 403
    form = {"csrf": csrf_of(ian), "why": "x", "title": "Mine", "description": "x", "do": "edit"}
    assert ian.post("/knowledge/crack", data=form).status_code == 403
    assert "Edit" not in ian.get("/knowledge/crack").text


# ---------------------------------------------------------------- corrected label images


def png_of(labels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", labels)[1].tobytes())


def corrected(place: Path, records: dict[str, str]) -> np.ndarray:
    """The labels of the line's record with everything removed that was marked."""
    labels = load_labels(place / "kept" / records["line"].rpartition("/")[2] / "labels.png")
    return np.zeros_like(labels)


@pytest.mark.parametrize("source", ["line", "page"])
def test_a_corrected_label_image_is_judged_and_kept_beside_the_original(
    who: dict[str, httpx.Client], records: dict[str, str], place: Path, source: str
) -> None:
    address, ian = records[source], who["ian"]
    page = ian.get(f"{address}/correct").text
    assert "by the same rules as then" in page
    before = {name: ian.get(f"{address}/{name}").content for name in ("record.json", "labels.png", "frame.png")}
    labels = corrected(place, records)
    canvas = np.dstack([labels, labels, labels, np.full_like(labels, 255)])  # as a browser writes it
    form = {"csrf": csrf_of(ian), "verdict": "false_call", "why": "dust on the plate", "judge": "then"}
    sent = ian.post(f"{address}/correct", data=form, files={"mask": ("drawn.png", png_of(canvas))})
    assert finished(ian, sent.headers["location"]) == address
    word = words_on(place, address)[0]
    assert word.verdict == "false_call" and word.rejudged is not None and word.rejudged["defects"] == []
    assert word.rejudged["outcome"] == "PASS" != ian.get(f"{address}/record.json").json()["outcome"]
    assert {name: ian.get(f"{address}/{name}").content for name in before} == before, "the original is kept"
    text = ian.get(address).text
    assert "Judged again with the corrected labels" in text and "stay as they were" in text
    mask = ian.get(f"{address}/mask/{word.mask_sha256}.png")
    assert (cv2.imdecode(np.frombuffer(mask.content, np.uint8), cv2.IMREAD_UNCHANGED) == labels).all()
    other = records["page" if source == "line" else "line"]
    if not words_on(place, other):
        assert ian.get(f"{other}/mask/{word.mask_sha256}.png").status_code == 404


def test_a_label_image_that_cannot_be_gets_a_sentence(
    who: dict[str, httpx.Client], records: dict[str, str], place: Path
) -> None:
    ian, good = who["ian"], corrected(place, records)
    height, width = good.shape
    bomb = bytearray(png_of(good))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    coloured = np.zeros((height, width, 3), np.uint8)
    coloured[0, 0] = (1, 2, 3)
    cases = {
        "there is no label image": b"", "is no PNG": b"GIF89a", "picture": png_of(good[:-1]),
        "60000 x 60000 px": bytes(bomb), "has colours": png_of(coloured),
        "not of 8 bits": png_of(good.astype(np.uint16)),
        "is transparent": png_of(np.zeros((height, width, 4), np.uint8)), "damaged": png_of(good)[:60],
        "holds the value 99": png_of(np.full_like(good, 99)),
    }  # fmt: skip
    before = len(words_on(place, records["line"]))
    for said, data in cases.items():
        form = {"csrf": csrf_of(ian), "verdict": "missed", "why": "x", "judge": ""}
        answer = ian.post(f"{records['line']}/correct", data=form, files={"mask": ("m.png", data)})
        assert answer.status_code == 400 and said in answer.text, said
    for change in ({"why": ""}, {"verdict": "confirm"}, {"judge": "recipe:none"}):
        form = {"csrf": csrf_of(ian), "verdict": "missed", "why": "x", "judge": "", **change}
        answer = ian.post(f"{records['line']}/correct", data=form, files={"mask": ("m.png", png_of(good))})
        assert answer.status_code == 400, change
    assert len(words_on(place, records["line"])) == before


# ---------------------------------------------------------------- knowledge, statistics, files


def test_an_administrator_edits_what_is_known_and_takes_it_back(who: dict[str, httpx.Client], place: Path) -> None:
    ann = who["ann"]
    shipped = ann.get("/knowledge/crack").text
    form = {"csrf": csrf_of(ann), "do": "edit", "title": "Crack " + NASTY, "description": "A narrow gap.",
            "causes": "too cold\r\n\r\ntoo fast", "severity": "open ends",
            "why": "our own foundry's words"}  # fmt: skip
    assert ann.post("/knowledge/crack", data=form).status_code == 303
    page = who["otto"].get("/knowledge/crack").text
    assert (
        '<li lang="en" dir="auto">too cold</li><li lang="en" dir="auto">too fast</li>' in page
        and "<script>alert" not in page
        and "words by ann" in page
    )
    with MemoryBank(place / "memory.db", read_only=True) as bank:
        assert bank.notes(kind="pattern")[0].why == "our own foundry's words"
    overtaken = ann.post("/knowledge/crack", data={**form, "description": "Written meanwhile, in another browser."})
    assert overtaken.status_code == 400 and "ann changed these words while you were writing" in overtaken.text
    assert "Written meanwhile" in overtaken.text, "what was typed is not lost"
    form["seen"] = seen_of(overtaken.text)
    refused = ann.post("/knowledge/crack", data={**form, "why": "", "description": "Not lost either."})
    assert refused.status_code == 400 and "why is missing" in refused.text and "Not lost either." in refused.text
    assert ann.post("/knowledge/crack", data={**form, "do": "reset"}).status_code == 303
    assert re.findall('<p lang="en" dir="auto">(.*?)</p>', ann.get("/knowledge/crack").text)[0] in shipped
    assert ann.get("/knowledge/nothing").status_code == 404
    assert ann.get("/knowledge").text.count('<li class="card">') == len(bank_patterns(place))


def seen_of(text: str) -> str:
    found = re.search(r'name="seen" value="([^"]*)"', text)
    assert found is not None
    return found.group(1)


def test_what_is_known_is_shipped_in_hebrew_and_own_words_stay_as_they_are(
    who: dict[str, httpx.Client], place: Path
) -> None:
    ann, hebrew = who["ann"], {"accept-language": "he"}
    page = ann.get("/knowledge/fray", headers=hebrew).text
    assert '<h1 lang="he" dir="auto">פרימה</h1>' in page and '<li lang="he" dir="auto">אבן השחזה שחוקה' in page
    form = {"csrf": csrf_of(ann), "do": "edit", "title": "Fray", "description": "Our own tiles crumble.",
            "causes": "כבישה חלשה\nworn wheel", "severity": "any", "why": "ours", "seen": seen_of(page)}  # fmt: skip
    assert ann.post("/knowledge/fray", data=form).status_code == 303
    for headers in (hebrew, {"accept-language": "en"}):
        page = ann.get("/knowledge/fray", headers=headers).text
        assert '<p lang="en" dir="auto">Our own tiles crumble.</p>' in page
        assert '<li lang="he" dir="auto">כבישה חלשה</li><li lang="en" dir="auto">worn wheel</li>' in page
        assert "Our own tiles crumble." in ann.get("/knowledge", headers=headers).text
    assert ann.post("/knowledge/fray", data={**form, "do": "reset", "seen": seen_of(page)}).status_code == 303
    assert bank_patterns(place)["fray"].edited_by is None


def bank_patterns(place: Path) -> dict[str, Any]:
    with MemoryBank(place / "memory.db", read_only=True) as bank:
        return bank.patterns()


def test_statistics_and_files_for_other_programs(who: dict[str, httpx.Client], records: dict[str, str]) -> None:
    ian = who["ian"]
    for by in ("day", "week", "line", "recipe", "engine", "type"):
        answer = ian.get("/statistics", params={"by": by, "source": "line"})
        assert answer.status_code == 200 and 'role="img"' in answer.text, by
    assert "finer than a day" in ian.get("/statistics?since=2026-11-23T10").text
    assert ian.get("/statistics?by=weather").status_code == 400
    (document,) = ian.get("/history/records.json?source=line").json()
    assert records["line"].endswith(document["record_id"])
    lines = ian.get("/history/indications.csv?source=line").text.splitlines()
    assert len(lines) == 1 + len(document["defects"])
    answer = ian.get("/history/records.csv?source=line&outcome=PASS")
    assert len(answer.text.splitlines()) == 1 and "attachment" in answer.headers["content-disposition"]
    for path in ("/history/feedback.csv", "/history/records.parquet", "/history/..%2fpage.db"):
        assert ian.get(path).status_code == 404, path
    for part in ("9" * 40, "-1", "1;", "٣"):
        assert ian.get("/history", params={"part": part}).status_code == 400
    assert ian.get("/history?part=7").status_code == 200
    assert ian.get("/history?before=999999999999999").status_code == 200


def test_history_goes_page_by_page_without_gap_or_double(tmp_path: Path) -> None:
    with MemoryBank(tmp_path / "memory.db") as bank:
        for number in range(120):
            outcome = Outcome.FAIL if number % 2 else Outcome.PASS
            document = {"recipe": "housing", "reasons": [], "defects": [], "engine": {"sha256": "e"}}
            bank.store(Record(new_record_id(), number, "cell-1", UTC, outcome, outcome.result, document))
    options = StationOptions(data=tmp_path / "data", port=0, database=tmp_path / "memory.db")
    with PageServer(options) as server, closing(client_of(server)) as client:
        seen: list[str] = []
        path = "/history?recipe=housing&outcome=FAIL"
        while path:
            text = client.get(path).text
            seen += re.findall(r"/records/line/([0-9a-f-]{36})", text)
            following = re.search(r'href="(/history\?[^"]*before=\d+)"', text)
            path = following.group(1).replace("&amp;", "&") if following else ""
        assert len(seen) == len(set(seen)) == 60
        assert client.get("/history/lot.pdf?outcome=INCONCLUSIVE").status_code == 400


# ---------------------------------------------------------------- the clerk


@pytest.fixture
def clerk(tmp_path: Path) -> Iterator[Clerk]:
    MemoryBank(tmp_path / "memory.db").close()
    one = Clerk(tmp_path / "memory.db")
    yield one
    one.close()


def test_the_clerk_says_what_the_bank_says_and_goes_on_after_its_process_died(clerk: Clerk, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no record"):
        clerk.feedback(new_record_id(), "confirm", who="ann")
    assert clerk._process is not None
    clerk._process.kill()
    clerk._process.wait()
    clerk.edit_pattern("crack", who="ann", why="שלום\nworld", causes=["one"])
    with MemoryBank(tmp_path / "memory.db", read_only=True) as bank:
        assert bank.patterns()["crack"].causes == ("one",) and bank.notes()[0].why == "שלום\nworld"


def test_the_clerk_does_nothing_else(clerk: Clerk) -> None:
    for do in ("clean", "store", "close", "note", "_db"):
        with pytest.raises(UsageError, match="not for the clerk"):
            clerk._ask(do)


def test_the_clerk_waits_for_the_line_and_never_migrates(clerk: Clerk, tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(StorageError, match="schema 1") as caught:
        clerk.edit_pattern("crack", who="ann", why="x", causes=["one"])
    assert caught.value.code == "SCHEMA_OLDER"
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("PRAGMA user_version = 2")
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError) as locked:
            clerk.edit_pattern("crack", who="ann", why="x", causes=["one"])
        assert locked.value.code == "LOCKED"
        db.execute("ROLLBACK")
    db.close()
    clerk.edit_pattern("crack", who="ann", why="x", causes=["one"])


def test_the_page_gives_way_and_the_clerk_does_not(tmp_path: Path) -> None:
    """Beside a line: every thread that serves, and what the bench looks with, but not who writes to the line's bank."""
    MemoryBank(tmp_path / "memory.db").close()
    options = StationOptions(data=tmp_path / "data", port=0, database=tmp_path / "memory.db", niceness=7)
    with PageServer(options) as server, closing(client_of(server)) as client:
        assert client.get("/history").status_code == 200
        services = server._app.state.services
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        threads = {one.name: os.getpriority(os.PRIO_PROCESS, one.native_id or 0) for one in threading.enumerate()}
        clerk = services.banks.clerk._process
        assert clerk is not None and os.getpriority(os.PRIO_PROCESS, clerk.pid) == mine
        assert threads["page"] == threads["inspect"] == min(19, mine + 7)
        assert all(nice == min(19, mine + 7) for name, nice in threads.items() if "AnyIO" in name)
        assert threads["MainThread"] == mine


def test_whatever_a_record_says_is_text(who: dict[str, httpx.Client], records: dict[str, str], place: Path) -> None:
    """Names come from recipes, engines and files of others; none of them becomes a part of a page or a report."""
    document = who["ian"].get(f"{records['line']}/record.json").json()
    record_id = new_record_id()
    document |= {"record_id": record_id, "recipe": NASTY, "station": NASTY, "image": f"/x/{NASTY}.png",
                 "message": NASTY, "reasons": [{"code": NASTY, "text": NASTY}],
                 "notices": [{"code": NASTY, "text": NASTY}], "submitted_by": NASTY,
                 "again": f"line/{NASTY}"}  # fmt: skip
    document["engine"] |= {"name": NASTY, "backend": NASTY}
    for one in document["types"]:
        one |= {"row": NASTY, "verbatim": NASTY, "zone": NASTY}
    with MemoryBank(place / "memory.db") as bank:
        record = Record(record_id, 8, NASTY, UTC, Outcome(document["outcome"]), "FAIL", document)
        bank.store(record, pictures=str(place / "kept" / records["line"].rpartition("/")[2]))
    address = f"/records/line/{record_id}"
    pages = ["/history", "/live", "/live/state", "/statistics?by=recipe", "/statistics?by=line", address,
             f"{address}/similar", f"{address}/correct", f"{address}/report.html", f"{records['line']}/similar",
             f"/?again=line/{record_id}"]  # fmt: skip
    seen = 0
    for path in pages:
        answer = who["ian"].get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text and "<img src=x" not in answer.text, path
        seen += "&lt;script&gt;" in answer.text
    assert seen >= 5
