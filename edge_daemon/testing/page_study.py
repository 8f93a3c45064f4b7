"""The page under load: uploads, a million records, and the line beside it. The tables of BENCHMARKS.md.

    python -m edge_daemon.testing.page_study --uploads 100            # in a row, then 8 at once; memory
    python -m edge_daemon.testing.page_study --database million.db    # pages over the bank of memory_study
    python -m edge_daemon.testing.page_study --parts 300 --rounds 2   # the line without and with a hammered page

Every answer comes over HTTP from the real command in a process of its own. The browsers are threads of this process,
or, beside a line, of another one that gives way to it: on a device they would be other machines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray

from .. import demo, units
from ..memory import MemoryBank
from ..simulator import conveyor_part
from .benchmark import quantiles_ms

__all__ = ["Browser", "main", "running_page", "send_and_check"]

_WARM_UP, _AT_ONCE = 8, 8
_START_S = 60.0


@contextmanager
def running_page(folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """``edge-daemon station`` on a free port: (address with its key, process id)."""
    recipe = folder / "recipe.toml"
    recipe.write_text(files("edge_daemon.demo").joinpath("recipe.toml").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "edge_daemon", "station", "--port", "0", "--json", "--data", str(folder / "page"),
               "--backend", "onnxruntime", "--recipe", str(recipe), *arguments]  # fmt: skip
    with (folder / "page.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(_START_S)
        process.stdout.close()


class Browser(httpx.Client):
    """A browser without a screen, with a session of its own."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        base = f"{address.scheme}://{address.netloc}"
        super().__init__(base_url=base, headers={"origin": base}, timeout=120.0)
        self.get(url)

    def form_token(self, path: str = "/") -> str:
        """The token that this session's forms carry."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        if found is None:
            raise RuntimeError(f"{path} shows no form")
        return found.group(1)


def send_and_check(browser: Browser, token: str, pixels: NDArray[np.uint8], name: str) -> tuple[float, str]:
    """Send a picture and wait for its record: (seconds, address of the record). Raises RuntimeError where the record is
    not of this very picture."""
    data = cv2.imencode(".png", pixels)[1].tobytes()
    started_s = time.perf_counter()
    while True:
        sent = browser.post(
            "/inspect", data={"csrf": token, "rule": "recipe:demo-housing"}, files={"picture": (name, data)}
        )
        if sent.status_code != 429:
            break
        time.sleep(0.5)
    if sent.status_code != 303:
        raise RuntimeError(f"{name}: answer {sent.status_code}")
    job = sent.headers["location"]
    while (answer := browser.get(f"{job}/state")).status_code != 204:
        if answer.status_code not in (200, 429) or "alert" in answer.text:
            raise RuntimeError(f"{name}: {answer.text}")
        time.sleep(0.05)
    took_s = time.perf_counter() - started_s
    record = answer.headers["hx-redirect"]
    stored = cv2.imdecode(np.frombuffer(browser.get(f"{record}/frame.png").content, np.uint8), cv2.IMREAD_UNCHANGED)
    named = browser.get(f"{record}/record.json").json()["image"]
    if stored is None or not np.array_equal(stored, pixels) or named != name:
        raise RuntimeError(f"{name}: the record {record} is of another picture")
    return took_s, record


def _pictures(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """Pictures of which no two are the same."""
    made = [conveyor_part(seed + number, "acceptable").pixels for number in range(4)]
    pictures = []
    for number in range(count):
        pixels = np.array(made[number % 4])
        pixels[:2, :64] = np.unpackbits(np.frombuffer(number.to_bytes(8, "little"), np.uint8)) * np.uint8(60) + 60
        pictures.append(pixels)
    return pictures


def _rss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found.group(1)) / 1024 if found else float("nan")


def measure_uploads(count: int) -> list[str]:
    """Rows: one after the other, then eight at once; how the memory grows."""
    with tempfile.TemporaryDirectory() as folder, running_page(Path(folder)) as (url, pid):
        browser = Browser(url)
        token = browser.form_token()
        for number, pixels in enumerate(_pictures(_WARM_UP, 961_000)):
            send_and_check(browser, token, pixels, f"warm-{number}.png")
        first_mb = _rss_mb(pid)
        took_s = []
        middle_mb = first_mb
        for number, pixels in enumerate(_pictures(count, 962_000)):
            took_s.append(send_and_check(browser, token, pixels, f"row-{number}.png")[0])
            if number == count // 2:
                middle_mb = _rss_mb(pid)
        row_mb = _rss_mb(pid)
        pictures = _pictures(_AT_ONCE, 963_000)
        browsers = [Browser(url) for _ in pictures]
        tokens = [one.form_token() for one in browsers]
        names = [f"once-{number}.png" for number in range(_AT_ONCE)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            done = list(pool.map(send_and_check, browsers, tokens, pictures, names))
        records = {record for _, record in done}
        for one in (*browsers, browser):
            one.close()
        at_once_mb = _rss_mb(pid)
    row, once = quantiles_ms(took_s), quantiles_ms([one for one, _ in done])
    return [
        "| what | n | answered, own picture | p50 ms | p99 ms | memory of the page, MB |\n|---|---|---|---|---|---|",
        f"| uploads in a row | {count} | {len(took_s)} | {row['p50']:.0f} | {row['p99']:.0f} |"
        f" {first_mb:.0f} after {_WARM_UP}, {middle_mb:.0f} half way, {row_mb:.0f} at the end |",
        f"| uploads at once, 8 browsers | {_AT_ONCE} | {len(records)} | {once['p50']:.0f} | {once['p99']:.0f} |"
        f" {at_once_mb:.0f} |",
    ]


# ---------------------------------------------------------------- a million records


def measure_pages(database: Path, runs: int) -> Iterator[str]:
    """Rows: whole pages over a large bank, from the request to the last byte."""
    with MemoryBank(database, read_only=True) as bank:
        newest = next(one for one in bank.history(limit=50) if one.indications)
        middle = newest.number // 2
        count = bank.counts().records
    record = f"/records/line/{newest.record_id}"
    pages = {
        "history, the newest 50": "/history", "history, 50 from the middle": f"/history?before={middle}",
        "history, FAIL of one recipe": "/history?outcome=FAIL&recipe=housing-c",
        "history, scratches since June": "/history?type=scratches&since=2026-06",
        "history, a day of one line": "/history?since=2026-02-11&until=2026-02-11&station=cell-2",
        "statistics by day, the whole year": "/statistics?by=day", "statistics by week": "/statistics?by=week",
        "statistics by line": "/statistics?by=line", "statistics by recipe": "/statistics?by=recipe",
        "statistics by engine": "/statistics?by=engine", "statistics by type": "/statistics?by=type",
        "similar, the 12 nearest of all": f"{record}/similar", "a record's page": record,
        "one type, with its own words": "/knowledge/crack", "audit trail of the line": "/audit?source=line",
    }  # fmt: skip
    yield f"{count} records in the line's bank, {runs} runs of each page\n"
    yield "| page | p50 ms | p99 ms |\n|---|---|---|"
    with (
        tempfile.TemporaryDirectory() as folder,
        running_page(Path(folder), "--database", str(database), "--nice", "0") as (url, _),
        contextlib.closing(Browser(url)) as browser,
    ):
        started_s = time.perf_counter()
        browser.get(f"{record}/similar")  # waits for what is warmed in the background
        warm_s = time.perf_counter() - started_s
        for name, path in pages.items():
            took_s = []
            for _ in range(runs):
                started_s = time.perf_counter()
                answer = browser.get(path)
                took_s.append(time.perf_counter() - started_s)
                if answer.status_code != 200:
                    raise RuntimeError(f"{path}: answer {answer.status_code}")
            figures = quantiles_ms(took_s)
            yield f"| {name} | {figures['p50']:.0f} | {figures['p99']:.0f} |"
        yield f"\nThe first question for similar indications waited {warm_s:.1f} s for the background to finish."


# ---------------------------------------------------------------- the line beside it


@dataclass(slots=True)
class _Hammer:
    """Another process, nicer than the line, that asks the page for everything, again and again."""

    process: subprocess.Popen[bytes] | None = None

    def start(self, url: str) -> None:
        """Begin."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_daemon.testing.page_study", "--hammer", url],
            stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(10),  # noqa: PLW1509 - before any thread of ours
        )  # fmt: skip

    def stop(self) -> dict[str, int]:
        """End; how many answers of which kind."""
        if self.process is None:
            return {}
        self.process.terminate()
        said, _ = self.process.communicate(timeout=_START_S)
        if not said:
            raise RuntimeError("the load on the page ended before the line did")
        found: dict[str, int] = json.loads(said)
        return found


