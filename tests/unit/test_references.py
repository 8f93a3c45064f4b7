"""Reference sets: what the simulator makes, what limits follow from measured plates, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_daemon.errors import ConfigError, EdgeError, IntegrityError, UsageError
from edge_daemon.judge import Scale, measure
from edge_daemon.references import (
    LevelLimits,
    PlateValues,
    ReferenceSet,
    bent_limits,
    default_cache_folder,
    load_reference_set,
    measure_limits,
)
from edge_daemon.references import limits as limits_module
from edge_daemon.references.examining import WINDOWS_MM, examine
from edge_daemon.references.making import make_set, make_sets, planned_set
from edge_daemon.references.pictures import load_plate
from edge_daemon.resources import data_folder, engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.protocol import Engine
from edge_daemon.segment.registry import open_engine

SHIPPED = data_folder("references") / "demo" / "aluminum" / "6.35mm"
DEMO_SET = SHIPPED / "gas_porosity_round"
Manifest = dict[str, Any]


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_SET, tmp_path / "plates"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def change(folder: Path, edit: Callable[[Manifest], object]) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


# ---- what the simulator makes --------------------------------------------------------------------------------------


def test_the_same_set_is_made_to_the_last_byte(tmp_path: Path) -> None:
    planned = planned_set("titanium", 12.7, "shrinkage_cavity", seed=3)
    assert make_set(tmp_path / "one", planned) == make_set(tmp_path / "two", planned)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = planned_set("titanium", 12.7, "shrinkage_cavity", seed=4)
    assert make_set(tmp_path / "three", other) != make_set(tmp_path / "one", planned)


def test_a_made_set_is_left_alone_and_another_is_not_written_over(tmp_path: Path) -> None:
    planned = planned_set("aluminum", 6.35, "crack")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_bytes(b"half made")  # a run that was cut short before its manifest
    sha256 = make_set(tmp_path / "set", planned)
    before, times = contents(tmp_path / "set"), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert make_set(tmp_path / "set", planned) == sha256
    with pytest.raises(UsageError, match="holds another set"):
        make_set(tmp_path / "set", planned_set("aluminum", 6.35, "crack", seed=1))
    assert contents(tmp_path / "set") == before
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    (tmp_path / "set" / "2.png").write_bytes(b"spoilt")
    with pytest.raises(IntegrityError, match=r"2\.png is not the sealed picture"):
        make_set(tmp_path / "set", planned)


def test_sixteen_bits_and_another_metal_show_the_same_kind_of_plate(tmp_path: Path) -> None:
    make_set(tmp_path / "set", planned_set("steel", 9.525, "shrinkage_cavity", bits=16))
    found = load_reference_set(tmp_path / "set")
    image = found.images[8]
    assert image.pixels.dtype == np.uint16 and image.mask is not None
    wall, void = image.pixels[~image.mask].mean() / 65535, image.pixels[image.mask].mean() / 65535
    assert 0.45 < wall < 0.6 and void > 1.05 * wall
    assert "pure iron" in found.document["remark"] and "no acceptance standard" in found.document["remark"]


@pytest.mark.parametrize("folder", sorted(SHIPPED.iterdir()), ids=lambda folder: folder.name)
def test_every_shipped_level_is_graver_than_the_one_below(folder: Path) -> None:
    """Measured here on the masks, not taken from the manifest."""
    found = load_reference_set(folder)
    assert sorted(found.images) == [1, 2, 3, 4, 5, 6, 7, 8] and found.has_masks
    values = []
    for level in found.images:
        labels = found.labels(level)
        assert labels.dtype == np.uint8 and not labels.flags.writeable
        own = measure(labels, None, (found.discontinuity,), found.scale, {found.discontinuity: WINDOWS_MM})
        type_found = own.of(found.discontinuity, WINDOWS_MM)
        areas = [window.area_pct.value for window in type_found.windows]
        values.append([*areas, type_found.max_size_mm.value, float(labels.mean())])
        stated = found.metrics[level]
        assert stated["area_pct"]["12.7"] == pytest.approx(areas[0], rel=1e-5)
        assert stated["aggregate_pct"] == pytest.approx(100 * labels.mean(), rel=1e-5)
    steps = np.diff(np.array(values), axis=0)
    assert (steps > 0).all(), steps.min(axis=0)
    spacing = [found.metrics[level].get("mean_spacing_mm") for level in found.images]
    if spacing[0] is not None:
        assert spacing == sorted(spacing, reverse=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("astm/aluminum/6.35mm/gas_hole", "not the simulator's to make"),
        ("demo/aluminum/6.35mm", "cannot be made"),
        ("demo/../../gas_hole", "cannot be made"),
        ("demo/copper/6.35mm/gas_hole", "no plates of 'copper'"),
        ("demo/aluminum/6.35/gas_hole", "has no unit"),
        ("demo/aluminum/90mm/gas_hole", "cannot be simulated"),
        ("demo/aluminum/6.35mm/scratches", "no casting discontinuity"),
    ],
)
def test_what_the_simulator_cannot_make_is_refused_before_anything_is_made(
    tmp_path: Path, name: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        list(make_sets(tmp_path, ["demo/aluminum/6.35mm/crack", name]))
    assert list(tmp_path.iterdir()) == []


# ---- what is refused -----------------------------------------------------------------------------------------------


def _other_size(folder: Path) -> None:
    small = cv2.imread(str(folder / "5.png"), cv2.IMREAD_UNCHANGED)[:400]
    cv2.imwrite(str(folder / "5.png"), small)
    cv2.imwrite(str(folder / "5.mask.png"), np.zeros((400, 512), np.uint8))
    import hashlib

    def edit(document: Manifest) -> None:
        document["files"]["5.png"] = hashlib.sha256((folder / "5.png").read_bytes()).hexdigest()
        document["masks"]["5.mask.png"] = hashlib.sha256((folder / "5.mask.png").read_bytes()).hexdigest()

    change(folder, edit)


def _changed_byte(folder: Path) -> None:
    data = bytearray((folder / "3.png").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "3.png").write_bytes(bytes(data))


def _changed_mask(folder: Path) -> None:
    shutil.copyfile(folder / "8.mask.png", folder / "7.mask.png")


FAULTS: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "wrong size": (_other_size, "plates of different sizes", 2),
    "no scale": (lambda folder: change(folder, lambda one: one.pop("mm_per_px")), "no scale, no verdict", 2),
    "scale of nothing": (lambda folder: change(folder, lambda one: one.update(mm_per_px=0)), "not plausible", 2),
    "scale as text": (lambda folder: change(folder, lambda one: one.update(mm_per_px="0.1")), "numbers, such as", 2),
    "8 names missing 3": (
        lambda folder: (change(folder, lambda one: one["files"].pop("3.png")), (folder / "3.png").unlink()),
        "plate 3 of 8 is not named", 2,
    ),
    "file gone": (lambda folder: (folder / "3.png").unlink(), "3.png is missing", 4),
    "changed byte": (_changed_byte, "3.png is not the sealed picture", 4),
    "changed mask": (_changed_mask, "7.mask.png is not the sealed mask", 4),
    "unnamed file": (
        lambda folder: shutil.copyfile(folder / "1.png", folder / "extra.TIF"), "extra.TIF is not named", 4,
    ),
    "two of a level": (
        lambda folder: change(folder, lambda one: one["files"].update({"3": {"path": "3.png", "sha256": "0"}})),
        "two pictures of plate 3", 2,
    ),
    "unknown metal": (lambda folder: change(folder, lambda one: one.update(metal="unobtainium")), "unobtainium", 2),
    "unknown polarity": (lambda folder: change(folder, lambda one: one.update(polarity="x")), "polarity = 'x'", 2),
    "a level too many": (lambda folder: change(folder, lambda one: one.update(levels=7)), "has 7 levels", 2),
    "no manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON", 4),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_set_gives_one_clear_message_and_changes_nothing(plates: Path, fault: str) -> None:
    spoil, expected, exit_code = FAULTS[fault]
    spoil(plates)
    before = contents(plates)
    with pytest.raises(EdgeError) as caught:
        load_reference_set(plates)
    assert expected in str(caught.value)
    assert str(plates) in str(caught.value)
    assert caught.value.exit_code == exit_code
    found = examine(plates)
    assert found.found is None
    assert expected in str(found.problems[0])
    assert found.exit_code == exit_code
    assert len({str(problem) for problem in found.problems}) == len(found.problems)
    assert contents(plates) == before


def test_examining_names_everything_that_is_wrong_at_once(plates: Path) -> None:
    _changed_byte(plates)
    (plates / "8.png").unlink()
    change(plates, lambda one: one.pop("mm_per_px"))
    texts = [str(problem) for problem in examine(plates).problems]
    assert len(texts) == 3
    assert all(any(word in text for text in texts) for word in ("3.png is not", "8.png is missing", "mm_per_px"))
    assert examine(plates).exit_code == 4


def test_mixed_up_plates_are_found_on_their_masks(plates: Path) -> None:
    def exchange(document: Manifest) -> None:
        for kind, suffix in (("files", ".png"), ("masks", ".mask.png")):
            table = document[kind]
            table[f"2{suffix}"], table[f"7{suffix}"] = table[f"7{suffix}"], table[f"2{suffix}"]
            (plates / f"2{suffix}").rename(plates / "spare")
            (plates / f"7{suffix}").rename(plates / f"2{suffix}")
            (plates / "spare").rename(plates / f"7{suffix}")
        del document["metrics"]

    change(plates, exchange)
    found = examine(plates)
    assert found.exit_code == 2
    assert {problem.code for problem in found.problems} == {"MONOTONE"}
    assert any("plate 3: area_pct at 12.7 mm is" in str(problem) for problem in found.problems)


def test_metrics_that_are_not_those_of_the_masks_are_found(plates: Path) -> None:
    change(plates, lambda one: one["metrics"]["5"].update(max_size_mm=99.0))
    (problem,) = examine(plates).problems
    assert "manifest says max_size_mm 99 of plate 5" in str(problem)


def test_a_set_of_five_may_say_so(plates: Path) -> None:
    def five(document: Manifest) -> None:
        document["levels"] = 5
        for level in (6, 7, 8):
            del document["files"][f"{level}.png"], document["masks"][f"{level}.mask.png"]
            del document["metrics"][str(level)]
            (plates / f"{level}.png").unlink()
            (plates / f"{level}.mask.png").unlink()

    change(plates, five)
    assert sorted(load_reference_set(plates).images) == [1, 2, 3, 4, 5]


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_dark_voids_and_twelve_bits_become_what_the_engine_expects(tmp_path: Path) -> None:
    stored = np.linspace(0, 4095, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    cv2.imwrite(str(tmp_path / "p.png"), stored)
    plain = load_plate(tmp_path / "p.png", bits_stored=12).pixels
    assert (int(plain.min()), int(plain.max())) == (0, 65535)
    np.testing.assert_allclose(plain, stored.astype(float) * 65535 / 4095, atol=0.5)
    dark = load_plate(tmp_path / "p.png", polarity="dark_void", bits_stored=12).pixels
    assert (dark == 65535 - plain).all() and not dark.flags.writeable
    with pytest.raises(EdgeError, match="does not fit into 11 bits"):
        load_plate(tmp_path / "p.png", bits_stored=11)


# ---- limits --------------------------------------------------------------------------------------------------------


def values(area: float, size: float, gap: float = inf, count: float = 1.0) -> PlateValues:
    return PlateValues({12.7: area}, {12.7: count}, size, gap)


def metric(level: LevelLimits, name: str) -> tuple[float | None, float, float]:
    found = level.metrics[(name, 12.7 if name in ("area_pct", "count") else None)]
    return found.value, found.raw, found.bent


def test_limits_are_a_running_maximum_and_what_bends_too_far_is_dropped() -> None:
    """By hand: 2.0 -> 1.9 bends by 5.26 % and stays; 3.0 -> 2.7 bends by 11.1 % and goes; so does 0."""
    levels = bent_limits({
        1: values(2.0, 3.0), 2: values(1.9, 2.7), 3: values(0.0, 3.0), 4: values(2.5, 3.5),
    })  # fmt: skip
    assert metric(levels[1], "area_pct") == (2.0, 2.0, 0.0)
    assert metric(levels[2], "area_pct") == (2.0, 1.9, pytest.approx(2.0 / 1.9 - 1))
    assert metric(levels[2], "max_size_mm") == (None, 2.7, pytest.approx(3.0 / 2.7 - 1))
    assert metric(levels[3], "area_pct") == (None, 0.0, inf)
    assert metric(levels[4], "area_pct") == (2.5, 2.5, 0.0)
    assert [level for level, one in levels.items() if not one.usable] == [3]
    judged = levels[2].limits
    assert (judged.area_pct, judged.max_size_mm) == ({12.7: 2.0}, None)
    assert levels[2].dropped == (("max_size_mm", None),)


def test_gaps_may_only_shrink() -> None:
    """By hand: 2.0 after 1.9 bends by 5.26 %; a plate without two indications after one with them bends without end."""
    levels = bent_limits({level: values(level, level, gap) for level, gap in enumerate([inf, 1.9, 2.0, 5.0, inf], 1)})
    assert [metric(one, "min_gap_mm")[0] for one in levels.values()] == [inf, 1.9, 1.9, None, None]


def test_an_exact_tenth_is_not_dropped() -> None:
    assert metric(bent_limits({1: values(1.1, 1), 2: values(1.0, 1)})[2], "area_pct")[2] == pytest.approx(0.1)
    assert metric(bent_limits({1: values(1.0999, 1), 2: values(1.0, 1)})[2], "area_pct")[0] == 1.0999
    assert metric(bent_limits({1: values(1.1001, 1), 2: values(1.0, 1)})[2], "area_pct")[0] is None


@pytest.fixture(scope="module")
def demo_set() -> ReferenceSet:
    return load_reference_set(DEMO_SET)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(load(engine_folder("castings-xray")))


def test_a_cache_hit_is_what_a_fresh_measurement_gives(tmp_path: Path, engine: Engine, demo_set: ReferenceSet) -> None:
    def measured(cache: Path | None, **changed: Any) -> limits_module.SetLimits:
        return measure_limits(engine, demo_set, **{"windows_mm": (12.7, 25.4), **changed}, cache=cache)

    fresh, first, again = measured(None), measured(tmp_path), measured(tmp_path)
    assert (fresh.from_cache, first.from_cache, again.from_cache) == (0, 0, 8)
    assert first.levels == fresh.levels and again.levels == fresh.levels
    assert measured(tmp_path, windows_mm=(12.7,)).from_cache == 0
    assert measured(tmp_path, min_indication_mm=0.7).from_cache == 0
    assert measure_limits(None, demo_set, windows_mm=(12.7, 25.4), cache=tmp_path).from_cache == 0


def test_a_spoilt_foreign_or_unwritable_cache_is_no_cache(
    tmp_path: Path, demo_set: ReferenceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hits() -> int:
        return measure_limits(None, demo_set, windows_mm=(12.7,), cache=tmp_path).from_cache

    assert (hits(), hits()) == (0, 8)
    entries = sorted((tmp_path / "limits").iterdir())
    assert len(entries) == 8
    spoilt = json.loads(entries[0].read_text())
    spoilt["values"]["max_size_mm"] *= 2  # a larger limit would let worse parts through
    entries[0].write_text(json.dumps(spoilt))
    entries[1].write_text("{")
    entries[2].chmod(0o666)
    assert hits() == 5
    entries[2].chmod(0o600)
    assert hits() == 8
    (tmp_path / "limits").chmod(0o777)
    assert hits() == 0
    (tmp_path / "limits").chmod(0o700)
    monkeypatch.setattr(limits_module, "_code_version", lambda: "another release")
    assert hits() == 0
    file = tmp_path / "file"
    file.write_text("")
    assert measure_limits(None, demo_set, windows_mm=(12.7,), cache=file).from_cache == 0


def test_masks_stand_in_for_an_engine_only_where_there_are_some(plates: Path) -> None:
    change(plates, lambda one: (one.pop("masks"), one.pop("metrics")))
    for path in plates.glob("*.mask.png"):
        path.unlink()
    found = load_reference_set(plates)
    with pytest.raises(ConfigError, match="no exact masks"):
        measure_limits(None, found, windows_mm=(12.7,))
    with pytest.raises(ConfigError, match="no exact mask of plate 2"):
        found.labels(2)


def test_masks_at_a_coarser_scale_keep_their_area(demo_set: ReferenceSet) -> None:
    fine = measure_limits(None, demo_set, windows_mm=(25.4,)).levels[8].metrics[("area_pct", 25.4)].raw
    coarse = measure_limits(None, demo_set, windows_mm=(25.4,), working_mm_per_px=0.13).levels[8]
    assert coarse.metrics[("area_pct", 25.4)].raw == pytest.approx(fine, rel=0.12)
    assert coarse.metrics[("area_pct", 25.4)].raw <= fine


def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "edge-daemon"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_folder() == tmp_path / "home" / ".cache" / "edge-daemon"
    assert os.environ["HOME"].endswith("home")


def test_scale_in_two_directions(plates: Path) -> None:
    change(plates, lambda one: one.update(mm_per_px=[0.1, 0.12], u_mm_per_px=0.001))
    assert load_reference_set(plates).scale == Scale(0.1, 0.12, 0.001)
