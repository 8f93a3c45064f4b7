"""The line beside the page as it runs, and what was ever found."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response

from ..records import TYPE_IDS, UNKNOWN_TYPE, Outcome
from .asking import asked_bank, asked_filter, number_before, query_of
from .bank import documents, find
from .live import LineState
from .report import PAPER_NAMES
from .report.lot import lot_report
from .web import Refused, attached, needs, render, services, words_of

__all__ = ["history", "live", "live_state", "lot"]

_LAST_PARTS = 12
_ROWS = 50
_MOST_OF_A_LOT = 20_000
#: Thousands of documents at a time: one after the other.
_LOTS = CapacityLimiter(1)


async def _line(request: Request) -> dict[str, Any]:
    own = services(request)

    def look() -> tuple[LineState, Any, Any]:
        bank = own.banks.line
        if bank is None:
            return own.watch.state(), (), None
        return own.watch.state(), bank.history(limit=_LAST_PARTS), bank.counts()

    state, parts, counts = await to_thread.run_sync(look)
    return {"state": state, "parts": parts, "counts": counts, "watched": own.watch.url is not None}


@needs("operator")
async def live(request: Request) -> Response:
    """Last parts, counters and the health of everything; asks again every two seconds."""
    return render(request, "live.html", **await _line(request))


@needs("operator")
async def live_state(request: Request) -> Response:
    """The part of it that changes."""
    return render(request, "_live.html", **await _line(request))


# ---------------------------------------------------------------- history


@needs("operator")
async def history(request: Request) -> Response:
    """Records that meet a filter, newest first, page by page."""
    asked, given = asked_filter(request)
    source, bank, wanted = asked_bank(request, given, asked)
    records: Any = ()
    following = None
    if bank is not None:
        found = await to_thread.run_sync(lambda: find(bank, wanted, limit=_ROWS, before=number_before(request)))
        records = found.records
        if found.before is not None:
            following = "/history?" + query_of(given, source=source, before=found.before)
    shown: dict[str, Any] = {
        "records": records, "given": given, "source": source, "following": following, "missing": bank is None,
        "outcomes": [str(one) for one in Outcome], "types": (*TYPE_IDS, UNKNOWN_TYPE), "papers": PAPER_NAMES,
        "asked": query_of(given, source=source),
    }  # fmt: skip
    return render(request, "history.html", **shown)


@needs("inspector")
async def lot(request: Request) -> Response:
    """The report of everything that the filter of the history shows."""
    asked, given = asked_filter(request)
    _, bank, wanted = asked_bank(request, given, asked)
    paper = request.query_params.get("paper", "a4")
    if bank is None or paper not in PAPER_NAMES:
        raise Refused(404, "refused.404")
    name = request.query_params.get("name", "").strip()[:60]
    words = words_of(request)

    def make() -> bytes | None:
        count = bank.count(**asdict(wanted), most=_MOST_OF_A_LOT + 1)
        if not 0 < count <= _MOST_OF_A_LOT:
            return None
        return lot_report(list(documents(bank, wanted)), name=name, words=words).pdf(paper)

    data = await to_thread.run_sync(make, limiter=_LOTS)
    if data is None:
        raise Refused(400, "refused.lot")
    return attached(data, "application/pdf", "lot.pdf")
