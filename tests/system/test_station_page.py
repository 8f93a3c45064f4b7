"""The page in a real browser: from a picture to the verdict, to the report, for every outcome; the line beside it.

Screenshots go to ``PAGE_SHOTS``, else to a temporary folder.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from edge_daemon.images import load_picture, write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.records import Outcome, Record
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import load, seal
from edge_daemon.simulator import conveyor_part
from edge_daemon.station.app import PageServer
from edge_daemon.station.options import StationOptions

pytestmark = [pytest.mark.needs("chromium", "playwright"), pytest.mark.timeout(300)]

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
LINE_ID = "01a209b9-8a43-7b62-bd4f-f59662ce57a4"


def easily_surprised(folder: Path) -> Path:
    """The shipped engine with another threshold: what is not like nearly all it was trained on is unknown to it."""
    shutil.copytree(engine_folder("castings-xray"), folder)
    thresholds = json.loads((folder / "thresholds.json").read_text())
    thresholds["unknown_alpha"] = 0.999
    (folder / "thresholds.json").write_text(json.dumps(thresholds))
    manifest = json.loads((folder / "manifest.json").read_text())
    seal(folder, {key: value for key, value in manifest.items() if key not in ("files", "seal")})
    return load(folder).folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes, pictures and a line's bank."""
    place = tmp_path_factory.mktemp("page")
    strange = easily_surprised(place / "strange")
    changes = {
        "plain": {}, "close": {"tolerance = 0.2": "tolerance = 3.2"},
        "strange": {'engine = "castings-xray"': f'engine = "{strange}"'},
    }  # fmt: skip
    for name, replaced in changes.items():
        text = RECIPE.replace('name = "demo-housing"', f'name = "{name}"')
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        (place / f"{name}.toml").write_text(text)
    for planted, seed in (("acceptable", 950_010), ("rejectable", 950_020), ("crack", 950_030)):
        write_png_atomic(place / f"{planted}.png", conveyor_part(seed, planted).pixels)
    write_png_atomic(place / "blank.png", np.full((256, 256), 128, np.uint8))
    with MemoryBank(place / "memory.db") as bank:
        store_line_record(bank, place, LINE_ID, 7)
    return place


