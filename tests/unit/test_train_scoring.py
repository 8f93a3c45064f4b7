"""The figures of an engine against the same figures counted pixel by pixel from the text of their definitions."""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon.cli import main
from edge_daemon.images import load_picture
from edge_daemon.segment.bundle import Bundle
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.segment.protocol import Tensors
from edge_daemon.segment.see import see
from edge_daemon.testing.engine_contract import TINY_TYPES, tiny_bundle, tiny_manifest, tiny_thresholds
from edge_daemon.train import evaluation, figures, scoring
from edge_daemon.train.annotations import Box
from edge_daemon.train.detection import Detections, average_precision, candidates, froc, hits, overlaps
from edge_daemon.train.labelled import IGNORED, UNTYPED, Labelled

SIDE = 64
GREY = np.random.default_rng(0).integers(40, 200, (SIDE, SIDE), np.uint8)


class Planted:
    """An engine that answers with planted logits, whatever it is shown."""

    name, backend = "planted", "none"

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.defect = np.full((SIDE, SIDE), -9.0, np.float32)
        self.types = np.zeros((len(bundle.types), SIDE, SIDE), np.float32)

    def mark(self, where: tuple, logit: float, kind: int = 0) -> None:
        self.defect[where] = logit
        self.types[:, where[0], where[1]] = 0.0
        self.types[kind, where[0], where[1]] = 20.0

    def infer(self, batch: np.ndarray) -> Tensors:
        assert batch.shape[2:] == (SIDE, SIDE)
        return Tensors(self.defect[None, None].copy(), self.types[None].copy())

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    limits = tiny_thresholds(gate={"min_contrast": 0.02, "max_clipped_pct": 50.0}, known_scores={})
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "b", thresholds=limits)


def labelled(
    labels: np.ndarray | None = None, boxes: tuple[Box, ...] | None = None, *, name: str = "p", series: str = "s",
    part: str | None = None, types: tuple[str, ...] = TINY_TYPES, mm_per_px: float | None = 0.1,
) -> Labelled:  # fmt: skip
    return Labelled(name, series, part or name, GREY, mm_per_px, None, labels, boxes, types)


