"""Burnt-out and black places are not inspectable: every record says so, and a recipe may refuse to judge them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_daemon.inspection import Seals, Station, StationZone, document_of
from edge_daemon.judge import Rule, RuleKind, Scale
from edge_daemon.records import Outcome
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.simulator import conveyor_part


@pytest.fixture(scope="module")
def station() -> Station:
    engine = OnnxEngine(load(engine_folder("castings-xray")), threads=1)
    rules = tuple(Rule(name, RuleKind.UNLIMITED) for name in engine.bundle.types)
    return Station(engine, Scale(0.1, 0.1), rules, {}, {}, {}, None, Seals(engine.bundle.sha256))


def burnt_pixels(share: float) -> np.ndarray:
    """A sound part of which the lower rows are burnt out."""
    pixels = np.clip(conveyor_part(3, "sound").pixels, 1, 254).copy()
    pixels[round(512 * (1 - share)) :] = 255
    return pixels


def test_the_record_states_what_could_not_be_seen(station: Station) -> None:
    for share in (0.0, 0.25):
        inspection = station.inspect(burnt_pixels(share))
        document = document_of(station, inspection, record_id="r", image=None, image_sha256=None)
        # the border of the burnt area counts from where half of the pixels around are clipped
        assert document["blind_pct"] == pytest.approx(100 * share, abs=0.5)
        assert inspection.verdict.outcome is Outcome.PASS


def test_a_recipe_may_refuse_a_picture_that_shows_too_little(station: Station) -> None:
    strict = replace(station, max_blind_pct=10.0)
    assert strict.inspect(burnt_pixels(0.05)).verdict.outcome is Outcome.PASS
    refused = strict.inspect(burnt_pixels(0.25)).verdict
    assert refused.outcome is Outcome.NOT_EVALUABLE
    assert [reason.code for reason in refused.reasons] == ["BLIND"]
    assert "25." in refused.reasons[0].text


def test_a_zone_is_asked_for_itself(station: Station) -> None:
    """A quarter of the picture is burnt out: all of one zone and nothing of the other."""

    def zone(name: str, top: float, bottom: float) -> StationZone:
        polygon = ((1.0, top), (50.0, top), (50.0, bottom), (1.0, bottom))
        return StationZone(name, polygon, station.rules, {}, {})

    strict = replace(station, max_blind_pct=10.0, zones=(zone("seal", 1.0, 20.0),))
    assert strict.inspect(burnt_pixels(0.25)).verdict.outcome is Outcome.PASS
    strict = replace(strict, zones=(zone("seal", 1.0, 20.0), zone("foot", 40.0, 50.0)))
    refused = strict.inspect(burnt_pixels(0.25)).verdict
    assert refused.outcome is Outcome.NOT_EVALUABLE
    assert ["zone foot" in reason.text for reason in refused.reasons] == [True]