def hammer(url: str) -> dict[str, int]:
    """Ask for everything with four browsers until terminated: uploads, lists, statistics, what is similar, reports,
    feedback on parts of the line."""
    import signal

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    counts: dict[str, int] = {}
    lock = threading.Lock()

    def count(what: str) -> None:
        with lock:
            counts[what] = counts.get(what, 0) + 1

    def browse(number: int) -> None:
        rng = random.Random(number)  # noqa: S311 - which page next, no secret
        with contextlib.closing(Browser(url)) as browser:
            token = browser.form_token()
            pixels = _pictures(1, 964_000 + number)[0]
            while not stop.is_set():
                _one_step(browser, token, pixels, rng, count)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(browse, range(4)))
    return counts


def _one_step(
    browser: Browser, token: str, pixels: NDArray[np.uint8], rng: random.Random, count: Callable[[str], None]
) -> None:
    step = rng.choice(("upload", "history", "statistics", "live", "record", "feedback"))
    try:
        if step == "upload":
            send_and_check(browser, token, pixels, "hammer.png")
        elif step == "history":
            browser.get("/history?outcome=FAIL").raise_for_status()
        elif step in ("statistics", "live"):
            browser.get(f"/{step}").raise_for_status()
        else:
            links = re.findall(r"/records/line/[0-9a-f-]{36}", browser.get("/history").text)
            if not links:
                return
            link = rng.choice(links)
            if step == "record":
                for more in ("", "/similar", "/report.pdf", "/picture/thumbnail"):
                    browser.get(link + more)
            else:
                form = {"csrf": token, "verdict": "confirm", "why": "load"}
                if browser.post(f"{link}/feedback", data=form).status_code != 303:
                    count("feedback refused")
                    return
        count(step)
    except httpx.ConnectError:  # the page is gone: the line is done
        time.sleep(0.2)
    except (httpx.HTTPError, RuntimeError) as error:
        if not (isinstance(error, httpx.TransportError) and _is_gone(browser)):
            count(f"{type(error).__name__} at {step}")


