"""Statistics over everything that was ever stored, and records as files for other programs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from anyio import CapacityLimiter, to_thread
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..errors import EdgeError
from ..memory import STATISTICS_BY, Statistic
from .asking import asked_bank, asked_filter, query_of
from .web import Refused, needs, render

__all__ = ["export", "statistics"]

_MOST_RECORDS = 20_000
_MOST_ROWS = 400
_EXPORTING = CapacityLimiter(1)
_TABLES = ("records", "indications", "performance")
_KINDS = {"json": "application/json", "csv": "text/csv; charset=utf-8"}
_BLOCK = 256 << 10


@needs("operator")
async def statistics(request: Request) -> Response:
    """What was found and how it was judged, by day, week, line, recipe, engine or type, also of what is gone since."""
    asked, given = asked_filter(request)
    source, bank, wanted = asked_bank(request, given, asked)
    by = request.query_params.get("by", "day")
    if by not in STATISTICS_BY:
        raise Refused(400, "refused.filter")
    rows: list[Statistic] = []
    error: EdgeError | None = None
    if bank is not None:
        try:
            rows = await to_thread.run_sync(
                lambda: bank.statistics(
                    by, since=wanted.since, until=wanted.until, recipe=wanted.recipe, station=wanted.station
                )
            )
        except EdgeError as caught:
            error = caught
    if by in ("day", "week"):
        rows.reverse()  # the newest first
    else:
        rows.sort(key=lambda one: -one.parts)
    shown: dict[str, Any] = {
        "rows": rows[:_MOST_ROWS], "more": max(0, len(rows) - _MOST_ROWS), "by": by, "kinds": STATISTICS_BY,
        "given": given, "source": source, "missing": bank is None, "error": error,
        "most": max((one.parts for one in rows[:_MOST_ROWS]), default=0), "total": _total(rows),
        "asked": query_of(given, source=source),
    }  # fmt: skip
    return render(request, "statistics.html", status=200 if error is None else 400, **shown)


def _total(rows: Sequence[Statistic]) -> dict[str, int]:
    """Sums of what can be summed over the rows."""
    names = ("parts", "passed", "rejected", "advisory", "unknown_parts", "confirmed", "wrong_type", "missed",
             "false_calls")  # fmt: skip
    return {name: sum(getattr(one, name) for one in rows) for name in names}


@needs("inspector")
async def export(request: Request) -> Response:
    """What the filter shows as JSON or CSV: records, indications, or the sums per day."""
    asked, given = asked_filter(request)
    source, bank, wanted = asked_bank(request, given, asked)
    table, kind = request.path_params["table"], request.path_params["kind"]
    if bank is None or table not in _TABLES or kind not in _KINDS:
        raise Refused(404, "refused.404")
    if wanted.part_id is not None:
        raise Refused(400, "refused.export_part")
    conditions = {name: value for name, value in asdict(wanted).items() if name != "part_id"}

    def make() -> IO[bytes]:
        if table != "performance" and bank.count(**conditions, most=_MOST_RECORDS + 1) > _MOST_RECORDS:
            raise Refused(400, "refused.export")
        with tempfile.TemporaryDirectory(prefix="edge-export-") as folder:
            path = Path(folder) / f"{table}.{kind}"
            bank.export(path, table=table, **conditions)
            return path.open("rb")  # the folder goes now, the bytes when they have been read

    file = await to_thread.run_sync(make, limiter=_EXPORTING)
    return StreamingResponse(
        _blocks(file), media_type=_KINDS[kind], background=BackgroundTask(file.close),
        headers={"content-disposition": f'attachment; filename="{source}-{table}.{kind}"'},
    )  # fmt: skip


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(_BLOCK):
            yield block
