"""What is known about defects, and who did what: patterns, the audit chains, runs of the line."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response

from ..errors import EdgeError, UsageError
from ..memory import MemoryBank
from .asking import number_before
from .bank import BANKS
from .users import may
from .web import Refused, form_of, needs, redirect, render, services, session_of, text_of, words_of

__all__ = ["audit", "knowledge", "pattern"]

_ROWS, _RUNS = 100, 20
_VERIFYING = CapacityLimiter(1)
_LONGEST = 2000
_MOST_LINES = 30


def _bank(request: Request) -> tuple[str, MemoryBank]:
    """The bank that knowledge belongs to."""
    banks = services(request).banks
    source = banks.main
    return source, banks.get(source) or banks.page


@needs("operator")
async def knowledge(request: Request) -> Response:
    """Every type of defect: what it is, where it comes from, what makes it worse."""
    _, bank = await to_thread.run_sync(_bank, request)
    patterns = await to_thread.run_sync(partial(bank.patterns, language=words_of(request).language))
    return render(request, "knowledge.html", patterns=list(patterns.values()))


@needs("operator")
async def pattern(request: Request) -> Response:
    """One type, with its figures; an administrator may put own words in place of the shipped ones, and take them
    back. Each change stands in the audit chain with who and why."""
    source, bank = await to_thread.run_sync(_bank, request)
    name, session = request.path_params["type"], session_of(request)
    known = await to_thread.run_sync(partial(bank.patterns, language=words_of(request).language))
    if name not in known:
        raise Refused(404, "refused.404")
    shown, error, typed = known[name], None, known[name]
    if request.method == "POST":
        form = await form_of(request, most_bytes=64 << 10)
        if not may(session.role, "administrator"):
            raise Refused(403, "refused.role")
        change: dict[str, Any] = {"reset": True}
        why = text_of(form, "why", _LONGEST)
        if text_of(form, "do") != "reset":
            change = {
                "title": text_of(form, "title"),
                "description": text_of(form, "description", _LONGEST, lines=True),
                "causes": _lines(text_of(form, "causes", 8 * _LONGEST, lines=True)),
                "severity": _lines(text_of(form, "severity", 8 * _LONGEST, lines=True)),
            }
            typed = replace(shown, **change)
        writer = services(request).banks.writer(source)
        try:
            if text_of(form, "seen") != (shown.edited_utc or ""):
                raise UsageError(
                    f"{shown.edited_by or 'somebody'} changed these words while you were writing",
                    hint="above is what they are now; what you wrote is below: send it again if it still holds",
                )
            await to_thread.run_sync(partial(writer.edit_pattern, name, who=session.user, why=why, **change))
            return redirect(f"/knowledge/{name}")
        except EdgeError as caught:
            error = caught
    return render(
        request, "pattern.html", status=200 if error is None else 400, pattern=shown, typed=typed,
        error=error, source=source,
        changes=await to_thread.run_sync(partial(bank.notes, kind="pattern", subject=name, limit=20)),
    )  # fmt: skip


def _lines(text: str) -> list[str]:
    """A cause or an indicator a line. Raises Refused for more than anybody reads."""
    found = [line.strip() for line in text.split("\n") if line.strip()]
    if len(found) > _MOST_LINES:
        raise Refused(400, "refused.form")
    return found


@needs("administrator")
async def audit(request: Request) -> Response:
    """What people and the program did, newest first, of the page or of the line; ``?verify=1`` proves the page's own
    chain."""
    banks, query = services(request).banks, request.query_params
    source = query["source"] if query.get("source") in BANKS else "page"
    bank = await to_thread.run_sync(banks.get, source)
    kind = query.get("kind", "")[:40]
    entries: Any = []
    runs: Any = []
    if bank is not None:
        before = number_before(request)
        entries = await to_thread.run_sync(partial(bank.notes, kind=kind or None, limit=_ROWS + 1, before=before))
        runs = await to_thread.run_sync(partial(bank.sessions, limit=_RUNS)) if source == "line" else []
    verified, error = None, None
    if bank is not None and source == "page" and query.get("verify") == "1":
        try:
            verified = await to_thread.run_sync(partial(bank.verify, derived=False), limiter=_VERIFYING)
        except EdgeError as caught:
            error = caught
    following = entries[_ROWS - 1].number if len(entries) > _ROWS else None
    return render(
        request, "audit.html", entries=entries[:_ROWS], runs=runs, source=source, kind=kind, missing=bank is None,
        verified=verified, error=error, following=following,
    )  # fmt: skip
