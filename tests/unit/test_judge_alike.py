"""Types that cannot be told apart are judged together: a mark of one may be any of them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_daemon.judge import Rule, RuleKind, Scale, judge, measure
from edge_daemon.records import Outcome

NAMES = ("gas_hole", "crack", "foreign_less_dense")
ALIKE = (("gas_hole", "foreign_less_dense"),)
SCALE = Scale(0.1, 0.1)


def labels() -> np.ndarray:
    """3 x 3 px called a hole and 4 x 4 px called less dense, 10 px apart; a crack of 6 px."""
    picture = np.zeros((60, 60), np.uint8)
    picture[10:13, 10:13], picture[10:14, 23:27], picture[40, 10:16] = 1, 3, 2
    return picture


def test_each_member_is_measured_over_the_whole_group() -> None:
    windows = {"gas_hole": (3.0,), "foreign_less_dense": (3.0,), "crack": (3.0,)}
    alone = measure(labels(), None, NAMES, SCALE, windows)
    together = measure(labels(), None, NAMES, SCALE, windows, alike=ALIKE)
    assert alone.types["gas_hole"].area_mm2.value == pytest.approx(0.09)
    assert alone.types["foreign_less_dense"].area_mm2.value == pytest.approx(0.16)
    for name in ALIKE[0]:
        assert together.types[name].area_mm2.value == pytest.approx(0.25)
        assert len(together.types[name].indications) == 2
        # a 30 px window holds both: 25 of 900 px
        assert together.types[name].windows[0].area_pct.value == pytest.approx(100 * 25 / 900)
    assert together.types["crack"] == alone.types["crack"]
    # the order of the labels, and every type under its own label
    assert [(one.type, one.label) for one in together.types.values()] == [
        ("gas_hole", 1), ("crack", 2), ("foreign_less_dense", 3),
    ]  # fmt: skip


def test_a_rule_for_a_member_that_nothing_was_called_still_sees_the_marks() -> None:
    picture = labels()
    picture[picture == 1] = 0
    windows = {"gas_hole": (3.0,)}
    assert "gas_hole" not in measure(picture, None, NAMES, SCALE, windows).types
    found = measure(picture, None, NAMES, SCALE, windows, alike=ALIKE)
    assert found.types["gas_hole"].area_mm2.value == pytest.approx(0.16)
    # what has no rule keeps its own marks only, and stays visible as found
    assert found.types["foreign_less_dense"].area_mm2.value == pytest.approx(0.16)
    assert "gas_hole" not in measure(picture, None, NAMES, SCALE, {}, alike=ALIKE).types


def test_a_part_that_would_pass_under_the_name_given_fails_under_the_stricter_one() -> None:
    """The mark is called less dense, of which much is allowed; it may be a gas hole, of which nothing is."""
    picture = labels()
    picture[picture != 3] = 0
    rules = (Rule("gas_hole", RuleKind.NONE_PERMITTED), Rule("foreign_less_dense", RuleKind.SIZE_MM, limit=9.0))
    windows = {rule.type: rule.windows_mm for rule in rules}
    named = judge(measure(picture, None, NAMES, SCALE, windows), rules, {})
    grouped = judge(measure(picture, None, NAMES, SCALE, windows, alike=ALIKE), rules, {})
    assert named.outcome is Outcome.PASS
    assert grouped.outcome is Outcome.FAIL
