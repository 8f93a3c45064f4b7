"""One record: the verdict, its pictures and numbers, and everything to take away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from ..errors import ImageError
from ..images import load_picture
from ..memory import StoredRecord
from ..records import TYPE_IDS, Outcome
from .reading import file_name
from .report import PAPER_NAMES, report_of
from .report.content import report_content
from .report.figures import encoded, shown_8bit
from .report.sources import StoredPictures, stored_pictures
from .web import Refused, attached, needs, render, services, session_of, words_of
from .words import LANGUAGES, Words

__all__ = ["download", "frame_size_px", "picture", "record_of", "record_page", "report", "stored"]

_DRAWING = CapacityLimiter(2)
#: What may be asked for by name, and the file behind it.
_PICTURES = {"original": "frame.png", "highlight": "highlight.png", "heat": "heat.jpg", "comparison": "comparison.png",
             "tiles": "tiles.png", "curve": "curve.png"}  # fmt: skip
_DOWNLOADS = {"highlight.png": "highlight.png", "labels.png": "labels.png", "frame.png": "frame.png"}
_THUMBNAIL_PX = 220


async def record_of(request: Request) -> tuple[str, StoredRecord, Path | None]:
    """(its bank, the record, the folder of its pictures or None). Raises Refused for one that this session may not
    see."""
    own, source = services(request), request.path_params["source"]
    found = await to_thread.run_sync(own.banks.record, source, request.path_params["record"], session_of(request))
    if found is None:
        raise Refused(404, "refused.404")
    return source, found, own.banks.pictures_folder(found)


@needs("operator")
async def record_page(request: Request) -> Response:
    """The verdict in large, and why."""
    source, found, folder = await record_of(request)
    words = words_of(request)
    there = [name for name, file in _PICTURES.items() if folder is not None and (folder / file).is_file()]
    looked = found.outcome is not Outcome.NOT_EVALUABLE or found.document["defects"]
    layers = [name for name in ("highlight", "original", "heat") if name in there and (looked or name == "original")]
    size = await to_thread.run_sync(frame_size_px, folder)
    content = report_content(found.document, {}, words)
    previous = found.document.get("again")
    bank = services(request).banks.get(source)
    said = [] if bank is None else await to_thread.run_sync(bank.feedback_of, found.record_id)
    return render(
        request, "record.html", **content, source=source, record=found, there=there, layers=layers, size=size,
        boxes=[one["bbox_px"] for one in found.document["defects"]],
        image_name=file_name(found.document.get("image")), previous=previous, languages=LANGUAGES, papers=PAPER_NAMES,
        said=said, type_ids=TYPE_IDS,
    )  # fmt: skip


def frame_size_px(folder: Path | None) -> tuple[int, int] | None:
    """(width, height) of the frame, from its header."""
    if folder is None:
        return None
    try:
        with (folder / "frame.png").open("rb") as file:
            head = file.read(24)
    except OSError:
        return None
    if len(head) < 24 or head[12:16] != b"IHDR":
        return None  # damaged
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@contextmanager
def stored() -> Iterator[None]:
    """Around reading a record's pictures: one that retention has just removed is not there, a damaged one is said to
    be; neither names a path. Raises Refused."""
    try:
        yield
    except FileNotFoundError:
        raise Refused(404, "refused.no_picture") from None
    except (OSError, ImageError):
        raise Refused(503, "refused.damaged") from None


def _read(path: Path) -> bytes:
    with stored():
        return path.read_bytes()


def _file(folder: Path | None, name: str) -> Path:
    if folder is None or not (folder / name).is_file():
        raise Refused(404, "refused.no_picture")
    return folder / name


@needs("operator")
async def picture(request: Request) -> Response:
    """A picture for the eye, by its name in a list: 16-bit ones between the same grey values, yellow or not."""
    _, found, folder = await record_of(request)
    name = request.path_params["name"]
    if name == "thumbnail":
        data = await to_thread.run_sync(_thumbnail, folder, limiter=_DRAWING)
        return _image(data, "image/jpeg")
    if name.startswith("indication-"):
        box = _box(found, name.removeprefix("indication-"))
        data = await to_thread.run_sync(_cut_out, folder, box, limiter=_DRAWING)
        return _image(data, "image/jpeg")
    if name not in _PICTURES:
        raise Refused(404, "refused.404")
    path = _file(folder, _PICTURES[name])
    if name in ("original", "highlight"):
        return _image(await to_thread.run_sync(_for_the_eye, path, limiter=_DRAWING), "image/png")
    data = await to_thread.run_sync(_read, path)
    return _image(data, "image/jpeg" if path.suffix == ".jpg" else "image/png")


def _image(data: bytes, media_type: str) -> Response:
    # A record's pictures never change, but they are one user's: only that user's browser may keep them.
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=600"})


def _for_the_eye(path: Path) -> bytes:
    """The file as it is where it has 8 bits; else 8 bits of it, stretched as its frame is: yellow stays yellow."""
    data = _read(path)
    if data[24:25] != b"\x10":  # bit depth in IHDR
        return data
    with stored():
        frame = load_picture(path.with_name("frame.png")).pixels
    shown, _ = shown_8bit(frame)
    if path.name != "frame.png":
        with stored():
            marked = load_picture(path).pixels
        rgb = shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, axis=2)
        own = frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)
        shown = rgb.copy()
        shown[(marked != own).any(axis=2)] = (255, 255, 0)
    return encoded(shown, "PNG")


def _marked(folder: Path | None) -> NDArray[Any]:
    """The picture with its defects in yellow, without where that was not kept."""
    highlighted = folder is not None and (folder / "highlight.png").is_file()
    with stored():
        return load_picture(_file(folder, "highlight.png" if highlighted else "frame.png")).pixels


def _thumbnail(folder: Path | None) -> bytes:
    return _small(_marked(folder))


def _box(found: StoredRecord, number: str) -> tuple[int, int, int, int]:
    defects = found.document.get("defects") or []
    if not (number.isascii() and number.isdigit() and len(number) < 7 and int(number) < len(defects)):
        raise Refused(404, "refused.404")
    x, y, width, height = (int(one) for one in defects[int(number)]["bbox_px"])
    return x, y, width, height


def _cut_out(folder: Path | None, box: tuple[int, int, int, int]) -> bytes:
    """A square around an indication, three times as wide as that, of at least 48 px where the picture has them."""
    pixels = _marked(folder)
    x, y, width, height = box
    side = min(max(48, 3 * max(width, height)), *pixels.shape[:2])
    left = min(max(0, x + width // 2 - side // 2), pixels.shape[1] - side)
    top = min(max(0, y + height // 2 - side // 2), pixels.shape[0] - side)
    return _small(pixels[top : top + side, left : left + side])


def _small(pixels: NDArray[Any]) -> bytes:
    import cv2

    shown, _ = shown_8bit(pixels)
    zoom = _THUMBNAIL_PX / max(shown.shape[:2])
    size = max(1, round(shown.shape[1] * zoom)), max(1, round(shown.shape[0] * zoom))
    way = cv2.INTER_AREA if zoom < 1.0 else cv2.INTER_NEAREST
    return encoded(np.asarray(cv2.resize(shown, size, interpolation=way)).astype(np.uint8), "JPEG")


# ---------------------------------------------------------------- to take away


@needs("operator")
async def download(request: Request) -> Response:
    """record.json, labels.png, highlight.png or frame.png, as stored to the last bit."""
    _, found, folder = await record_of(request)
    name = request.path_params["file"]
    if name == "record.json":
        text = json.dumps(found.document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        return attached(text.encode(), "application/json", f"{found.record_id}.json")
    if name not in _DOWNLOADS:
        raise Refused(404, "refused.404")
    data = await to_thread.run_sync(_read, _file(folder, _DOWNLOADS[name]))
    return attached(data, "image/png", f"{found.record_id}-{name}")


@needs("operator")
async def report(request: Request) -> Response:
    """The report as PDF (``?paper=``) or HTML, in the page's language or ``?language=``."""
    _, found, folder = await record_of(request)
    kind = request.path_params["kind"]
    paper = request.query_params.get("paper", "a4")
    asked = request.query_params.get("language", "")
    words = Words(asked) if asked in LANGUAGES else words_of(request)
    if paper not in PAPER_NAMES or kind not in ("pdf", "html"):
        raise Refused(404, "refused.404")

    def make() -> bytes:
        with stored():
            kept: StoredPictures = stored_pictures(folder, {**found.document, "image": None})
        made = report_of(found.document, pixels=kept.pixels, labels=kept.labels, drawn=kept.drawn, words=words)
        return made.html().encode() if kind == "html" else made.pdf(paper)

    data = await to_thread.run_sync(make, limiter=_DRAWING)
    return attached(data, "text/html" if kind == "html" else "application/pdf", f"report-{found.record_id}.{kind}")
