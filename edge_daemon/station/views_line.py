"""The line beside the page as it runs, and what was ever found."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from ..records import TYPE_IDS, Outcome
from .bank import BANKS, Filter, Shelf
from .live import LineState
from .report import PAPER_NAMES
from .report.lot import lot_report
from .users import may
from .web import Refused, needs, render, services, session_of, words_of

__all__ = ["history", "live", "live_state", "lot"]

_LAST_PARTS = 12
_ROWS = 50
_MOST_OF_A_LOT = 20_000
_TIME = re.compile(r"\d{4}(-\d{2}(-\d{2}(T\d{2}(:\d{2}(:\d{2})?)?)?)?)?")


async def _line(request: Request) -> dict[str, Any]:
    own = services(request)

    def look() -> tuple[LineState, Any, Any]:
        shelf = own.banks.line
        if shelf is None:
            return own.watch.state(), (), None
        return own.watch.state(), shelf.find(Filter(), limit=_LAST_PARTS).records, shelf.counts()

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


def _filter(request: Request) -> tuple[Filter, dict[str, str]]:
    """What the address asks for, and the same as texts for the form. Raises Refused for what cannot be."""
    query = request.query_params
    given = {name: query.get(name, "").strip()[:100] for name in
             ("source", "outcome", "type", "since", "until", "recipe", "part")}  # fmt: skip
    if given["outcome"] and given["outcome"] not in [str(one) for one in Outcome]:
        raise Refused(400, "refused.filter")
    if given["type"] and given["type"] not in (*TYPE_IDS, "unknown"):
        raise Refused(400, "refused.filter")
    if any(given[name] and not _TIME.fullmatch(given[name]) for name in ("since", "until")):
        raise Refused(400, "refused.time")
    if given["part"] and not (given["part"].isascii() and given["part"].isdigit()):
        raise Refused(400, "refused.filter")
    return Filter(
        outcome=Outcome(given["outcome"]) if given["outcome"] else None,
        defect_type=given["type"] or None,
        since=given["since"] or None,
        until=given["until"] or None,
        recipe=given["recipe"] or None,
        part_id=int(given["part"]) if given["part"] else None,
    ), given


def _shelf(request: Request, given: dict[str, str]) -> tuple[str, Shelf | None, str | None]:
    """(bank, what to look in, only whose records): of the page, one sees one's own."""
    own, session = services(request), session_of(request)
    source = given["source"] if given["source"] in BANKS else ("line" if own.banks.line is not None else "page")
    owner = session.user if source == "page" and not may(session.role, "administrator") else None
    return source, own.banks.shelf(source), owner


@needs("operator")
async def history(request: Request) -> Response:
    """Records that meet a filter, newest first, page by page."""
    wanted, given = _filter(request)
    source, shelf, owner = _shelf(request, given)
    before_text = request.query_params.get("before", "")
    before = int(before_text) if before_text.isascii() and before_text.isdigit() and len(before_text) < 16 else None
    records: Any = ()
    following = None
    if shelf is not None:
        found = await to_thread.run_sync(lambda: shelf.find(wanted, limit=_ROWS, before=before, owner=owner))
        records = found.records
        if found.before is not None:
            kept = {name: value for name, value in given.items() if value}
            following = "/history?" + urlencode({**kept, "source": source, "before": found.before})
    asked = urlencode({name: value for name, value in {**given, "source": source}.items() if value})
    shown: dict[str, Any] = {
        "records": records, "given": given, "source": source, "following": following, "missing": shelf is None,
        "outcomes": [str(one) for one in Outcome], "types": (*TYPE_IDS, "unknown"), "papers": PAPER_NAMES,
        "asked": asked,
    }  # fmt: skip
    return render(request, "history.html", **shown)


@needs("inspector")
async def lot(request: Request) -> Response:
    """The report of everything that the filter of the history shows."""
    wanted, given = _filter(request)
    _, shelf, owner = _shelf(request, given)
    paper = request.query_params.get("paper", "a4")
    if shelf is None or paper not in PAPER_NAMES:
        raise Refused(404, "refused.404")
    name = request.query_params.get("name", "").strip()[:60]
    words = words_of(request)

    def make() -> bytes | None:
        documents = list(shelf.documents(wanted, _MOST_OF_A_LOT + 1))
        mine = [one for one in documents if owner is None or one.get("submitted_by") == owner]
        return (
            None if not mine or len(documents) > _MOST_OF_A_LOT else lot_report(mine, name=name, words=words).pdf(paper)
        )

    data = await to_thread.run_sync(make)
    if data is None:
        raise Refused(400, "refused.lot")
    return Response(
        data, media_type="application/pdf", headers={"content-disposition": 'attachment; filename="lot.pdf"'}
    )
