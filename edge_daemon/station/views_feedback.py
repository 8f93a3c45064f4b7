"""What people say about a record: right, wrong type, missed, false call; a corrected label image; what is like it.

A record never changes. Feedback stands beside it with who, when and why, in the audit chain of the record's bank.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from ..errors import EdgeError, ImageError, UsageError
from ..logs import log
from ..memory import FEEDBACK_VERDICTS, MemoryBank, Similar, StoredRecord
from ..records import TYPE_IDS
from .bank import BANKS, Banks
from .choices import Choice
from .jobs import Correction
from .views_record import frame_size_px, record_of
from .web import Refused, attached, form_of, needs, redirect, render, services, session_of, text_of

__all__ = ["correct", "feedback", "mask", "similar", "warm"]

_SEARCHING = CapacityLimiter(2)
_DECODING = CapacityLimiter(1)
_ALIKE, _WIDEST = 12, 800
_LONGEST_WHY = 2000
_MASK_BYTES = 16 << 20
#: What a corrected label image may say; it does not confirm.
_DRAWN = tuple(one for one in FEEDBACK_VERDICTS if one != "confirm")


def _position(text: str) -> int | None:
    """The number of an indication, None for the part. Raises Refused."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise Refused(400, "refused.form")
    return int(text)


@needs("operator")
async def feedback(request: Request) -> Response:
    """Keep a word about a record or one of its indications."""
    own, session = services(request), session_of(request)
    source, found, _ = await record_of(request)
    form = await form_of(request, most_bytes=64 << 10)
    writer = own.banks.writer(source)
    say = partial(
        writer.feedback, found.record_id, text_of(form, "verdict"), who=session.user,
        why=text_of(form, "why", _LONGEST_WHY, lines=True), position=_position(text_of(form, "position")),
        correct_type=text_of(form, "correct_type") or None,
    )  # fmt: skip
    await to_thread.run_sync(say)
    return redirect(f"/records/{source}/{found.record_id}#said")


@needs("operator")
async def mask(request: Request) -> Response:
    """A corrected label image that came with feedback on this record."""
    source, found, _ = await record_of(request)
    bank, wanted = services(request).banks.get(source), request.path_params["sha256"]

    def look() -> bytes | None:
        if bank is None or all(one.mask_sha256 != wanted for one in bank.feedback_of(found.record_id)):
            return None
        return bytes(cv2.imencode(".png", bank.mask(wanted))[1].tobytes())

    data = await to_thread.run_sync(look)
    if data is None:
        raise Refused(404, "refused.404")
    return attached(data, "image/png", f"{found.record_id}-corrected.png")


# ---------------------------------------------------------------- drawing


@needs("inspector")
async def correct(request: Request) -> Response:
    """Draw over the picture what it should have said, or send a label image; judged again, and both are kept."""
    own, session = services(request), session_of(request)
    source, found, folder = await record_of(request)
    size = await to_thread.run_sync(frame_size_px, folder)
    if size is None:
        raise Refused(404, "refused.no_picture")
    engine = str((found.document.get("engine") or {}).get("sha256"))
    known = await to_thread.run_sync(own.choices.types_of, engine)
    types = known or TYPE_IDS
    rules = await to_thread.run_sync(_rules, own.choices.recipes(), found.document)
    if known is None:
        rules = {}  # values of another engine's labels mean nothing to a recipe's
    error: EdgeError | None = None
    given = {"verdict": "wrong_type", "why": "", "judge": next(iter(rules), "")}
    if request.method == "POST":
        form = await form_of(request, most_bytes=_MASK_BYTES + (256 << 10))
        try:
            given = {"verdict": text_of(form, "verdict"), "why": text_of(form, "why", _LONGEST_WHY, lines=True),
                     "judge": text_of(form, "judge")}  # fmt: skip
            drawn = await to_thread.run_sync(_label_image, form.get("mask"), size, limiter=_DECODING)
            if given["verdict"] not in _DRAWN or (given["judge"] and given["judge"] not in rules):
                raise Refused(400, "refused.form")
            if not given["why"]:
                raise UsageError("the reason is missing", hint="every change is kept with who made it and why")
            correction = Correction(source, found, given["verdict"], given["why"], drawn, tuple(types))
            if given["judge"]:
                job = own.bench.correct(correction, rules[given["judge"]], session=session.key, user=session.user)
                return redirect(f"/jobs/{job.id}")
            await to_thread.run_sync(
                partial(
                    own.banks.writer(source).feedback,
                    found.record_id,
                    correction.verdict,
                    who=session.user,
                    why=correction.why,
                    mask=drawn,
                    mask_types=correction.types,
                )
            )
            return redirect(f"/records/{source}/{found.record_id}#said")
        except EdgeError as caught:
            error = caught
        finally:
            await form.close()
    return render(
        request, "correct.html", status=200 if error is None else 400, error=error, source=source, record=found,
        size=size, types=types, rules=list(rules), given=given, verdicts=_DRAWN,
        labels=known is not None and folder is not None and (folder / "labels.png").is_file(),
    )  # fmt: skip


