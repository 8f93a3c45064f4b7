"""Drop a picture, choose by what it is judged, wait, look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from ..errors import EdgeError, ImageError, UsageError
from ..images import load_picture
from ..standards import METALS, Standard
from ..units import length_mm
from .choices import Choice, TableChoice
from .jobs import STAGES, Job
from .uploads import Upload, read_upload
from .views_record import stored
from .web import Refused, form_of, needs, redirect, render, services, session_of, text_of, words_of

__all__ = ["home", "job_page", "job_state", "submit", "table_fields"]

#: Decoding takes memory: two pictures at a time, however many are sent.
_DECODING = CapacityLimiter(2)
_FORM_BYTES = 256 << 10
_FIELDS = ("rule", "engine", "standard", "metal", "thickness", "grade", "process", "form", "energy", "mm_per_px", "u")
_FORMS = ("film", "digital")


@needs("inspector")
async def home(request: Request) -> Response:
    """The form. ``?again=line/<id>`` offers a stored frame in place of a file."""
    source, _, record_id = request.query_params.get("again", "").partition("/")
    return await _form_page(request, {"again": f"{source}/{record_id}"} if record_id else {})


async def _form_page(request: Request, given: Mapping[str, str], error: EdgeError | None = None) -> Response:
    own = services(request)
    engines, recipes, standards = await to_thread.run_sync(
        lambda: (own.choices.engines(), own.choices.recipes(), own.choices.standards())
    )
    again = None
    if given.get("again"):
        source, _, record_id = given["again"].partition("/")
        again = await to_thread.run_sync(own.banks.record, source, record_id, session_of(request))
        if again is None or own.banks.pictures_folder(again) is None:
            raise Refused(404, "refused.404")
    values = {name: given.get(name, "") for name in _FIELDS} | {"again": given.get("again", "")}
    values["rule"] = values["rule"] or (f"recipe:{next(iter(recipes))}" if recipes else "table")
    if values["standard"] not in standards:
        values["standard"] = next(iter(standards), "")
    return render(
        request, "inspect.html", status=200 if error is None else 400, error=error, values=values,
        engines=list(engines), recipes=list(recipes), standards=list(standards.values()), again=again,
        fields=_table_lists(standards.get(values["standard"]), values["metal"]), limits=own.options.limits,
    )  # fmt: skip


def _table_lists(standard: Standard | None, metal: str) -> dict[str, list[str]]:
    """What the rows of a standard tell apart: the words that can be chosen."""
    rows = standard.rows if standard is not None else ()
    metals = [one for one in METALS if any(row.metal == one for row in rows)]
    chosen = [row for row in rows if not metal or row.metal == metal]

    def words(name: str) -> list[str]:
        return sorted({getattr(row, name) for row in chosen if getattr(row, name)})

    sets = [] if standard is None else standard.sets
    energies = sorted({one.energy for one in sets if one.energy and (not metal or metal in one.metals)})
    return {"metals": metals, "grades": words("grade"), "processes": words("process"), "forms": list(_FORMS),
            "energies": energies}  # fmt: skip


@needs("inspector")
async def table_fields(request: Request) -> Response:
    """The fields of a table again, after another standard or metal was chosen."""
    standards = await to_thread.run_sync(services(request).choices.standards)
    query = request.query_params
    values = {name: query.get(name, "")[:200] for name in _FIELDS}
    lists = _table_lists(standards.get(values["standard"]), values["metal"])
    if values["metal"] not in lists["metals"]:
        values["metal"] = ""
        lists = _table_lists(standards.get(values["standard"]), "")
    return render(request, "_table.html", values=values, standards=list(standards.values()), fields=lists)


@needs("inspector")
async def submit(request: Request) -> Response:
    """Take a picture and put it in the queue; a wrong one, or a wrong choice, comes back with one sentence."""
    own, session = services(request), session_of(request)
    if not own.uploads.allows(f"user {session.user}"):
        raise Refused(429, "refused.rate")
    limits = own.options.limits
    form = await form_of(request, most_bytes=limits.upload_bytes + _FORM_BYTES)
    given = {name: text_of(form, name) for name in (*_FIELDS, "again")}
    try:
        choice = choice_of(given)
        await to_thread.run_sync(own.choices.check, choice)
        sent = form.get("picture")
        if given["again"]:
            upload = await _stored_frame(request, given["again"])
        elif isinstance(sent, UploadFile) and (sent.filename or sent.size):
            # Read where it is decoded: what waits lies on the disk, not in memory.
            name, file = sent.filename, sent.file
            upload = await to_thread.run_sync(lambda: read_upload(file.read(), name, limits), limiter=_DECODING)
        else:
            raise ImageError(words_of(request)("inspect.no_picture"))
        job = own.bench.submit(upload, choice, session=session.key, user=session.user, again=given["again"])
    except EdgeError as error:
        return await _form_page(request, given, error)
    finally:
        await form.close()
    return redirect(f"/jobs/{job.id}")


async def _stored_frame(request: Request, again: str) -> Upload:
    """The frame of a record that this session may see, bit for bit."""
    own = services(request)
    source, _, record_id = again.partition("/")
    found = await to_thread.run_sync(own.banks.record, source, record_id, session_of(request))
    folder = None if found is None else own.banks.pictures_folder(found)
    if found is None or folder is None or not (folder / "frame.png").is_file():
        raise ImageError("the picture of this record was not kept", hint="send the file")
    with stored():
        picture = await to_thread.run_sync(load_picture, folder / "frame.png", limiter=_DECODING)
    return Upload(picture, str(found.document.get("image") or "frame.png"), "PNG", False)


def choice_of(given: Mapping[str, str]) -> Choice:
    """What the fields of the form say. Raises UsageError for a number that is none."""
    scale = _number(given["mm_per_px"], "mm per pixel")
    u = _number(given["u"], "the uncertainty of the scale", zero=True)
    if u is not None and scale is None:
        raise UsageError("an uncertainty of the scale without the scale", hint="give both")
    rule, _, recipe = given["rule"].partition(":")
    if rule == "recipe":
        return Choice(given["engine"], recipe, None, scale, u)
    if rule == "none":
        return Choice(given["engine"], "", None, scale, u)
    if rule != "table":
        raise UsageError("choose a recipe, a standard's table, or measuring only")
    for name, value in (("the standard", given["standard"]), ("the metal", given["metal"]),
                        ("the thickness", given["thickness"])):  # fmt: skip
        if not value:
            raise UsageError(f"{name} is missing", hint="a table is asked with standard, metal and thickness")
    if scale is None:
        raise UsageError("the scale is missing", hint="there is no default scale: no scale, no verdict")
    if given["form"] not in ("", *_FORMS):
        raise UsageError(f"{given['form']!r} is no form of reference images")
    return Choice(given["engine"], "", TableChoice(
        given["standard"], given["metal"], length_mm(given["thickness"]), given["grade"] or None,
        given["process"] or None, given["form"] or None, given["energy"] or None,
    ), scale, u)  # fmt: skip


def _number(text: str, what: str, *, zero: bool = False) -> float | None:
    if not text:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = length_mm(text)
    if not (0.0 < value < 1000.0 or (zero and value == 0.0)):
        raise UsageError(f"{what} is {text!r}", hint="a number of millimetres, like 0.1")
    return value


# ---------------------------------------------------------------- progress


def _job(request: Request) -> Job:
    """The job of this session; another's does not exist."""
    job = services(request).bench.get(request.path_params["job"], session_of(request).key)
    if job is None:
        raise Refused(404, "refused.404")
    return job


def _progress(request: Request, job: Job) -> dict[str, Any]:
    stage = job.stage
    done = STAGES.index(stage) if stage in STAGES else 0
    return {"job": job, "stage": stage, "share": round(100 * done / (len(STAGES) - 1)),
            "ahead": services(request).bench.ahead_of(job)}  # fmt: skip


@needs("operator")
async def job_page(request: Request) -> Response:
    """How far a picture is; when it is done, its record."""
    job = _job(request)
    if job.stage == "done":
        return redirect(f"/records/{job.source}/{job.record_id}")
    return render(request, "job.html", **_progress(request, job))


@needs("operator")
async def job_state(request: Request) -> Response:
    """The part of the page that asks again and again."""
    job = _job(request)
    if job.stage == "done":
        return Response(status_code=204, headers={"HX-Redirect": f"/records/{job.source}/{job.record_id}"})
    return render(request, "_job.html", **_progress(request, job))
