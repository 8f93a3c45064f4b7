"""What an address asks of a bank: filters as texts, checked, and narrowed to what the session may see."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlencode

from starlette.requests import Request

from ..memory import MemoryBank
from ..records import TYPE_IDS, UNKNOWN_TYPE, Outcome
from .bank import BANKS, Filter
from .web import Refused, services, session_of

__all__ = ["asked_bank", "asked_filter", "number_before", "query_of"]

_FIELDS = ("source", "outcome", "type", "since", "until", "recipe", "station", "part")
_TIME = re.compile(r"\d{4}(-\d{2}(-\d{2}(T\d{2}(:\d{2}(:\d{2})?)?)?)?)?")
_PART = re.compile(r"[0-9]{1,9}")


def asked_filter(request: Request) -> tuple[Filter, dict[str, str]]:
    """What the address asks for, and the same as texts for a form. Raises Refused for what cannot be."""
    query = request.query_params
    given = {name: query.get(name, "").strip()[:100] for name in _FIELDS}
    if given["outcome"] and given["outcome"] not in [str(one) for one in Outcome]:
        raise Refused(400, "refused.filter")
    if given["type"] and given["type"] not in (*TYPE_IDS, UNKNOWN_TYPE):
        raise Refused(400, "refused.filter")
    if any(given[name] and not _TIME.fullmatch(given[name]) for name in ("since", "until")):
        raise Refused(400, "refused.time")
    if given["part"] and not _PART.fullmatch(given["part"]):
        raise Refused(400, "refused.filter")
    return Filter(
        outcome=Outcome(given["outcome"]) if given["outcome"] else None,
        defect_type=given["type"] or None,
        since=given["since"] or None,
        until=given["until"] or None,
        recipe=given["recipe"] or None,
        station=given["station"] or None,
        part_id=int(given["part"]) if given["part"] else None,
    ), given


def asked_bank(request: Request, given: dict[str, str], wanted: Filter) -> tuple[str, MemoryBank | None, Filter]:
    """(its name, the bank or None where it is not there, the filter): of the page, one sees one's own only."""
    own = services(request)
    source = given["source"] if given["source"] in BANKS else own.banks.main
    mine = own.banks.own_station(source, session_of(request))
    return source, own.banks.get(source), wanted if mine is None else replace(wanted, station=mine)


def number_before(request: Request) -> int | None:
    """Where the next page of a list begins; None: at the newest."""
    text = request.query_params.get("before", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def query_of(given: dict[str, str], **more: object) -> str:
    """The same question as an address, with ``more``; without what is empty."""
    return urlencode({name: value for name, value in {**given, **more}.items() if value})