def store_line_record(bank: MemoryBank, place: Path, record_id: str, part_id: int) -> None:
    document = {
        "record_id": record_id, "part_id": part_id, "image": None, "image_sha256": None, "recipe": "plain",
        "station": "cell-1", "trigger_utc": "2026-11-23T18:00:00.000Z", "result": "FAIL", "outcome": "NOT_EVALUABLE",
        "advisory": True, "reasons": [{"code": "GRAB_TIMEOUT", "text": "no frame in time"}], "message": None,
        "defects": [], "types": [], "not_inspected": [], "blind_pct": None, "working": None, "calibration": None,
        "engine": {"name": "castings-xray", "sha256": "ab" * 32, "backend": "onnxruntime-cpu"},
        "calibration_sha256": None, "table_sha256": None, "references_sha256": None, "config_sha256": None,
        "timings_ms": {}, "notices": [{"code": "CERTIFICATE_WITHDRAWN", "text": "withdrawn since yesterday"}],
    }  # fmt: skip
    pictures = place / "pictures" / record_id
    pictures.mkdir(parents=True)
    write_png_atomic(pictures / "frame.png", load_picture(place / "rejectable.png").pixels)
    record = Record(record_id, part_id, "cell-1", document["trigger_utc"], Outcome.NOT_EVALUABLE, "FAIL", document)
    bank.store(record, pictures=str(pictures))


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[PageServer]:
    options = StationOptions(
        data=place / "data", port=0, backend="onnxruntime", database=place / "memory.db",
        recipes=tuple(place / f"{name}.toml" for name in ("plain", "close", "strange")),
    )  # fmt: skip
    with PageServer(options) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("PAGE_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(chromium: Any, server: PageServer) -> Iterator[Any]:
    """A fresh browser with a session. Any request elsewhere, any blocked by the policy and any script error fails."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("request", lambda one: wrong.append(one.url) if not one.url.startswith((base(server), "blob:")) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda one: wrong.append(one.text) if one.type == "error" and "400" not in one.text else None)
    page.goto(server.url)
    yield page
    context.close()
    assert wrong == []


def base(server: PageServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def inspect(page: Any, server: PageServer, picture: Path, rule: str) -> str:
    """Send a picture and wait for its verdict; the address of the record."""
    page.goto(base(server))
    page.set_input_files("#picture", picture)
    page.check(f'input[name=rule][value="{rule}"]')
    page.click("#go")
    page.wait_for_url("**/records/page/*")
    page.wait_for_load_state("networkidle")
    return str(page.url)


CASES = [
    ("pass", "acceptable.png", "recipe:plain", "PASS"), ("fail", "rejectable.png", "recipe:plain", "FAIL"),
    ("inconclusive", "rejectable.png", "recipe:close", "INCONCLUSIVE"),
    ("unknown", "rejectable.png", "recipe:strange", "INCONCLUSIVE"),
    ("not-evaluable", "blank.png", "recipe:plain", "NOT_EVALUABLE"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "picture", "rule", "outcome"), CASES, ids=[one[0] for one in CASES])
def test_from_a_picture_to_the_verdict_to_the_report(
    page: Any, server: PageServer, place: Path, shots: Path, name: str, picture: str, rule: str, outcome: str
) -> None:
    inspect(page, server, place / picture, rule)
    page.screenshot(path=shots / f"{name}.png", full_page=True)
    assert page.get_attribute("#verdict", "data-outcome") == outcome
    assert page.inner_text("#verdict h1").startswith(outcome.replace("_", " "))
    assert page.is_visible("#advisory"), "a demonstration's verdict says what it is"
    text = page.inner_text("main")
    if name == "unknown":
        assert "I was not trained on this type of defect" in page.inner_text("#message")
        assert "nearest known: Gas porosity, round" in text
        assert "never passes by itself" in text
    if name == "fail":
        assert "would have to be at most" in text and "exceeds" in text
        assert page.locator("figure img").count() == 3, "part and reference, curve, tiles"
    with page.expect_download() as waiting:
        page.click("text=PDF A4")
    data = Path(waiting.value.path()).read_bytes()
    assert data.startswith(b"%PDF")
    with page.expect_download() as waiting:
        page.click(".downloads >> text=JSON")
    record = json.loads(Path(waiting.value.path()).read_text())
    assert record["outcome"] == outcome and record["image"] == picture and record["submitted_by"] == "local"


def test_the_yellow_picture_differs_from_the_input_on_defect_pixels_only(
    page: Any, server: PageServer, place: Path
) -> None:
    """To the last bit, in 8 and 16 bit, also where the picture is looked at in fewer pixels than it has."""
    grey = load_picture(place / "rejectable.png").pixels
    deep = grey.astype(np.uint16) * 173 + 1000
    fine = cv2.resize(deep, (777, 641), interpolation=cv2.INTER_LINEAR)
    for name, pixels, scale in (("deep.png", deep, ""), ("fine.png", fine, "0.066")):
        write_png_atomic(place / name, pixels)
        page.goto(base(server))
        page.set_input_files("#picture", place / name)
        page.fill("input[name=mm_per_px]", scale)
        page.click("#go")
        page.wait_for_url("**/records/page/*")
        read = {}
        for file in ("highlight.png", "labels.png"):
            data = page.request.get(f"{page.url}/{file}").body()
            read[file] = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        labels, yellow = read["labels.png"], read["highlight.png"][:, :, ::-1]
        assert labels.shape == pixels.shape and yellow.dtype == np.uint16
        assert (labels > 0).any()
        assert (yellow[labels > 0] == (65535, 65535, 0)).all()
        assert (yellow[labels == 0] == pixels[labels == 0][:, None]).all()
        shown = cv2.imdecode(
            np.frombuffer(page.request.get(f"{page.url}/picture/highlight").body(), np.uint8), cv2.IMREAD_UNCHANGED
        )[:, :, ::-1]
        plain = cv2.imdecode(
            np.frombuffer(page.request.get(f"{page.url}/picture/original").body(), np.uint8), cv2.IMREAD_UNCHANGED
        )
        assert (shown[labels > 0] == (255, 255, 0)).all()
        assert (shown[labels == 0] == plain[labels == 0][:, None]).all(), "for the eye as well"


def test_the_viewer_by_keyboard_and_layers(page: Any, server: PageServer, place: Path, shots: Path) -> None:
    inspect(page, server, place / "rejectable.png", "recipe:plain")
    visible: Callable[[], list[str]] = lambda: page.eval_on_selector_all(  # noqa: E731
        ".sheet-of-pixels img:not([hidden])", "all => all.map(one => one.dataset.layer)"
    )
    zoom: Callable[[], float] = lambda: float(  # noqa: E731
        re.findall(r"scale\(([\d.]+)\)", page.eval_on_selector(".sheet-of-pixels", "one => one.style.transform"))[0]
    )
    assert visible() == ["highlight"]
    fitted = zoom()
    page.focus(".stage")
    page.keyboard.press("2")
    assert visible() == ["original"]
    page.keyboard.press("3")
    assert visible() == ["heat"]
    page.screenshot(path=shots / "heat.png")
    for _ in range(14):
        page.keyboard.press("+")
    assert zoom() > 8 * fitted, "to the pixel"
    assert page.eval_on_selector(".sheet-of-pixels img", "one => getComputedStyle(one).imageRendering") == "pixelated"
    page.keyboard.press("0")
    assert zoom() == pytest.approx(fitted)
    page.click("button[data-box] >> nth=0")
    assert page.is_visible(".mark")
    page.screenshot(path=shots / "zoomed.png")


def test_a_picture_is_pasted_and_judged_by_a_table(page: Any, server: PageServer, place: Path, shots: Path) -> None:
    page.goto(base(server))
    data = list((place / "rejectable.png").read_bytes())
    page.evaluate(
        """data => {
            const list = new DataTransfer();
            list.items.add(new File([new Uint8Array(data)], "pasted.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: list, bubbles: true}));
        }""",
        data,
    )
    assert "pasted.png" in page.inner_text("#chosen")
    page.check("input[name=rule][value=table]")
    page.select_option("select[name=standard]", "house-demo")
    page.select_option("select[name=metal]", "aluminum")
    page.fill("input[name=thickness]", "1/4 in")
    page.select_option("select[name=grade]", "C")
    page.screenshot(path=shots / "table.png", full_page=True)
    page.click("#go")
    page.wait_for_selector("#error")
    assert "the scale is missing" in page.inner_text("#error"), "there is no default scale"
    assert page.input_value("input[name=thickness]") == "1/4 in", "what was typed is still there"
    page.set_input_files("#picture", place / "rejectable.png")
    page.fill("input[name=mm_per_px]", "0.1")
    page.fill("input[name=u]", "0.0005")
    page.select_option("select[name=engine]", "castings-xray")
    page.click("#go")
    page.wait_for_url("**/records/page/*")
    assert page.get_attribute("#verdict", "data-outcome") == "FAIL"
    assert "house-demo:" in page.inner_text("main")


def test_the_lines_records_are_shown_and_their_pictures_inspected_again(
    page: Any, server: PageServer, shots: Path
) -> None:
    page.goto(f"{base(server)}/history?outcome=NOT_EVALUABLE")
    page.screenshot(path=shots / "history.png")
    page.click("table a")
    page.wait_for_url(f"**/records/line/{LINE_ID}")
    text = page.inner_text("main")
    assert "withdrawn since yesterday" in text, "a withdrawn certificate is never hidden"
    assert "No frame in time" in text
    page.click("text=Inspect again by other rules")
    page.check('input[name=rule][value="recipe:plain"]')
    page.click("#go")
    page.wait_for_url("**/records/page/*")
    assert page.get_attribute("#verdict", "data-outcome") == "FAIL"
    assert LINE_ID in page.inner_text("main")


def test_a_correction_is_drawn_in_the_browser_and_the_part_judged_again(
    page: Any, server: PageServer, place: Path, shots: Path
) -> None:
    record = inspect(page, server, place / "rejectable.png", "recipe:plain")
    page.select_option("#feedback select[name=verdict]", "wrong_type")
    page.select_option("#feedback select[name=position]", "0")
    page.select_option("#feedback select[name=correct_type]", "gas_hole")
    page.fill("#feedback textarea", "one hole\nwith a tail")
    page.click("#feedback button.primary")
    page.wait_for_selector(".word")
    assert "Wrong type · indication 1 → Gas hole" in page.inner_text(".word")
    page.click("text=Draw a correction")
    page.wait_for_selector("#editor[data-ready=true]")
    page.select_option("#value", label="Crack")
    area = page.locator("#paint").bounding_box()
    zoom = area["width"] / float(page.get_attribute("#editor", "data-width"))

    def stroke(y: int) -> None:
        page.mouse.move(area["x"] + 60 * zoom, area["y"] + y * zoom)
        page.mouse.down()
        page.mouse.move(area["x"] + 120 * zoom, area["y"] + y * zoom, steps=5)
        page.mouse.up()

    stroke(20)
    stroke(60)
    page.click("#undo")
    page.screenshot(path=shots / "correct.png", full_page=True)
    page.select_option("select[name=verdict]", "missed")
    page.fill("#correct textarea", "a crack along the rim")
    page.click("text=Keep this feedback")
    page.wait_for_selector(".word >> nth=1")
    assert page.url.split("#")[0] == record
    assert "Judged again with the corrected labels: FAIL" in page.inner_text(".word >> nth=0")
    page.screenshot(path=shots / "said.png", full_page=True)

    def labels_at(address: str) -> np.ndarray:
        data = np.frombuffer(page.request.get(address).body(), np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))

    before = labels_at(f"{record}/labels.png")
    after = labels_at(base(server) + page.get_attribute(".word >> nth=0 >> a", "href"))
    crack = list(load(engine_folder("castings-xray")).types).index("crack") + 1
    rows, columns = np.nonzero(after != before)
    assert (after[rows, columns] == crack).all() and len(rows) > 300
    assert rows.min() >= 14 and rows.max() <= 26 and columns.min() >= 54 and columns.max() <= 126, (
        "one stroke; the other was undone"
    )
    assert (after[20, 62:118] == crack).all()


def test_what_is_like_an_indication_is_shown_with_pictures(page: Any, server: PageServer, place: Path) -> None:
    inspect(page, server, place / "rejectable.png", "recipe:plain")
    shown = inspect(page, server, place / "rejectable.png", "recipe:plain")
    page.wait_for_selector("#similar select[name=among]")
    page.select_option("#similar select[name=among]", "page")
    page.wait_for_selector("#similar .alike a")
    page.locator("#similar .alike img").first.scroll_into_view_if_needed()
    page.locator("#similar .alike img").first.evaluate("async one => await one.decode()")
    links = page.eval_on_selector_all("#similar .alike a", "all => all.map(one => one.pathname)")
    assert len(links) == 12 and all(one.startswith("/records/page/") for one in links)
    assert "distance 0.00" in page.inner_text("#similar .alike li >> nth=0"), "the same picture was inspected before"
    assert shown.endswith(page.get_attribute("#similar form", "action").removesuffix("/similar"))
    with page.expect_response("**/similar?position=1&among=page"):
        page.select_option("#similar select[name=position]", "1")
    page.locator('#similar select[name=position] option:checked[value="1"]').wait_for(state="attached")
    assert page.input_value("#similar select[name=among]") == "page"


def test_an_answer_that_comes_late_keeps_what_was_typed_meanwhile(page: Any, server: PageServer) -> None:
    """The fields of a table come anew with each metal; a slow server must not take a thickness away, nor mix two."""
    page.goto(base(server))
    page.check("input[name=rule][value=table]")
    held: list[Any] = []
    # A plain function: playwright sets an attribute on its handler, which a bound append does not take.
    page.route("**/inspect/table*", lambda route: held.append(route))  # noqa: PLW0108
    page.select_option("select[name=metal]", "steel")
    page.select_option("select[name=metal]", "aluminum")
    page.fill("input[name=thickness]", "1/4 in")
    page.select_option("select[name=grade]", "C")
    for _ in range(100):
        if len(held) == 2:
            break
        page.wait_for_timeout(50)
    late = [one for one in held if "metal=aluminum" in one.request.url]
    assert len(late) == 1
    page.evaluate("() => { document.querySelector('#table-fields label').id = 'before'; }")
    late[0].continue_()
    page.wait_for_selector("#before", state="detached")
    assert page.input_value("input[name=thickness]") == "1/4 in"
    assert page.input_value("select[name=grade]") == "C"
    assert page.input_value("select[name=metal]") == "aluminum"
    failed = [one for one in held if "metal=steel" in one.request.url]
    assert all(one.request.failure for one in failed), "the answer for the choice before is not waited for"


def test_a_wrong_file_comes_back_with_one_sentence(page: Any, server: PageServer, place: Path, shots: Path) -> None:
    (place / "no-picture.png").write_text("<html>")
    page.goto(base(server))
    page.set_input_files("#picture", place / "no-picture.png")
    page.click("#go")
    page.wait_for_selector("#error")
    assert "no-picture.png is not a picture in a known format" in page.inner_text("#error")
    page.screenshot(path=shots / "wrong-file.png")


def test_every_page_in_hebrew_dark_and_on_a_phone(chromium: Any, server: PageServer, shots: Path) -> None:
    """Nothing runs out of the screen sideways, in either direction of writing."""
    for width, height, scheme, language in (
        (1280, 800, "dark", "he"),
        (390, 844, "light", "en"),
        (390, 844, "dark", "he"),
    ):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale={"he": "he-IL", "en": "en-GB"}[language],
        )
        page = context.new_page()
        page.goto(server.url)
        for path in ("/", "/live", "/history", f"/records/line/{LINE_ID}", f"/records/line/{LINE_ID}/correct",
                     "/statistics?by=type", "/knowledge", "/knowledge/crack", "/library",
                     "/library/standards/house-demo", "/library/references/demo/aluminum/6.35mm/gas_hole", "/system",
                     "/audit?source=line"):  # fmt: skip
            page.goto(base(server) + path)
            assert page.get_attribute("html", "dir") == ("rtl" if language == "he" else "ltr")
            name = re.sub(r"[0-9a-f-]{36}|[^a-z]+", "-", path).strip("-") or "home"
            if (width, language) != (390, "he"):
                page.screenshot(path=shots / f"{name}-{width}-{scheme}-{language}.png")
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, (path, width, language)
        context.close()


@pytest.mark.needs("axe")
def test_axe_finds_no_serious_violation(chromium: Any, server: PageServer, place: Path) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    for scheme, language in (("light", "en-GB"), ("dark", "he-IL")):
        # The policy of the page keeps foreign scripts out, the test's as well.
        context = chromium.new_context(color_scheme=scheme, locale=language, bypass_csp=True)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(server.url)
        record = inspect(page, server, place / "rejectable.png", "recipe:plain").removeprefix(base(server))
        pages = ["/", record, f"{record}/similar", f"{record}/correct", "/live", "/history", "/statistics",
                 "/knowledge", "/knowledge/crack", "/library", "/system", "/audit?verify=1", "/nowhere"]  # fmt: skip
        pages += ["/library/standards/astm-e802"]  # like the others, and one row long: axe looks at every cell
        pages += ["/library/references/demo/aluminum/6.35mm/gas_hole"]
        for path in pages if scheme == "light" else pages[1:7]:
            page.goto(base(server) + path)
            page.evaluate(axe)
            result = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
            bad = [(one["id"], one["impact"], one["nodes"][0]["html"][:160]) for one in result["violations"]
                   if one["impact"] in ("serious", "critical")]  # fmt: skip
            assert bad == [], (path, scheme)
        context.close()


# ---------------------------------------------------------------- many at once


@contextmanager
def client_of(server: PageServer) -> Iterator[httpx.Client]:
    """A browser without a screen, with its own session."""
    with httpx.Client(base_url=base(server), headers={"origin": base(server)}, timeout=240.0) as client:
        client.get(server.url)
        yield client


def csrf_of(client: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
    assert found is not None
    return found.group(1)


def test_eight_uploads_at_once_and_the_right_picture_to_each(server: PageServer) -> None:
    """Eight browsers, eight pictures that can be told apart; nobody sees another's job."""

    def send(number: int) -> tuple[str, str]:
        pixels = conveyor_part(950_040 + number, "acceptable").pixels
        pixels = np.ascontiguousarray(pixels[: 400 + 8 * number])
        data = cv2.imencode(".png", pixels)[1].tobytes()
        with client_of(server) as client:
            form = {"csrf": csrf_of(client), "rule": "recipe:plain"}
            sent = client.post("/inspect", data=form, files={"picture": (f"part-{number}.png", data)})
            assert sent.status_code == 303, sent.text
            job = sent.headers["location"]
            with client_of(server) as other:
                assert other.get(job).status_code == 404 and other.get(f"{job}/state").status_code == 404
            while True:
                answer = client.get(f"{job}/state")
                if answer.status_code == 204:
                    break
                assert answer.status_code == 200 and "alert" not in answer.text, answer.text
                time.sleep(0.1)
            record = answer.headers["hx-redirect"]
            stored = cv2.imdecode(
                np.frombuffer(client.get(f"{record}/frame.png").content, np.uint8), cv2.IMREAD_UNCHANGED
            )
            assert (stored == pixels).all()
            document = client.get(f"{record}/record.json").json()
            assert document["image"] == f"part-{number}.png"
            assert document["working"]["size_px"][1] == 400 + 8 * number
            return job, record

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len(set(answers)) == 8


def test_what_one_user_sends_another_user_does_not_see(place: Path, tmp_path: Path) -> None:
    from edge_daemon.station.users import Users

    password = "a sentence of its own"
    users = Users(tmp_path / "users.json")
    for name, role in (("ann", "administrator"), ("ian", "inspector"), ("eve", "inspector")):
        users.add(name, role, password)
    options = StationOptions(data=tmp_path / "data", port=0, backend="onnxruntime", users=tmp_path / "users.json",
                             recipes=(place / "plain.toml",))  # fmt: skip
    with PageServer(options) as server, client_of(server) as ian, client_of(server) as eve, client_of(server) as ann:
        for client, name in ((ian, "ian"), (eve, "eve"), (ann, "ann")):
            assert client.post("/login", data={"name": name, "password": password}).headers["location"] == "/"
        data = (place / "blank.png").read_bytes()
        sent = ian.post(
            "/inspect", data={"csrf": csrf_of(ian), "rule": "recipe:plain"}, files={"picture": ("b.png", data)}
        )
        job = sent.headers["location"]
        assert eve.get(job).status_code == 404 and ann.get(job).status_code == 404
        while ian.get(f"{job}/state").status_code != 204:
            time.sleep(0.1)
        record = ian.get(job).headers["location"]
        for path in ("", "/record.json", "/frame.png", "/report.pdf", "/picture/original", "/picture/thumbnail"):
            assert eve.get(record + path).status_code == 404, path
            assert ian.get(record + path).status_code == ann.get(record + path).status_code == 200, path
        assert record not in eve.get("/history?source=page").text
        assert record in ian.get("/history?source=page").text and record in ann.get("/history?source=page").text
        again = {"csrf": csrf_of(eve), "rule": "recipe:plain", "again": record.removeprefix("/records/")}
        assert eve.post("/inspect", data=again).status_code in (400, 404)
        assert "ian" in ann.get("/audit").text and "inspected" in ann.get("/audit").text


@pytest.mark.needs("axe")
def test_ones_own_password_is_changed_by_keyboard(chromium: Any, tmp_path: Path, shots: Path) -> None:
    """From the menu, in both languages; axe finds nothing serious, with and without an error shown."""
    from edge_daemon.station.users import Users

    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    password, new = "a sentence of its own", "another sentence of its own"
    users = Users(tmp_path / "users.json")
    users.add("ann", "administrator", password)
    users.add("otto", "operator", password)
    options = StationOptions(data=tmp_path / "data", port=0, users=tmp_path / "users.json")
    for locale, before, after in (("en-GB", password, new), ("he-IL", new, password)):
        with PageServer(options) as server:
            context = chromium.new_context(locale=locale, viewport={"width": 1024, "height": 768}, bypass_csp=True)
            page = context.new_page()
            page.goto(f"{base(server)}/login")
            page.fill("input[name=name]", "otto")
            page.fill("input[name=password]", before)
            page.keyboard.press("Enter")
            page.wait_for_selector(".menu summary")
            page.focus(".menu summary")
            page.keyboard.press("Enter")
            page.focus('.sheet a[href="/password"]')
            page.keyboard.press("Enter")
            page.wait_for_selector("input[name=present]:focus")
            page.screenshot(path=shots / f"password-{locale}.png")
            for present, expected in (("wrong", "#error"), (before, "#done")):
                page.focus("input[name=present]")
                for text in (present, after, after):
                    page.keyboard.type(text)
                    page.keyboard.press("Tab")
                page.keyboard.press("Enter")  # on the button
                page.wait_for_selector(expected)
                page.evaluate(axe)
                result = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
                assert [one["id"] for one in result["violations"] if one["impact"] in ("serious", "critical")] == []
                page.screenshot(path=shots / f"password-{expected[1:]}-{locale}.png")
            context.close()
        assert Users(tmp_path / "users.json").check("otto", after) is not None
    with PageServer(options) as server:
        for width in (1024, 390):
            context = chromium.new_context(locale="he-IL", viewport={"width": width, "height": 768}, bypass_csp=True)
            page = context.new_page()
            page.goto(f"{base(server)}/login")
            page.fill("input[name=name]", "ann")
            page.fill("input[name=password]", password)
            page.keyboard.press("Enter")
            page.wait_for_selector(".menu summary")
            page.goto(f"{base(server)}/users")
            page.screenshot(path=shots / f"users-{width}.png", full_page=True)
            page.evaluate(axe)
            result = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
            assert [one["id"] for one in result["violations"] if one["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
            context.close()


def test_fuzzed_uploads_leave_the_page_as_it_was(server: PageServer, place: Path) -> None:
    """A sentence for each, also for a form that is no form; the next good picture is taken."""
    rng = np.random.default_rng(5)
    whole = (place / "blank.png").read_bytes()
    with client_of(server) as client:
        token = csrf_of(client)
        for number in range(25):
            data = bytearray(whole)
            for place_ in rng.integers(0, len(data), 6):
                data[place_] = rng.integers(0, 256)
            data = data[: rng.integers(1, len(data))] if number % 2 else data
            answer = client.post(
                "/inspect", data={"csrf": token, "rule": "recipe:plain"}, files={"picture": ("f.png", bytes(data))}
            )
            assert answer.status_code in (303, 400)
            assert answer.status_code == 303 or "f.png" in answer.text
            assert "Traceback" not in answer.text and str(place) not in answer.text
        for body, kind in ((b"--x\r\n", "multipart/form-data; boundary=x"), (b"\xff" * 99, "multipart/form-data"),
                           (b"", "application/json")):  # fmt: skip
            answer = client.post("/inspect", content=body, headers={"content-type": kind})
            assert answer.status_code in (400, 403)
        good = {"csrf": token, "rule": "recipe:plain"}
        sent = client.post("/inspect", data=good, files={"picture": ("good.png", whole)})
        assert sent.status_code == 303


def test_the_live_view_follows_the_records(page: Any, server: PageServer, place: Path, shots: Path) -> None:
    page.goto(f"{base(server)}/live")
    before = page.locator(".part").count()
    with MemoryBank(place / "memory.db") as bank:
        store_line_record(bank, place, LINE_ID.replace("01a209b9", "01a209ba"), 8)
    page.locator(".part").nth(before).wait_for(timeout=20_000)
    assert "Part 8" in page.inner_text(".part >> nth=0")
    page.screenshot(path=shots / "live.png")
    assert (
        io.BytesIO(page.request.get(base(server) + page.locator(".part img").first.get_attribute("src")).body()).read(2)
        == b"\xff\xd8"
    )