def _rules(recipes: Mapping[str, object], document: Mapping[str, Any]) -> dict[str, Choice]:
    """By what a corrected part may be judged: as then where that is known, and every recipe."""
    rules: dict[str, Choice] = {}
    then = Choice.of(document.get("chosen"))
    if then is None and document.get("recipe") in recipes:
        then = Choice(recipe=str(document["recipe"]))
    if then is not None and (then.table is not None or then.recipe in recipes):
        rules["then"] = then
    return rules | {f"recipe:{name}": Choice(recipe=name) for name in recipes}


def _label_image(sent: object, size_px: tuple[int, int], /) -> NDArray[np.uint8]:
    """The label image that was sent, uint8 (H, W). Its size is compared before a pixel is decoded. Raises
    ImageError."""
    if not isinstance(sent, UploadFile) or not sent.size:
        raise ImageError("there is no label image", hint="draw one, or choose a file")
    data = sent.file.read(_MASK_BYTES + 1)
    if len(data) > _MASK_BYTES or not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        raise ImageError("the label image is no PNG of at most 16 MiB", hint="save it as a grey PNG of 8 bits")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if (width, height) != size_px:
        raise ImageError(
            f"the label image is {width} x {height} px, the picture {size_px[0]} x {size_px[1]} px",
            hint="correct the labels of this very picture",
        )
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.dtype != np.uint8:
        raise ImageError("the label image is damaged, or not of 8 bits", hint="save it as a grey PNG of 8 bits")
    if labels.ndim == 3:  # a browser's canvas writes three equal colours
        if labels.shape[2] == 4 and (labels[:, :, 3] != 255).any():
            raise ImageError("the label image is transparent", hint="save it as a grey PNG of 8 bits")
        if (labels[:, :, :3] != labels[:, :, :1]).any():
            raise ImageError("the label image has colours", hint="a pixel's value is the number of its type")
        labels = labels[:, :, 0]
    return np.ascontiguousarray(labels, np.uint8)


# ---------------------------------------------------------------- what is like it


@needs("operator")
async def similar(request: Request) -> Response:
    """Past indications most like one of this record's, nearest first, with pictures; among the line's, or one's own
    of the page."""
    own, session = services(request), session_of(request)
    source, found, _ = await record_of(request)
    query = request.query_params
    defects = found.document.get("defects") or []
    position = _position(query.get("position", ""))
    if position is None:
        position = max(range(len(defects)), key=lambda at: defects[at].get("area_mm2") or 0.0, default=0)
    if not position < len(defects):
        raise Refused(404, "refused.404")
    where = query["among"] if query.get("among") in BANKS else own.banks.main
    bank, mine = own.banks.get(where), own.banks.own_station(where, session)
    alike: Sequence[Similar] = ()
    if bank is not None:
        alike = await to_thread.run_sync(
            _alike, own.banks, bank, source == where, source, found, position, mine, limiter=_SEARCHING
        )
    there = {one.record.record_id for one in alike if own.banks.pictures_folder(one.record) is not None}
    page = "_similar.html" if request.headers.get("hx-request") else "similar.html"
    return render(
        request, page, source=source, record=found, position=position, defects=defects, where=where, alike=alike,
        there=there, missing=bank is None, both=own.banks.line is not None,
    )  # fmt: skip


def _alike(
    banks: Banks, bank: MemoryBank, same: bool, source: str, found: StoredRecord, position: int, mine: str | None
) -> list[Similar]:
    limit = _ALIKE
    while True:
        if same:
            near = bank.similar(found.record_id, position, limit=limit)
        else:
            near = bank.similar_to(
                found.document["defects"][position], found.document, limit=limit,
                contrast=_contrast(banks.get(source), found, position),
            )  # fmt: skip
        seen = [one for one in near if mine is None or one.record.station == mine]
        if len(seen) >= _ALIKE or len(near) < limit or limit >= _WIDEST:
            return seen[:_ALIKE]
        limit *= 4  # others' stand in between


def _contrast(bank: MemoryBank | None, found: StoredRecord, position: int) -> float | None:
    rows = () if bank is None else bank.indications(found.number)
    return next((one.contrast for one in rows if one.position == position), None)


def warm(banks: Banks) -> None:
    """Bring the array of feature vectors up to date in the background, so that nobody waits for it."""

    def look() -> None:
        try:
            bank = banks.line or banks.page
            first = next((one for one in bank.history(limit=50) if one.indications), None)
            if first is not None:
                bank.similar(first.record_id, 0, limit=1)
        except EdgeError as error:
            log("similar_not_warm", error.message, level=20, code=error.code)

    threading.Thread(target=look, name="warm", daemon=True).start()