def truth(**spots: tuple[slice, slice]) -> np.ndarray:
    """Labels from ``t1=np.s_[y, x]``: t1 to t3 types, t253 untyped, t254 ignored; a letter behind makes it unique."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for key, where in spots.items():
        labels[where] = int("".join(c for c in key if c.isdigit()))
    return labels


def score(engine: Planted, picture: Labelled) -> scoring.PictureScore:
    ((_, _, found),) = scoring.score_pictures(engine, [picture])
    return found


# ---- brute force ----------------------------------------------------------------------------------------------------


def flood(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected sets of a mask, pixel by pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    spots = []
    while left:
        start = left.pop()
        queue, spot = deque([start]), [start]
        while queue:
            y, x = queue.popleft()
            for at in ((y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)):
                if at in left:
                    left.remove(at)
                    queue.append(at)
                    spot.append(at)
        spots.append(spot)
    return spots


def within(mask: np.ndarray, by_px: int) -> np.ndarray:
    """All pixels at most ``by_px`` from the mask, rows and columns apart."""
    grown = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        grown[max(y - by_px, 0) : y + by_px + 1, max(x - by_px, 0) : x + by_px + 1] = True
    return grown


def random_scene(engine: Planted, seed: int) -> np.ndarray:
    """Rectangles of truth and rectangles of answers, most of them over each other."""
    random = np.random.default_rng(seed)
    engine.defect[:], engine.types[:] = -9.0, 0.0
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(int(random.integers(0, 7))):
        y, x = random.integers(2, SIDE - 14, 2).tolist()
        height, width = random.integers(1, 12, 2).tolist()
        labels[y : y + height, x : x + width] = random.choice([1, 2, 3, UNTYPED, IGNORED])
        if random.random() < 0.7:
            dy, dx = random.integers(-2, 6, 2).tolist()
            where = np.s_[max(y + dy, 0) : y + dy + height, max(x + dx, 0) : x + dx + width]
            engine.mark(where, float(random.choice([-0.5, 1.0, 2.5, 5.0])), int(random.integers(0, 3)))
    for _ in range(int(random.integers(0, 3))):
        y, x = random.integers(0, SIDE - 6, 2).tolist()
        engine.mark(np.s_[y : y + 3, x : x + 4], float(random.choice([1.0, 3.0])), int(random.integers(0, 3)))
    engine.defect += random.normal(0, 0.05, engine.defect.shape).astype(np.float32)
    return labels


def test_counts_of_a_picture_equal_brute_force(bundle: Bundle) -> None:
    engine = Planted(bundle)
    totals = {"found": 0, "missed": 0, "false": 0, "areas": 0}
    for seed in range(36):
        labels = random_scene(engine, seed)
        picture = labelled(labels)
        answer, got = see(engine, GREY), score(engine, picture)
        assert answer.coverage is not None
        marked, p = answer.labels > 0, answer.coverage.astype(np.float64)
        regions = flood(marked)

        expected, areas = [], []
        for label in (1, 2, 3, UNTYPED):
            for spot in flood(labels == label):
                given = [int(answer.labels[at]) for at in spot if marked[at]]
                found = len(given) >= 0.25 * len(spot)
                name = TINY_TYPES[np.bincount(given).argmax() - 1] if found else None
                kind = None if label == UNTYPED else TINY_TYPES[label - 1]
                expected.append((kind, len(spot), found, name))
                if not found or math.sqrt(len(spot) / math.pi) < 3.0:
                    continue
                own, itself = np.zeros_like(marked), np.zeros_like(marked)
                for region in regions:
                    if set(region) & set(spot):
                        own[tuple(zip(*region, strict=True))] = True
                itself[tuple(zip(*spot, strict=True))] = True
                reach = within(own | itself, 3)
                if not ((labels > 0) & reach & ~itself).any() and not (marked & reach & ~own).any():
                    areas.append((kind, len(spot), p[within(own, 3)].sum(), p[own].sum()))
        assert sorted(
            (str(i.type), round(i.diameter_px**2 * math.pi / 4), i.found, str(i.given)) for i in got.indications
        ) == sorted((str(kind), size, found, str(name)) for kind, size, found, name in expected)
        assert sorted((str(a.type), a.true_px) for a in got.areas) == sorted((str(k), n) for k, n, _, _ in areas)
        for ours, theirs in zip(
            sorted(got.areas, key=lambda a: (a.true_px, a.summed_px)),
            sorted(areas, key=lambda a: (a[1], a[2])), strict=True,
        ):  # fmt: skip
            assert (ours.summed_px, ours.marked_px) == pytest.approx(theirs[2:], rel=1e-5)

        near = within(labels > 0, 2)
        false = [region for region in regions if not any(near[at] for at in region)]
        confidences = sorted(float(np.mean([p[at] for at in region])) for region in false)
        assert sorted(confidence for confidence, _ in got.false) == pytest.approx(confidences, rel=1e-5)
        boxes = sorted(
            (min(x for _, x in r), min(y for y, _ in r),
             max(x for _, x in r) - min(x for _, x in r) + 1, max(y for y, _ in r) - min(y for y, _ in r) + 1)
            for r in false
        )  # fmt: skip
        assert sorted(box for _, box in got.false) == boxes
        assert got.sound == (not labels.any())
        assert got.marked == marked.any()
        assert sum(got.regions) == len(regions)

        counted, seen = labels != IGNORED, (labels > 0) & (labels != IGNORED)
        assert got.around == pytest.approx((p[within(seen, 3) & counted].sum(), seen.sum()), rel=1e-5)
        assert got.reliability is not None
        for table, where in zip(got.reliability, (counted, counted & (within(seen, 8) | (p > 0.01))), strict=True):
            cells = np.minimum(np.floor(answer.coverage[where] * np.float32(15)).astype(int), 14)
            for row, weights in zip(table, (np.ones(where.sum()), p[where], seen[where]), strict=True):
                assert row == pytest.approx([weights[cells == b].sum() for b in range(15)], rel=1e-4, abs=1e-4)
        for key, value in zip(
            ("found", "missed", "false", "areas"),
            (sum(e[2] for e in expected), sum(not e[2] for e in expected), len(false), len(areas)), strict=True,
        ):  # fmt: skip
            totals[key] += value
    assert min(totals.values()) >= 5, totals  # every branch above was really taken


def test_pixel_figures_of_a_set_equal_brute_force(bundle: Bundle) -> None:
    engine = Planted(bundle)
    scores, pairs = [], []
    for seed in range(100, 115):
        labels = random_scene(engine, seed)
        scores.append(score(engine, labelled(labels, name=f"p{seed}")))
        pairs.append((labels, see(engine, GREY).labels))
    got = figures.summarise(bundle, scores)
    t, g = (np.concatenate(side, axis=None) for side in zip(*pairs, strict=True))
    ious = {}
    for label, name in enumerate(TINY_TYPES, 1):
        counted = (t != IGNORED) & (t != UNTYPED)
        ious[name] = ((t == label) & (g == label)).sum() / (((t == label) | (g == label)) & counted).sum()
        assert got["types"][name]["iou"] == pytest.approx(ious[name], abs=1e-4)
    assert got["type_iou_mean"] == pytest.approx(np.mean(list(ious.values())), abs=1e-4)
    assert got["type_iou_worst"][0] == min(ious, key=lambda name: ious[name])
    counted, seen = t != IGNORED, (t > 0) & (t != IGNORED)
    assert got["defect_iou"] == pytest.approx((seen & (g > 0)).sum() / ((seen | (g > 0)) & counted).sum(), abs=1e-4)
    dice = []
    for labels, given in pairs:
        real = (labels > 0) & (labels != IGNORED)
        if real.any():
            both = (real & (given > 0)).sum()
            dice.append(2 * both / (real.sum() + ((given > 0) & (labels != IGNORED)).sum()))
    assert got["dice_per_picture"] == pytest.approx(np.mean(dice), abs=1e-4)


# ---- definitions, by hand -------------------------------------------------------------------------------------------


def test_found_means_a_quarter_of_the_visible_pixels(bundle: Bundle) -> None:
    engine = Planted(bundle)
    labels = truth(t1=np.s_[10:14, 10:14], t2=np.s_[30:34, 30:34])
    engine.mark(np.s_[10:11, 10:14], 5.0, 0)  # 4 of 16
    engine.mark(np.s_[30:31, 30:33], 5.0, 1)  # 3 of 16
    found = {one.type: (one.found, one.given) for one in score(engine, labelled(labels)).indications}
    assert found == {"gas_hole": (True, "gas_hole"), "shrinkage_cavity": (False, None)}
    one = score(engine, labelled(labels)).indications[0]
    assert one.diameter_px == pytest.approx(2 * math.sqrt(16 / math.pi))
    assert one.diameter_mm == pytest.approx(0.1 * one.diameter_px)
    assert score(engine, labelled(labels, mm_per_px=None)).indications[0].diameter_mm is None


@pytest.mark.parametrize(("gap_px", "false"), [(1, 0), (2, 0), (3, 1)])
@pytest.mark.parametrize("label", [1, IGNORED, UNTYPED])
def test_a_region_within_two_pixels_of_any_truth_is_not_false(
    bundle: Bundle, gap_px: int, false: int, label: int
) -> None:
    engine = Planted(bundle)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[20:24, 20:24] = label
    engine.mark(np.s_[20:24, 23 + gap_px : 28 + gap_px], 5.0)
    assert len(score(engine, labelled(labels)).false) == false


def test_calibration_error_by_hand(bundle: Bundle) -> None:
    """A square of 100 px at p = 0.9, 60 of them defect; all else at p ~ 1e-4 and sound, 300 px of it near."""
    engine = Planted(bundle)
    labels = truth(t1=np.s_[20:30, 20:26])
    engine.mark(np.s_[20:30, 20:30], math.log(9.0))
    got = figures.summarise(bundle, [score(engine, labelled(labels))])["calibration"]
    near = 26 * 22  # truth grown by 8 px: rows 12 to 37, columns 12 to 33
    low = 1 / (1 + math.exp(9.0))
    assert got["pixels_all"] == SIDE * SIDE
    assert got["pixels_near"] == near
    assert got["ece_all"] == pytest.approx((100 * 0.3 + (SIDE * SIDE - 100) * low) / SIDE**2, abs=1e-5)
    assert got["ece_near"] == pytest.approx((100 * 0.3 + (near - 100) * low) / near, abs=1e-5)
    assert got["table_near"][-1] == {
        "coverage": [0.8667, 0.9333], "pixels": 100, "mean_coverage": 0.9, "defect_share": 0.6,
    }  # fmt: skip


def test_area_bias_by_hand(bundle: Bundle) -> None:
    """100 px of truth, 80 of them at p = 0.9 and a rim of 20 at p = 0.2, which no region holds: 76 of 100 px."""
    engine = Planted(bundle)
    labels = truth(t3=np.s_[20:30, 20:30])
    engine.mark(np.s_[20:28, 20:30], math.log(9.0), 2)
    engine.mark(np.s_[28:30, 20:30], math.log(0.25), 2)
    rest = (14 * 16 - 100 + 0) / (1 + math.exp(9.0))  # regions grown by 3 px: rows 17 to 30, columns 17 to 32
    got = figures.summarise(bundle, [score(engine, labelled(labels))])["area"]
    assert got["n"] == 1
    assert got["bias"] == pytest.approx((72 + 4 + rest) / 100 - 1, abs=1e-4)
    assert got["judged"] == pytest.approx(-0.28, abs=1e-4)
    assert got["worst"] is None  # five at least
    crowded = truth(t3=np.s_[20:30, 20:30], t254=np.s_[20:22, 33:35])
    assert figures.summarise(bundle, [score(engine, labelled(crowded))])["area"]["n"] == 1
    crowded = truth(t3=np.s_[20:30, 20:30], t254=np.s_[20:22, 32:34])
    assert figures.summarise(bundle, [score(engine, labelled(crowded))])["area"]["n"] == 0


def test_names_groups_and_types_the_engine_never_learned(bundle: Bundle) -> None:
    engine = Planted(bundle)
    spots = [np.s_[10 * n : 10 * n + 5, 10:15] for n in range(1, 6)]
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for where, label in zip(spots, (1, 1, 2, 3, 4), strict=True):
        labels[where] = label
    for where, kind in zip(spots, (0, 1, 0, 0, 2), strict=True):
        engine.mark(where, 5.0, kind)
    scored = [score(engine, labelled(labels, types=(*TINY_TYPES, "fray")))]
    plain = figures.summarise(bundle, scored)["naming"]
    assert plain["groups"] == []
    assert (plain["exact"]["k"], plain["exact"]["n"], plain["by_group"]["k"]) == (1, 5, 1)
    assert plain["exact"]["mean_of_types"] == pytest.approx(0.5 / 4)
    assert plain["confusion"] == {
        "gas_hole": {"gas_hole": 1, "shrinkage_cavity": 1}, "shrinkage_cavity": {"gas_hole": 1},
        "crack": {"gas_hole": 1}, "fray": {"crack": 1},
    }  # fmt: skip
    grouping = replace(bundle, groups=(("gas_hole", "shrinkage_cavity"),))
    grouped = figures.summarise(grouping, scored)["naming"]
    assert (grouped["exact"]["k"], grouped["by_group"]["k"]) == (1, 3)
    assert grouped["by_group"]["worst"][1] == 0.0


def test_unknown_is_the_right_name_for_a_type_never_learned(tmp_path: Path) -> None:
    scores = {name: [0.0] * 20 for name in TINY_TYPES}
    strict = Planted(tiny_bundle(tmp_path / "b", thresholds=tiny_thresholds(known_scores=scores)))
    labels = truth(t1=np.s_[10:15, 10:15], t4=np.s_[30:35, 30:35])
    for where in (np.s_[10:15, 10:15], np.s_[30:35, 30:35]):
        strict.mark(where, 5.0)
        strict.types[:, where[0], where[1]] = 0.0  # undecided between the types: stranger than anything known
    scored = score(strict, labelled(labels, types=(*TINY_TYPES, "fray")))
    got = figures.summarise(strict.bundle, [scored])
    assert {one.given for one in scored.indications} == {"unknown"}
    assert got["types"]["gas_hole"]["named_right"]["k"] == 0
    assert got["types"]["fray"]["named_right"]["k"] == 1
    assert got["regions_called_unknown"]["k"] == 2


def test_intervals_count_one_indication_a_part_and_shares_all(bundle: Bundle) -> None:
    engine = Planted(bundle)
    labels = truth(t1a=np.s_[5:10, 5:10], t1b=np.s_[5:10, 20:25], t1c=np.s_[5:10, 35:40])
    engine.mark(np.s_[5:10, 5:40], 5.0)
    view = score(engine, labelled(labels, part="A"))
    scores = [replace(view, name=f"view {n}") for n in range(4)]
    engine.defect[:] = -9.0
    scores += [score(engine, labelled(labels, name="other", part="B"))]
    row = figures.summarise(bundle, scores)["types"]["gas_hole"]
    assert (row["found"]["k"], row["found"]["n"]) == (12, 15)
    assert (row["recall"]["k"], row["recall"]["n"]) == (1, 2)
    assert row["recall"]["ci95"] == pytest.approx([0.0126, 0.9874], abs=1e-4)  # of 1 in 2: 1 -+ sqrt(0.975)


def test_what_has_no_stated_type_is_found_or_not_and_nothing_else(bundle: Bundle) -> None:
    """No name can be right, no type has an overlap; a type that is named but does not occur pulls no mean down."""
    engine = Planted(bundle)
    engine.mark(np.s_[5:10, 5:10], 5.0, 2)
    untyped = figures.summarise(bundle, [score(engine, labelled(truth(t253=np.s_[5:10, 5:10])))])
    row = untyped["types"][figures.UNTYPED_NAME]
    assert (row["found"]["value"], row["named_right"]["n"], row["named_right_all"]["n"]) == (1.0, 0, 0)
    assert untyped["naming"]["exact"]["n"] == 0
    assert untyped["type_iou_mean"] is untyped["type_iou_worst"] is None
    assert untyped["defect_iou"] == 1.0
    engine.mark(np.s_[30:35, 30:35], 5.0, 0)
    both = figures.summarise(bundle, [score(engine, labelled(truth(t1=np.s_[30:35, 30:35])))])
    assert both["types"]["crack"]["iou"] == 0.0
    assert (both["type_iou_mean"], both["type_iou_worst"]) == (1.0, ("gas_hole", 1.0))


def test_misses_where_the_picture_is_burnt_out_are_told_apart(bundle: Bundle) -> None:
    engine = Planted(bundle)
    burnt = GREY.copy()
    burnt[:20, :20] = 255
    where, box = truth(t1a=np.s_[5:10, 5:10], t1b=np.s_[40:45, 40:45]), Box(5, 5, 5, 5)
    for picture, missed in ((labelled(where), 1), (labelled(boxes=(box, Box(40, 40, 5, 5))), 1)):
        got = figures.summarise(bundle, [score(engine, replace(picture, pixels=burnt))])
        assert (got["found"]["n"], got["found"]["k"], got["missed_where_blind"]) == (2, 0, missed)
        assert figures.summarise(bundle, [score(engine, picture)])["missed_where_blind"] == 0


def test_size_bins_and_their_worst(bundle: Bundle) -> None:
    engine = Planted(bundle)
    labels = truth(t1=np.s_[5:8, 5:8], t2=np.s_[20:30, 20:30])  # diameters 3.39 and 11.28 px
    engine.mark(np.s_[20:30, 20:30], 5.0)
    got = figures.summarise(bundle, [score(engine, labelled(labels))])
    used = {name: row["found"]["value"] for name, row in got["size_px"]["bins"].items() if row["found"]["n"]}
    assert used == {"< 4 px": 0.0, "10 to 16 px": 1.0}
    assert got["size_px"]["worst"] == ("< 4 px", 0.0)
    assert got["size_px"]["mean"] == 0.5
    assert got["size_mm"]["worst"] == ("0.3 to 0.5 mm", 0.0)
    assert figures.summarise(bundle, [score(engine, labelled(labels, mm_per_px=None))])["size_mm"] is None


def test_false_alarms_have_an_interval_that_knows_of_clusters(bundle: Bundle) -> None:
    """Ten in one of 100 parts: a Poisson count alone would allow at most 0.184 a picture; resampled parts see 0.3."""
    engine = Planted(bundle)
    empty = np.zeros((SIDE, SIDE), np.uint8)
    clean = score(engine, labelled(empty))
    scores = [replace(clean, name=f"p{n}", part=f"p{n}") for n in range(99)]
    for n in range(10):
        engine.mark(np.s_[6 * n : 6 * n + 3, 10:13], 5.0)
    scores.append(score(engine, labelled(empty, name="bad")))
    got = figures.summarise(bundle, scores)
    assert got["false_regions"]["n"] == 10
    assert got["false_regions"]["per_picture"] == got["false_regions_per_picture"] == 0.1
    low, high = got["false_regions"]["ci95"]
    assert low == 0.0
    assert 0.25 <= high <= 0.35
    assert (got["sound_marked"]["k"], got["sound_marked"]["n"]) == (1, 100)
    none = figures.summarise(bundle, scores[:99])["false_regions"]
    assert none["ci95"] == pytest.approx([0.0, -math.log(0.025) / 99], abs=1e-4)  # Garwood: 3.69 of 99


def test_refused_pictures_are_counted_by_reason_and_not_scored(bundle: Bundle) -> None:
    engine = Planted(bundle)
    labels = truth(t1=np.s_[5:15, 5:15])
    scores = [score(engine, labelled(labels, name=name, mm_per_px=scale)) for name, scale in (("a", 0.1), ("b", 9.0))]
    got = figures.summarise(bundle, scores)
    assert (got["pictures"], got["refused"], got["refusals"]) == (2, 1, {"GATE_SCALE": 1})
    assert got["found"] == {"n": 1, "k": 0, "value": 0.0}
    nothing = figures.summarise(bundle, scores[1:])
    assert nothing["found"]["n"] == nothing["boxes"]["n"] == 0
    assert nothing["recall_worst"] is nothing["defect_iou"] is nothing["false_regions"]["ci95"] is None


def test_masks_and_boxes_give_the_same_keys(bundle: Bundle) -> None:
    engine = Planted(bundle)
    engine.mark(np.s_[20:30, 20:30], 5.0)
    mask = figures.summarise(bundle, [score(engine, labelled(truth(t1=np.s_[20:30, 20:30])))])
    box = figures.summarise(bundle, [score(engine, labelled(boxes=(Box(20, 20, 10, 10, "gas_hole"),)))])
    assert list(mask) == list(box)
    for key in ("found", "recall_mean", "false_regions", "size_px", "naming", "boxes", "regions_called_unknown"):
        if key != "size_px":
            assert mask[key] == box[key], key
    assert mask["boxes"]["ap50"] == 1.0
    assert box["defect_iou"] is box["calibration"] is box["type_iou_mean"] is None
    assert (mask["truth"], box["truth"]) == ({"masks": 1, "boxes": 0}, {"masks": 0, "boxes": 1})
    for document in (mask, box):
        json.dumps(document, allow_nan=False)


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_boxes_hit_missed_ignored_and_false(bundle: Bundle) -> None:
    engine = Planted(bundle)
    for where, kind in ((np.s_[10:14, 10:14], 2), (np.s_[40:44, 40:44], 0), (np.s_[50:54, 5:9], 1)):
        engine.mark(where, 5.0, kind)
    boxes = (
        Box(5, 5, 20, 20, "crack"),  # the centre (12, 12) of a small region lies in it
        Box(30, 5, 10, 10, "gas_hole"),
        Box(38, 38, 8, 8, None, True),
    )
    got = score(engine, labelled(boxes=boxes))
    assert [(one.type, one.found, one.given, one.diameter_px) for one in got.indications] == [
        ("crack", True, "crack", 20.0), ("gas_hole", False, None, 10.0),
    ]  # fmt: skip
    assert [box for _, box in got.false] == [(5, 50, 4, 4)]
    assert not got.sound
    assert score(engine, labelled(boxes=())).sound


def frames(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, float).reshape(-1, 4)


def test_overlap_and_hits_by_hand() -> None:
    first = frames((0, 0, 10, 10), (100, 0, 4, 4))
    second = frames((5, 0, 10, 10), (0, 0, 20, 20), (101, 1, 2, 2))
    assert overlaps(first, second) == pytest.approx(np.array([[50 / 150, 100 / 400, 0], [0, 0, 4 / 16]]))
    assert hits(first, second).tolist() == [[True, True, False], [False, False, True]]
    # a large region over a small box off its centre: 4 of 100 px, and the centre (5, 5) is outside
    assert not hits(first[:1], frames((0, 0, 2, 2))).any()


def test_average_precision_by_hand() -> None:
    """Ranked: right .9, false .8, second hit on a taken box .7 (false), right .6; one of three boxes never found.

    Precision at the right ones 1/1 and 2/4, made monotone the same: (1 + 0.5) / 3 boxes.
    """
    one = Detections(
        frames((0, 0, 10, 10), (50, 50, 5, 5), (1, 0, 10, 10)), np.array([0.9, 0.8, 0.7]), frames((0, 0, 10, 10)),
        frames(),
    )  # fmt: skip
    two = Detections(
        frames((20, 20, 10, 10), (40, 40, 4, 4)), np.array([0.6, 0.95]), frames((20, 20, 10, 8), (70, 70, 9, 9)),
        frames((39, 39, 6, 6)),
    )  # fmt: skip
    assert average_precision([one, two], 0.5) == pytest.approx(0.5)
    assert average_precision([one, two], 0.9) == pytest.approx(1 / 3)  # 80 of 100 px no longer match; nor is it false
    assert average_precision([one], 0.5) == pytest.approx(1.0)
    assert average_precision([Detections(frames(), np.array([]), frames(), frames())], 0.5) is None
    assert average_precision([Detections(frames(), np.array([]), frames((0, 0, 1, 1)), frames())], 0.5) == 0.0


def test_precision_is_made_monotone() -> None:
    """False .9, right .8, right .7: precision 1/2 then 2/3, so 2/3 at both."""
    one = Detections(
        frames((50, 50, 4, 4), (0, 0, 4, 4), (20, 0, 4, 4)), np.array([0.9, 0.8, 0.7]),
        frames((0, 0, 4, 4), (20, 0, 4, 4)), frames(),
    )  # fmt: skip
    assert average_precision([one], 0.5) == pytest.approx(2 / 3)


def test_hits_at_a_rate_of_false_alarms_by_hand() -> None:
    """Four pictures: at a quarter each one false alarm is allowed, so all above the second false one (.6) counts."""
    first = Detections(
        frames((0, 0, 4, 4), (0, 0, 4, 4), (50, 50, 4, 4)), np.array([0.9, 0.3, 0.8]), frames((1, 1, 2, 2)), frames()
    )
    second = Detections(
        frames((0, 0, 4, 4), (20, 0, 4, 4), (30, 30, 4, 4)), np.array([0.6, 0.7, 0.6]),
        frames((1, 1, 2, 2), (21, 1, 2, 2), (60, 60, 2, 2)), frames(),
    )  # fmt: skip
    empty = Detections(frames(), np.array([]), frames(), frames())
    pictures = [first, second, empty, empty]
    assert froc(pictures, 0.25) == (2, 4)  # the hit at .6 ties with the second false alarm
    assert froc(pictures, 0.5) == (3, 4)
    assert froc(pictures, 1.0) == (3, 4)
    assert froc(pictures, 0.0) == (1, 4)
    excused = Detections(second.found, second.confidence, second.truth, frames((30, 30, 4, 4)))
    assert froc([first, excused, empty, empty], 0.25) == (3, 4)


def test_ranking_reaches_below_the_thresholds(bundle: Bundle) -> None:
    """Thresholds 0.8 and 0.3: regions with a peak of 0.5 and of 0.1 are ranked, one of 0.03 is not, none twice."""
    coverage = np.full((40, 40), 0.001, np.float32)
    coverage[2:6, 2:6] = 0.9
    coverage[6:8, 2:6] = 0.1  # the skirt of the first region belongs to it, not to a region of its own
    coverage[15:18, 15:18] = 0.5
    coverage[25:29, 25:27] = 0.1
    coverage[35:38, 35:38] = 0.03
    boxes, confidence = candidates(coverage, bundle.thresholds)
    found = {tuple(map(int, box)): round(float(score), 3) for box, score in zip(boxes, confidence, strict=True)}
    assert found == {(2, 2, 4, 4): 0.9, (15, 15, 3, 3): 0.5, (25, 25, 2, 4): 0.1}
    assert len(boxes) == 3


def test_series_are_averaged_and_the_worst_is_named(bundle: Bundle) -> None:
    engine = Planted(bundle)
    engine.mark(np.s_[20:30, 20:30], 5.0)
    hit, miss = Box(20, 20, 10, 10), Box(40, 40, 10, 10)
    one = score(engine, labelled(boxes=(hit,), series="A"))
    scores = [replace(one, name=f"a{n}", part=f"a{n}") for n in range(9)]
    scores.append(score(engine, labelled(boxes=(miss,), name="b", series="B")))
    scores.append(score(engine, labelled(boxes=(), name="c", series="C")))
    got = figures.summarise(bundle, scores)
    series = got["series"]
    assert got["found"]["value"] == 0.9
    assert (series["n"], series["mean"]["found"], series["worst"]["found"]) == (3, 0.5, ("B", 0.0))
    assert (series["mean"]["ap50"], series["worst"]["ap50"]) == (0.5, ("B", 0.0))
    assert series["each"]["C"]["ap50"] is None
    assert series["mean"]["false_per_picture"] == pytest.approx(2 / 3, abs=1e-4)
    assert series["worst"]["false_per_picture"][1] == 1.0


# ---- what a site gets -----------------------------------------------------------------------------------------------


def test_pictures_show_the_result_yellow_and_the_truth_around_it(bundle: Bundle) -> None:
    labels = truth(t1=np.s_[20:30, 20:30], t254=np.s_[50:53, 50:53])
    given = np.zeros((SIDE, SIDE), np.uint8)
    given[22:28, 18:24] = 1
    shown = evaluation.outlined(labelled(labels), given)
    yellow = (shown == (255, 255, 0)).all(axis=2)
    assert np.array_equal(yellow, given > 0)
    cyan, magenta = (shown == (0, 255, 255)).all(axis=2), (shown == (255, 0, 255)).all(axis=2)
    ring = within(labels == 1, 1) & (labels != 1)
    assert np.array_equal(cyan, ring & ~yellow)
    assert np.array_equal(magenta, within(labels == IGNORED, 1) & (labels != IGNORED))
    rest = ~(yellow | cyan | magenta)
    assert (shown[rest] == GREY[rest][:, None]).all()


def _folder(root: Path) -> Path:
    """Four pictures for the tiny engine, which marks what is brighter than half: found, missed, false alarm, sound."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number, (bright, real) in enumerate(((1, 1), (0, 1), (1, 0), (0, 0))):
        pixels = np.random.default_rng(number).integers(40, 60, (SIDE, SIDE), np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if bright:
            pixels[20:30, 20:30] = 153
        if real:
            mask[20:30, 20:30] = 1
        assert cv2.imwrite(str(root / "images" / f"part_{number}.png"), pixels)
        assert cv2.imwrite(str(root / "masks" / f"part_{number}.png"), mask)
    return root


def test_command_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle(tmp_path / "b", manifest=tiny_manifest(tile_px=128))
    folder = _folder(tmp_path / "data")
    arguments = ["train", "evaluate", str(tmp_path / "b"), "--on", str(folder), "--out", str(tmp_path / "out")]
    for _ in range(2):  # a second run replaces the first one's pictures
        assert main([*arguments, "--json", "--mm-per-px", "0.1"]) == 0
        printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (printed["form"], printed["pictures"], printed["bundle"]) == ("masks", 4, "tiny")
    assert printed["found"] == {"n": 2, "k": 1, "value": 0.5}
    assert printed["false_regions"]["n"] == 1
    assert (printed["sound_marked"]["k"], printed["sound_marked"]["n"]) == (1, 2)
    assert printed["size_mm"] is not None
    names = sorted(path.name for path in (tmp_path / "out" / "worst").iterdir())
    assert names == ["false-01-images-part_2.png", "miss-01-images-part_1.png"]
    missed = load_picture(tmp_path / "out" / "worst" / names[1]).pixels
    assert tuple(missed[19, 25]) == (0, 255, 255)
    page = (tmp_path / "out" / "figures.md").read_text()
    assert "| indications found | 1/2 = 0.500 |" in page
    assert "miss-01-images-part_1.png`: images/part_1.png, defect, 11.3 px, at x 20, y 20, 10 x 10 px" in page

    assert main(arguments[:5]) == 0
    assert "| indications found | 1/2 = 0.500 |" in capsys.readouterr().out


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle(tmp_path / "b")
    command = ["train", "evaluate", str(tmp_path / "b")]
    assert main([*command, "--on", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main([*command, "--first-seed", "5", "--count", "1"]) == 2
    assert "850000" in capsys.readouterr().err
    folder = _folder(tmp_path / "data")
    (folder / "masks" / "part_3.png").unlink()
    assert main([*command, "--on", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["notes"] == ["1 pictures without a mask: left out"]
    assert main([*command, "--on", str(folder), "--json", "--missing-is-sound"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 4


@pytest.mark.parametrize("scenes", ["mixture", "unseen", "sound"])
def test_simulated_pictures_go_the_same_way(tmp_path: Path, scenes: str) -> None:
    gate = {"min_contrast": 0.0, "max_clipped_pct": 100.0}
    bits = {"mm_per_px": [0.01, 1.0], "polarity": "bright_void", "bits": [8, 16]}
    tiny_bundle(tmp_path / "b", manifest=tiny_manifest(tile_px=512, qualified=bits),
                thresholds=tiny_thresholds(gate=gate))  # fmt: skip
    got = evaluation.evaluate_on(tmp_path / "b", None, range(860_000, 860_003), scenes=scenes)
    assert (got["pictures"], got["refused"], got["seeds"]) == (3, 0, [860_000, 860_002])
    assert got["truth"] == {"masks": 3, "boxes": 0}
    assert (got["found"]["n"] == 0) == (scenes == "sound")
    assert got["sound_marked"]["n"] >= (3 if scenes == "sound" else 0)
    assert "# tiny 1.0 on simulated" in evaluation.markdown(got)


def test_counting_is_fast(bundle: Bundle, tmp_path: Path) -> None:
    """512 x 512 px with 30 indications, everything but the network: about 25 ms of one core. The bound is for
    what grows with the square of something; a slow or busy machine stays under it."""
    import time

    large = Planted(tiny_bundle(tmp_path / "b", manifest=tiny_manifest(tile_px=512)))
    random = np.random.default_rng(3)
    grey = np.tile(GREY, (8, 8))
    labels = np.zeros((512, 512), np.uint8)
    defect = np.full((512, 512), -9.0, np.float32)
    for _ in range(30):
        y, x, size = random.integers(10, 480), random.integers(10, 480), random.integers(3, 14)
        labels[y : y + size, x : x + size] = random.integers(1, 4)
        defect[y : y + size, x + 1 : x + size + 1] = 4.0
    large.infer = lambda batch: Tensors(defect[None, None], np.zeros((1, 3, 512, 512), np.float32))  # type: ignore[method-assign]
    picture = Labelled("p", "s", "p", grey, 0.1, None, labels, None, TINY_TYPES)
    answer = see(large, grey)
    times_ms = []
    for _ in range(10):
        begin_ns = time.thread_time_ns()
        scoring.score_picture(large.bundle, picture, answer)
        times_ms.append((time.thread_time_ns() - begin_ns) / 1e6)
    assert min(times_ms) < 150.0


def test_the_engine_is_the_lines_own(bundle: Bundle) -> None:
    """The tiny network through ONNX: what the score counts is what ``see`` marks."""
    engine = OnnxEngine(bundle)
    pixels = np.full((SIDE, SIDE), 40, np.uint8)
    pixels[20:30, 20:30] = 153
    picture = Labelled("p", "s", "p", pixels, 0.1, "bright_void", truth(t1=np.s_[20:30, 20:30]), None, TINY_TYPES)
    ((_, answer, got),) = scoring.score_pictures(engine, [picture])
    assert np.array_equal(answer.labels, see(engine, pixels).labels)
    assert [(one.type, one.found, one.given) for one in got.indications] == [("gas_hole", True, "gas_hole")]
    engine.close()