def _is_gone(browser: Browser) -> bool:
    """Whether nobody listens any more: the line is done and has stopped the page. What left a browser in that instant
    finds its connection closed, and no server can answer it."""
    time.sleep(0.5)
    try:
        browser.get("/live")
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False
    return False


def measure_line(parts: int, rate: str, rounds: int) -> Iterator[str]:
    """Rows: trigger to permit at the PLC, the page at rest and hammered, in turn."""
    yield "| the page | permits | p50 ms | p99 ms | the four counts | answers of the page |\n|---|---|---|---|---|---|"
    for _ in range(rounds):
        for load in (False, True):
            one = _Hammer()

            def show(text: str, one: _Hammer = one, load: bool = load) -> None:
                if load and one.process is None and text.startswith("the page: http"):
                    one.start(text.removeprefix("the page: "))

            with tempfile.TemporaryDirectory() as folder:
                report = demo.run(
                    parts=parts, rate_per_min=units.rate_per_min(rate), driver="ascii", camera="auto",
                    out=Path(folder) / "demo", show=show,
                )  # fmt: skip
                counts = one.stop()
            figures = report.latency_ms
            said = ", ".join(f"{name} {value}" for name, value in sorted(counts.items())) or "-"
            yield (
                f"| {'hammered' if load else 'at rest'} | {report.plc.passed} | {figures['p50']:.1f} |"
                f" {figures['p99']:.1f} | {'agree' if report.agrees else 'DO NOT AGREE'} | {said} |"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for, print tables."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.page_study", description=__doc__)
    parser.add_argument("--uploads", type=int, default=0, metavar="N")
    parser.add_argument("--database", type=Path, help="a bank made by memory_study")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--parts", type=int, default=0, help="of each run of the line")
    parser.add_argument("--rate", default="300/min")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--hammer", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    def say(row: Any) -> None:
        print(row, flush=True)  # noqa: T201

    if args.hammer:
        say(json.dumps(hammer(args.hammer)))
        return 0
    for row in measure_uploads(args.uploads) if args.uploads else ():
        say(row)
    for row in measure_pages(args.database, args.runs) if args.database else ():
        say(row)
    for row in measure_line(args.parts, args.rate, args.rounds) if args.parts else ():
        say(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
