"""Labelled folders: every form read back from files written here, and refused when it is not what it seems."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon import train
from edge_daemon.errors import EdgeError, ImageError, UsageError
from edge_daemon.simulator import CASTING_TYPES, simulate
from edge_daemon.train.annotations import Box, type_of
from edge_daemon.train.labelled import IGNORED, UNTYPED, Labelled, LabelledFolder, open_folder
from edge_daemon.train.pictures import visible_labels

WIDTH, HEIGHT = 40, 30


def picture(path: Path, seed: int = 0, *, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def mask(path: Path, values: dict[tuple[int, int], int], *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width), np.uint8)
    for at, value in values.items():
        pixels[at] = value
    assert cv2.imwrite(str(path), pixels)
    return pixels


def text(path: Path, content: str | dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def by_name(folder: LabelledFolder) -> dict[str, Labelled]:
    found = {one.name: one for one in folder}
    assert len(found) == len(folder)
    return found


def refused(folder: Path, match: str, **options: object) -> EdgeError:
    with pytest.raises((UsageError, ImageError), match=match) as caught:
        list(open_folder(folder, **options))  # type: ignore[arg-type]
    assert caught.value.hint
    assert isinstance(caught.value, ImageError) or caught.value.code == "LABELS"
    return caught.value


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["-labels", "_mask", "-mask"])
def test_masks_beside_the_pictures(tmp_path: Path, ending: str) -> None:
    picture(tmp_path / "wheel_03.png", 3)
    picture(tmp_path / "wheel_04.png", 4)
    mask(tmp_path / f"wheel_03{ending}.png", {(5, 6): 1, (7, 8): 255})
    folder = open_folder(tmp_path, mm_per_px=0.1)
    assert folder.form == "masks"
    assert folder.notes == ("1 pictures without a mask: left out",)
    (one,) = folder
    assert (one.name, one.series, one.part, one.mm_per_px, one.boxes) == ("wheel_03.png", "wheel", one.name, 0.1, None)
    assert np.array_equal(one.pixels, np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH), np.uint8))
    assert one.labels is not None
    assert np.argwhere(one.labels == UNTYPED).tolist() == [[5, 6], [7, 8]]
    assert np.count_nonzero(one.labels) == 2

    both = by_name(open_folder(tmp_path, missing="sound"))
    assert set(both) == {"wheel_03.png", "wheel_04.png"}
    sound = both["wheel_04.png"].labels
    assert sound is not None
    assert not sound.any()


def test_masks_in_a_parallel_folder_with_types(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a" / "p1.jpg")
    picture(tmp_path / "images" / "b" / "p1.png")
    values = {(0, 0): 1, (1, 1): 2, (2, 2): IGNORED, (3, 3): 255}
    mask(tmp_path / "masks" / "a" / "p1.png", values)
    mask(tmp_path / "masks" / "b" / "p1_mask.png", {})
    text(tmp_path / "labels.json", {"types": ["crack", "gas_hole"]})
    found = by_name(open_folder(tmp_path))
    assert {one.series for one in found.values()} == {"a", "b"}
    one = found["images/a/p1.jpg"]
    assert one.types == ("crack", "gas_hole")
    assert one.labels is not None
    assert [int(one.labels[at]) for at in values] == [1, 2, IGNORED, UNTYPED]


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "size" / "p1.png")
    mask(tmp_path / "size" / "p1_mask.png", {}, width=WIDTH - 1)
    assert "39 x 30 px, its picture 40 x 30 px" in refused(tmp_path / "size", "p1_mask").message

    picture(tmp_path / "orphan" / "p1.png")
    mask(tmp_path / "orphan" / "p1_mask.png", {})
    mask(tmp_path / "orphan" / "p2_mask.png", {})
    refused(tmp_path / "orphan", r"p2_mask\.png: a mask without its picture")

    picture(tmp_path / "value" / "p1.png")
    mask(tmp_path / "value" / "p1_mask.png", {(0, 0): 3})
    text(tmp_path / "value" / "labels.json", {"types": ["crack"]})
    refused(tmp_path / "value", "value 3")
    text(tmp_path / "value" / "labels.json", {"types": ["craack"]})
    refused(tmp_path / "value", "unknown type 'craack'")
    text(tmp_path / "value" / "labels.json", '{"types": ["crack"], "types": ["gas_hole"]}')
    refused(tmp_path / "value", "not JSON")

    picture(tmp_path / "twice" / "p1.png")
    picture(tmp_path / "twice" / "p1.jpg")
    mask(tmp_path / "twice" / "p1_mask.png", {})
    refused(tmp_path / "twice", r"belongs to p1\.jpg and p1\.png")

    picture(tmp_path / "broken" / "p1.png")
    mask(tmp_path / "broken" / "p1_mask.png", {})
    (tmp_path / "broken" / "p1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(tmp_path / "broken", r"p1\.png")


# ---- simulated ------------------------------------------------------------------------------------------------------


def test_what_the_simulator_writes_is_read_back(tmp_path: Path) -> None:
    train.simulate_to_folder(tmp_path, 2, seed=7, size_px=(160, 192))
    folder = open_folder(tmp_path)
    assert (folder.form, folder.notes) == ("simulated", ())
    found = by_name(folder)
    assert list(found) == ["000007.png", "000008.png"]
    for one in found.values():
        assert one.mm_per_px is not None
        truth = simulate(int(one.name[:6]), size_px=(160, 192), mm_per_px=one.mm_per_px)
        assert np.array_equal(one.pixels, truth.pixels)
        assert np.array_equal(one.labels, visible_labels(truth))
        assert one.types == CASTING_TYPES
        assert (one.polarity, one.series, one.part) == ("bright_void", tmp_path.name, one.name)


def test_invisible_defects_of_a_simulated_picture_are_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "000001.png")
    mask(tmp_path / "000001-labels.png", {(1, 1): 5, (9, 9): 10})
    text(tmp_path / "000001.json", {"mm_per_px": 0.2, "polarity": "bright_void", "defects": []})
    assert open_folder(tmp_path).notes == (
        "1 pictures without -ignored.png: every discontinuity in them counts as visible",
    )
    mask(tmp_path / "000001-ignored.png", {(9, 9): 1, (9, 10): 255})
    folder = open_folder(tmp_path)
    assert folder.notes == ()
    (one,) = folder
    assert one.labels is not None
    assert one.types[one.labels[1, 1] - 1] == CASTING_TYPES[4]
    assert np.argwhere(one.labels == IGNORED).tolist() == [[9, 9], [9, 10]]


def test_a_simulated_folder_that_lost_a_file_is_refused(tmp_path: Path) -> None:
    train.simulate_to_folder(tmp_path, 2)
    (tmp_path / "000001.json").unlink()
    refused(tmp_path, r"000001\.json: is missing")
    for bad in ({"type": "nonsense", "label": 1}, {"type": "crack", "label": 0}, "crack"):
        text(tmp_path / "000001.json", {"mm_per_px": 0.1, "defects": [bad]})
        refused(tmp_path, "a defect of type")
    text(tmp_path / "000001.json", {"mm_per_px": -1, "defects": []})
    refused(tmp_path, "mm_per_px is -1")
    (tmp_path / "000001.png").unlink()
    refused(tmp_path, r"000001-ignored\.png: a mask without its picture")


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_gdxray_series(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        picture(tmp_path / "C0001" / f"C0001_{number:04d}.png", number)
    picture(tmp_path / "C0001" / "overview.png")
    picture(tmp_path / "C0002" / "C0002_0001.png")
    picture(tmp_path / "C0003" / "C0003_0001.png")
    text(tmp_path / "C0001" / "ground_truth.txt", " 1 3.0 12.5 5 9\n1,20,21,1,30\n\n4\t1e0 2 1 2\n9 1 2 1 2\n")
    text(tmp_path / "C0002" / "ground_truth.txt", "")
    folder = open_folder(tmp_path)
    assert folder.form == "gdxray"
    assert folder.notes == (
        "1 pictures without a ground_truth.txt in their folder: left out",
        "1 pictures that ground_truth.txt names are not here",
        "1 pictures without a number in their name: left out",
    )
    found = by_name(folder)
    # Pixels 3 to 12.5, counted from 1 and both ends within, cover [2, 12.5).
    assert found["C0001/C0001_0001.png"].boxes == (Box(2.0, 4.0, 10.5, 5.0), Box(19.0, 0.0, 2.0, 30.0))
    assert found["C0001/C0001_0002.png"].boxes == ()
    assert found["C0001/C0001_0004.png"].boxes == (Box(0.0, 0.0, 2.0, 2.0),)
    assert found["C0002/C0002_0001.png"].boxes == ()
    assert {(one.series, one.part) for one in found.values()} == {("C0001", "C0001"), ("C0002", "C0002")}
    (one,) = open_folder(tmp_path / "C0002")
    assert one.series == "C0002"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("1 2 3 4\n", "line 1: 4 figures instead of 5"),
        ("1 2 3 4 5\n1 2 x 4 5\n", "line 2.*not numbers"),
        ("1 2 nan 4 5\n", "not all finite"),
        ("1.5 2 3 4 5\n", r"picture number 1\.5"),
        ("1 9 3 4 5\n", "width and height"),
        ("7 2 3 4 5\n", "names no picture that is here"),
        ("1 35 60 1 30\n", "lies outside its 40 x 30 px"),
        ("1 41 50 1 30\n", "lies outside"),
    ],
)
def test_gdxray_that_does_not_hold_is_refused(tmp_path: Path, content: str, match: str) -> None:
    picture(tmp_path / "C0001_0001.png")
    text(tmp_path / "ground_truth.txt", content)
    refused(tmp_path, match)


def test_boxes_that_reach_over_the_border_are_cut(tmp_path: Path) -> None:
    picture(tmp_path / "C0001_0001.png")
    text(tmp_path / "ground_truth.txt", "1 31 45 -1 10\n")
    (one,) = open_folder(tmp_path)
    assert one.boxes == (Box(30.0, 0.0, 10.0, 10.0),)


def test_two_pictures_of_one_number_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "C0001_0001.png")
    picture(tmp_path / "C0001_0001.jpg")
    text(tmp_path / "ground_truth.txt", "1 2 3 4 5\n")
    refused(tmp_path, "has number 1, as has")


@pytest.mark.parametrize("parallel", [False, True])
def test_yolo(tmp_path: Path, parallel: bool) -> None:
    images = tmp_path / "images" if parallel else tmp_path
    labels = tmp_path / "labels" if parallel else tmp_path
    for name in ("p1", "p2", "p3"):
        picture(images / f"{name}.png")
    text(labels / "p1.txt", "0 0.5 0.5 0.25 0.2\n1 0.1 0.1 0.1 0.1\n")
    text(labels / "p2.txt", "")
    text(tmp_path / "classes.txt", "Gas Hole\nweld spatter\n")
    folder = open_folder(tmp_path)
    assert folder.form == "yolo"
    assert folder.notes == (
        "1 pictures without an annotation file: left out",
        "classes that are no known type, their boxes untyped: weld spatter",
    )
    found = {Path(name).stem: one for name, one in by_name(folder).items()}
    assert set(found) == {"p1", "p2"}
    first, second = found["p1"].boxes or ()
    assert (first.x_px, first.y_px, first.width_px, first.height_px, first.type) == pytest.approx(
        (15, 12, 10, 6, "gas_hole")
    )
    assert (second.x_px, second.y_px, second.width_px, second.height_px) == pytest.approx((2, 1.5, 4, 3))
    assert second.type is None
    assert found["p2"].boxes == ()
    assert len(open_folder(tmp_path, missing="sound")) == 3
    (tmp_path / "classes.txt").unlink()
    assert [box.type for one in open_folder(tmp_path) for box in one.boxes or ()] == [None, None]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2"),
        ("0.5 0.5 0.5 0.1 0.1", r"class 0\.5"),
        ("0 0.5 0.5 1.1 0.1", "outside 0 to 1"),
        ("0 0.5 0.5 0 0.1", "width and height"),
        ("0 0.5 0.5 0.1", "4 figures"),
        ("0 1 1 1 1", "lies outside"),
        ("0 a b c d", "not numbers"),
    ],
)
def test_yolo_that_does_not_hold_is_refused(tmp_path: Path, content: str, match: str) -> None:
    picture(tmp_path / "p1.png")
    text(tmp_path / "p1.txt", content)
    text(tmp_path / "classes.txt", "crack\ngas_hole\n")
    refused(tmp_path, match)


VOC = """<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>p1.png</filename><size><width>40</width><height>30</height><depth>1</depth></size>
<object><name>crack</name><difficult>0</difficult>
<bndbox><xmin>4</xmin><ymin>5.5</ymin><xmax>14</xmax><ymax>9.5</ymax></bndbox></object>
<object><name>blob</name><difficult>1</difficult>
<bndbox><xmin>20</xmin><ymin>20</ymin><xmax>22</xmax><ymax>23</ymax></bndbox></object></annotation>"""


@pytest.mark.parametrize("place", ["p1.xml", "annotations/p1.xml", "Annotations/p1.xml"])
def test_voc(tmp_path: Path, place: str) -> None:
    picture(tmp_path / "p1.png" if place == "p1.xml" else tmp_path / "JPEGImages" / "p1.png")
    text(tmp_path / place, VOC)
    folder = open_folder(tmp_path)
    assert folder.form == "voc"
    assert folder.notes == ("1 boxes of a class that is no known type: untyped",)
    (one,) = folder
    assert one.boxes == (Box(4.0, 5.5, 10.0, 4.0, "crack"), Box(20.0, 20.0, 2.0, 3.0, None, True))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (VOC.replace("<width>40", "<width>41"), "annotation says 41 x 30 px"),
        (VOC.replace("<xmax>14", "<xmax>4"), "width and height"),
        (VOC.replace("<xmin>4</xmin>", ""), "not numbers"),
        (VOC.replace("</annotation>", ""), "is not XML"),
        (VOC.replace("annotation>", "notes>"), "begins with <notes>"),
        ('<!DOCTYPE a [<!ENTITY b "boom">]><annotation>&b;</annotation>', "document type"),
        ("<annotation><object><name>crack</name></object></annotation>", "without <bndbox>"),
    ],
)
def test_voc_that_does_not_hold_is_refused(tmp_path: Path, content: str, match: str) -> None:
    picture(tmp_path / "p1.png")
    text(tmp_path / "p1.xml", content)
    refused(tmp_path, match)


def test_xml_in_another_encoding_cannot_smuggle_entities(tmp_path: Path) -> None:
    picture(tmp_path / "p1.png")
    (tmp_path / "p1.xml").write_bytes('<!DOCTYPE a [<!ENTITY b "boom">]><annotation/>'.encode("utf-16"))
    refused(tmp_path, "not UTF-8")


def coco() -> dict:
    return {
        "images": [
            {"id": 1, "file_name": "p1.png", "width": 40, "height": 30},
            {"id": 2, "file_name": "sub/p2.png"},
        ],
        "categories": [{"id": 7, "name": "crack"}, {"id": 8, "name": "dross"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 4]},
            {"id": 2, "image_id": 1, "category_id": 8, "bbox": [10, 10, 5, 5], "iscrowd": 1},
        ],
    }


@pytest.mark.parametrize("name", ["annotations.json", "train_coco.json", "_annotations.coco.json"])
def test_coco(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "images" / "p1.png")
    picture(tmp_path / "images" / "sub" / "p2.png")
    picture(tmp_path / "images" / "p3.png")
    text(tmp_path / name, coco())
    folder = open_folder(tmp_path)
    assert folder.form == "coco"
    assert folder.notes == (
        "1 pictures without an entry in the COCO file: left out",
        "1 boxes of a class that is no known type: untyped",
    )
    found = by_name(folder)
    assert found["images/p1.png"].boxes == (Box(1.0, 2.0, 3.5, 4.0, "crack"), Box(10.0, 10.0, 5.0, 5.0, None, True))
    assert found["images/sub/p2.png"].boxes == ()
    assert len(open_folder(tmp_path, missing="sound")) == 3


def _broken(change: str) -> dict:
    document = coco()
    first = document["annotations"][0]
    if change == "image_id":
        first["image_id"] = 9
    elif change == "category_id":
        first["category_id"] = 9
    elif change == "bbox":
        first["bbox"] = [1, 2, 3]
    elif change == "flat":
        first["bbox"] = [1, 2, 0, 4]
    elif change == "twice":
        document["images"][1]["file_name"] = "p1.png"
    elif change == "absent":
        document["images"][1]["file_name"] = "p9.png"
    elif change == "images":
        del document["images"]
    elif change == "size":
        document["images"][0]["width"] = 99
    elif change == "outside":
        first["bbox"] = [38, 2, 20, 4]
    return document


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("image_id", "image_id 9"), ("category_id", "category_id 9"), ("bbox", "not a COCO file"),
        ("flat", "width and height"), ("twice", "listed twice"), ("absent", r"p9\.png', which is not here"),
        ("images", "not a COCO file"), ("size", "annotation says 99 x 30"), ("outside", "lies outside"),
    ],
)  # fmt: skip
def test_coco_that_does_not_hold_is_refused(tmp_path: Path, change: str, match: str) -> None:
    picture(tmp_path / "p1.png")
    picture(tmp_path / "sub" / "p2.png")
    text(tmp_path / "annotations.json", _broken(change))
    refused(tmp_path, match)


# ---- the folder as a whole ------------------------------------------------------------------------------------------


def test_a_folder_that_fits_two_forms_or_none_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "is not a folder")
    picture(tmp_path / "C1_0001.png")
    refused(tmp_path, "no truth was found")
    text(tmp_path / "C1_0001.txt", "0 0.5 0.5 0.1 0.1")
    text(tmp_path / "ground_truth.txt", "1 2 3 4 5")
    message = refused(tmp_path, "fits several forms").message
    assert "gdxray (ground_truth.txt)" in message
    assert "yolo (C1_0001.txt)" in message
    assert open_folder(tmp_path, form="yolo").form == "yolo"
    assert open_folder(tmp_path, form="gdxray").form == "gdxray"
    refused(tmp_path, "nothing here is of the form voc", form="voc")
    refused(tmp_path, "unknown form", form="csv")
    refused(tmp_path, "scale of nan", form="yolo", mm_per_px=float("nan"))
    refused(tmp_path, "scale of 0", form="yolo", mm_per_px=0.0)


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    picture(tmp_path / ".cache" / "p1.png")
    mask(tmp_path / ".cache" / "p1_mask.png", {})
    picture(tmp_path / "p1.png")
    refused(tmp_path, "no truth was found")


def test_parts_are_those_of_parts_csv(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        picture(tmp_path / f"{name}.png")
        mask(tmp_path / f"{name}_mask.png", {})
    text(tmp_path / "parts.csv", "picture,part\np1,A\np2.png, A \n")
    assert [one.part for one in open_folder(tmp_path)] == ["A", "A"]
    text(tmp_path / "parts.csv", "picture,part\np1,A\n")
    refused(tmp_path, r"says nothing about p2\.png")
    text(tmp_path / "parts.csv", "picture,part\np1,A\np1,B\n")
    refused(tmp_path, "line 3")


def test_pictures_are_read_lazily_and_again(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        picture(tmp_path / f"{name}.png")
        mask(tmp_path / f"{name}_mask.png", {})
    folder = open_folder(tmp_path)
    (tmp_path / "p2.png").unlink()
    first = next(iter(folder))
    assert first.name == "p1.png"
    with pytest.raises(ImageError, match=r"p2\.png"):
        list(folder)


@pytest.mark.parametrize(
    ("name", "type_id"),
    [
        ("crack", "crack"),
        ("Gas-Hole", "gas_hole"),
        (" rolled-in scale ", "rolled_in_scale"),
        ("pore", None),
        ("", None),
    ],
)
def test_class_names_become_types_or_nothing(name: str, type_id: str | None) -> None:
    assert type_of(name) == type_id


# ---- table ----------------------------------------------------------------------------------------------------------


def table(folder: Path, images: str, boxes: str | None = None) -> Path:
    text(folder / "images.csv", images)
    if boxes is not None:
        text(folder / "boxes.csv", "image,class,xmin,ymin,xmax,ymax\n" + boxes)
    return folder


def test_table_reads_masks_boxes_groups_and_splits(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / "images" / f"s{number}.png", number)
    mask(tmp_path / "masks" / "s0.png", {(3, 4): 255, (5, 6): 90})
    mask(tmp_path / "masks" / "s4.png", {(7, 8): 255})
    table(
        tmp_path,
        "image,class,group,split\ns0,scratches,7,train\ns1,rolled-in_scale,7,train\ns2,free,,test\ns3,patches,2,test\n"
        "s4,weld spatter,,test\n",
        "s0,scratches,2,2,9,8\ns1,rolled-in_scale,0,0,20,10\ns1,patches,20,10,40,30\n",
    )
    folder = open_folder(tmp_path)
    assert folder.form == "table"
    assert any("1 pictures without a mask or a box: left out" in note for note in folder.notes)
    assert any("weld spatter" in note for note in folder.notes)
    found = by_name(folder)
    assert set(found) == {f"images/s{n}.png" for n in (0, 1, 2, 4)}
    scratch, scale, free, spatter = (found[f"images/s{n}.png"] for n in (0, 1, 2, 4))
    assert scratch.labels is not None and scratch.types == ("scratches",)
    assert np.argwhere(scratch.labels).tolist() == [[3, 4]]  # a mask is black and white: 90 is a codec's grey
    assert scratch.boxes == (Box(2, 2, 7, 6, "scratches"),)
    assert scale.labels is None and scale.kind == "rolled-in_scale"
    assert [box.type for box in scale.boxes or ()] == ["rolled_in_scale", "patches"]
    assert scratch.part == scale.part == "group 7"
    assert free.labels is not None and not free.labels.any() and free.boxes is None
    assert spatter.labels is not None and spatter.labels[7, 8] == UNTYPED
    assert [one.name for one in open_folder(tmp_path, split="train")] == ["images/s0.png", "images/s1.png"]


def test_pictures_may_lie_behind_a_link(tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    picture(elsewhere / "a.png", 1)
    mask(site / "masks" / "a.png", {(3, 4): 255})
    (site / "images").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)  # a circle must not be walked for ever
    text(site / "images.csv", "image,class,group,split\na,scratches,1,train\n")
    assert [one.name for one in open_folder(site)] == ["images/a.png"]


@pytest.mark.parametrize(
    ("images", "boxes", "match"),
    [
        ("image,kind\ns0,crack\n", None, "no column 'class'"),
        ("image,class\ns0,crack\ns0,crack\n", None, "line 3: s0 a second time"),
        ("image,class\nother,crack\n", None, "line 2: other is not here"),
        ("image,class\ns0,crack,9\n", None, "line 2: 's0,crack,9'"),
        ("image,class\ns0,crack\n", "s0,crack,1,2,x,4\n", "boxes.csv line 2: an edge that is no number"),
        ("image,class\ns0,crack\n", "s0,crack,5,2,4,4\n", "boxes.csv line 2: a box from 5, 2 to 4, 4"),
        ("image,class\ns0,crack\n", "s0,crack,1,2,4,4\ns9,crack,1,2,4,4\n", "s9 is not in images.csv"),
        ("image,class\ns0,crack\n", "s0,crack,90,2,99,4\n", "lies outside"),
        ("image,class\ns0,crack\n", None, "not one labelled picture"),
    ],
)
def test_table_refuses(tmp_path: Path, images: str, boxes: str | None, match: str) -> None:
    picture(tmp_path / "images" / "s0.png")
    refused(table(tmp_path, images, boxes), match)


def test_split_is_a_matter_of_tables(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "s0.png")
    mask(tmp_path / "masks" / "s0.png", {(1, 1): 255})
    refused(tmp_path, "a split 'test' of the form masks", split="test")
    table(tmp_path, "image,class,split\ns0,crack,train\n")
    refused(tmp_path, "no split 'test'", split="test")
