"""The sheet shows pictures that nobody chose, and says in words what was said."""

from __future__ import annotations

import numpy as np
import pytest

from edge_daemon.records import UNKNOWN_LABEL, UNKNOWN_TYPE, Reason, Region, Segmentation
from edge_daemon.train.labelled import Labelled
from edge_daemon.train.sheet import Sheet, said

TYPES = ("scratches", "patches")


def region(name: str, p_known: float = 0.5) -> Region:
    known = name != UNKNOWN_TYPE
    return Region(index=1, label=TYPES.index(name) + 1 if known else UNKNOWN_LABEL, type=name, known=known,
                  confidence=0.9, p_known=p_known, nearest_type=name if known else "patches", bbox_px=(1, 1, 2, 2),
                  runner_up="", alike=())  # fmt: skip


def answer(*regions: Region, refusals: tuple[Reason, ...] = ()) -> Segmentation:
    return Segmentation(np.zeros((20, 30), np.uint8), None, TYPES, regions, refusals)


def picture(name: str, kind: str, level: int = 90, dtype: type = np.uint8) -> Labelled:
    pixels = np.full((20, 30), level * (257 if dtype is np.uint16 else 1), dtype)
    return Labelled(name, kind, name, pixels, None, None, np.zeros((20, 30), np.uint8), None, TYPES, kind)


def test_what_was_said() -> None:
    assert said(answer()) == "nothing"
    assert said(answer(region("patches"), region("scratches"), region("patches"))) == "patches 2; scratches 1"
    unknown = (region(UNKNOWN_TYPE, 0.04), region(UNKNOWN_TYPE, 0.004))
    assert said(answer(*unknown)) == "not trained on 2 (nearest patches, p 0.004)"
    assert said(answer(refusals=(Reason("GATE_CONTRAST", "..."),))) == "refused: GATE_CONTRAST"


def drawn(pictures: list[Labelled]) -> np.ndarray:
    sheet = Sheet()
    for one in pictures:
        shown = np.dstack([np.asarray(one.pixels)] * 3)
        shown[5:8, 5:8] = (np.iinfo(shown.dtype).max, np.iinfo(shown.dtype).max, 0)
        sheet.look(one, answer(region("patches")), shown)
    page = sheet.draw()
    assert page is not None
    return np.asarray(page)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_order_of_the_pictures_does_not_matter_and_each_class_has_its_share(dtype: type) -> None:
    many = [picture(f"s{n}.png", "scratches", 100, dtype) for n in range(60)]
    few = [picture(f"p{n}.png", "patches", 200, dtype) for n in range(3)]
    page = drawn(many + few)
    assert (page == drawn(few + many[::-1])).all()
    levels = page[:, :, 0].reshape(-1)
    # 21 pictures of one class and 3 of the other, each 240 px wide and 160 px high, given and marked.
    area_px = 2 * 240 * 160
    yellow = (page == (255, 255, 0)).all(axis=2).sum()
    assert yellow == 24 * 24 * 24
    assert (levels == 100).sum() == pytest.approx(21 * area_px, rel=0.02)
    assert (levels == 200).sum() == pytest.approx(3 * area_px, rel=0.02)


def test_no_picture_no_sheet() -> None:
    assert Sheet().draw() is None
