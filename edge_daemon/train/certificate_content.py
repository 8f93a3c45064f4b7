"""What stands on the certificate's page, whatever it is printed on: tables, facts and the geometry of the plot.

Read from the claims alone (``certificate.certify``), so that a page can be printed again from a sealed bundle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "INKS", "PLOT_MM", "SIGN", "SOFT", "TITLE", "Table", "curve_points", "curves_of", "facts", "hashes", "plain",
    "plot_at", "plot_lines", "plot_words", "range_mm", "tables",
]  # fmt: skip

PLOT_MM = (170.0, 55.0)  # mm
INKS = {"pooled": (20, 20, 20), "gas": (0, 95, 140), "shrinkage": (178, 80, 0), "foreign": (95, 60, 140),
         "linear": (0, 120, 70), "other": (120, 120, 120)}  # fmt: skip
SOFT = (105, 105, 105)


@dataclass(frozen=True, slots=True)
class Table:
    """title, note: text above and below. widths: shares of the page. The first column is text, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[float, ...]
    note: str = ""
    marked: int = -1


def _pct(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _floor_pct(value: float) -> str:
    """A lower bound, rounded down to two digits."""
    return f"{math.floor(1e4 * value + 1e-9) / 100:.2f} %"


def _mm(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _rate(calls: Sequence[float] | None) -> str:
    return "not known" if calls is None else f"{calls[0]:.3f} ({calls[1]:.3f} to {calls[2]:.3f})"


def plain(text: str) -> str:
    return text.replace("_", " ")


def tables(claims: dict[str, Any]) -> tuple[list[Table], list[Table]]:
    """(for the first page, for the annex)."""
    percent = f"{100 * claims['confidence']:g} %"
    recall, pixels, calls = claims["part_recall"], claims["pixel_miss"], claims["false_calls"]
    rows = [
        ("Parts: every visible indication marked", str(recall["strict"]["n"]), str(recall["strict"]["missed"]),
         f"≥ {_floor_pct(recall['strict']['lower'])}"),
        ("Parts: at least one indication marked", str(recall["lenient"]["n"]), str(recall["lenient"]["missed"]),
         f"≥ {_floor_pct(recall['lenient']['lower'])}"),
    ]  # fmt: skip
    point = pixels["point"]
    what = f"Pixels missed, at seed {point['seed']:.3g} / grow {point['grow']:.3g}" if point else "Pixels missed"
    rows.append((what, str(pixels["n"]), _pct(point["mean_miss"]) if point else "–",
                 f"≤ {_pct(pixels['alpha'], 1)}" if point else "nothing holds"))  # fmt: skip
    both = claims["combined"]
    held = both["point"] is not None
    what = "Both together (Bonferroni)"
    if held:
        what += f", at seed {both['point']['seed']:.3g} / grow {both['point']['grow']:.3g}"
    rows.append((what, str(recall["strict"]["n"]), "–",
                 f"≥ {_floor_pct(both['part_recall_lower'])} and ≤ {_pct(both['pixel_miss_at_most'], 1)}" if held
                 else "not held"))  # fmt: skip
    notes = [f"Bounds are one-sided, {percent}, each by itself."]
    if point:
        notes.append(f"Marked area over true area at the pixels' point: {point['over_marking']:.2f}.")
    main = Table("What was found (at the bundle's thresholds, or those named)",
                 ("", "n", "missed", f"bound ({percent})"), tuple(rows), (0.52, 0.12, 0.12, 0.24),
                 " ".join(notes))  # fmt: skip
    any_call = calls["parts_with_any"]
    false = Table(
        "False calls on sound parts", ("", "parts", "pictures", "calls", "per picture (95 % interval)"),
        (("At the bundle's thresholds", str(calls["parts"]), str(calls["pictures"]), str(calls["calls"]),
          _rate(calls["per_image"])),),
        (0.30, 0.11, 0.13, 0.11, 0.35),
        "" if any_call is None else
        f"Parts with any: {any_call['k']} of {any_call['n']}, at most {_pct(any_call['upper'])} ({percent}). Variance "
        f"over mean {calls['dispersion']:.2f}; above 1 the interval is widened by it.",
    )  # fmt: skip
    curves = tuple(
        (plain(group), str(one["n"]), str(one["hits"]), _mm(one["a50_mm"]), _mm(one["a90_mm"]), _mm(one["a90_95_mm"]),
         one["reason"] or one["bound_reason"])
        for group, one in claims["pod"].items()
    )  # fmt: skip
    pod = Table("Probability of detection over size, mm",
                 ("", "flaws", "hit", "a50", "a90", "a90/95", "why not"), curves,
                 (0.14, 0.08, 0.08, 0.09, 0.09, 0.1, 0.42),
                 "Logit in ln size, Firth's penalty, bound by likelihood ratio; one indication per part, drawn at "
                 "random; size: largest extent.")  # fmt: skip

    def counted(name: str, one: dict[str, Any]) -> tuple[str, ...]:
        return name, str(one["n"]), str(one["missed"]), _floor_pct(one["lower"]) if one["n"] else "–"

    types = Table("Recall per type", ("", "n", "missed", f"found at least ({percent})"),
                   tuple(counted(plain(name), one) for name, one in claims["types"].items()),
                   (0.46, 0.14, 0.14, 0.26), "One indication per part and type, drawn at random.")  # fmt: skip
    sizes = Table(
        "Recall per size", ("", "n", "missed", f"found at least ({percent})"),
        tuple(counted(f"from {one['from_mm']:g} mm" + ("" if one["to_mm"] is None else f" to {one['to_mm']:g} mm"), one)
              for one in claims["sizes"]),
        (0.46, 0.14, 0.14, 0.26), "One indication per part, drawn at random.",
    )  # fmt: skip
    points = claims["operating_points"]
    operating = Table(
        "Operating points for max-recall mode",
        ("seed", "parts", "missed", f"recall at least ({percent})", "false calls per picture (95 %)"),
        tuple((f"{one['seed']:.4f}" + (" (default)" if one["default"] else ""), str(one["parts"]), str(one["missed"]),
               _floor_pct(one["recall_lower"]) if one["parts"] else "–", _rate(one["false_calls_per_image"]))
              for one in points),
        (0.2, 0.1, 0.12, 0.26, 0.32),
        "Tested from the most sensitive point down (fixed sequence), strict reading: the recall wanted is to be chosen "
        "before this table is read. Grow and least size as in the bundle.",
        marked=next((index for index, one in enumerate(points) if one["default"]), -1),
    )  # fmt: skip
    return [main, false, *([pod] if curves else [])], [types, *([sizes] if claims["sizes"] else []), operating]


def facts(claims: dict[str, Any]) -> list[tuple[str, str]]:
    made, bundle = claims["calibration_set"], claims["bundle"]
    return [
        ("Engine", f"{bundle['name']} {bundle['version']}, {claims['backend']}"),
        ("Calibration set", f"{made['name']}: {made['parts']:,} parts, {made['pictures']:,} pictures"
         + (" (simulated)" if made["kind"] == "simulated" else "")),
        ("of these", f"{made['defective']:,} with a visible indication, {made['sound']:,} sound, "
         f"{made['nothing_visible']:,} with nothing visible, {made['refused_by_the_image_gate']:,} refused unseen"),
        ("Found", claims["found"]),
        ("Date", claims["certified_utc"]),
        ("Machine", f"{claims['machine']}; {claims['software']}"),
    ]  # fmt: skip


def hashes(claims: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Model", claims["bundle"]["model_sha256"]),
        ("Thresholds", claims["bundle"]["thresholds_sha256"]),
        ("Calibration set", claims["calibration_set"]["sha256"]),
    ]


def curves_of(claims: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(group, one) for group, one in claims["pod"].items() if one["b0"] is not None and not one["reason"]]


def range_mm(curves: Sequence[tuple[str, dict[str, Any]]]) -> tuple[float, float]:
    return min(one["smallest_mm"] for _, one in curves), max(one["largest_mm"] for _, one in curves)


def curve_points(one: dict[str, Any]) -> list[tuple[float, float]]:
    """(ln size, POD) over the sizes that were tried."""
    low, high = math.log(one["smallest_mm"]), math.log(one["largest_mm"])
    sizes = [low + (high - low) * step / 60 for step in range(61)]
    return [(x, 1.0 / (1.0 + math.exp(-(one["b0"] + one["b1"] * x)))) for x in sizes]


def _ticks(low_mm: float, high_mm: float) -> list[float]:
    all_mm = [base * 10.0**power for power in range(-3, 4) for base in (1.0, 2.0, 5.0)]
    return [one for one in all_mm if low_mm <= one <= high_mm]


SIGN = ("Level III, name and number", "Signature", "Date")
TITLE = "Certificate of what an engine finds"


# ---------------------------------------------------------------- the plot, in mm from its upper left corner

_LEFT, _RIGHT, _TOP, _BOTTOM = 14.0, 138.0, 4.0, 44.0


def plot_at(ln_mm: float, pod: float, low_mm: float, high_mm: float) -> tuple[float, float]:
    share = (ln_mm - math.log(low_mm)) / (math.log(high_mm) - math.log(low_mm))
    return _LEFT + share * (_RIGHT - _LEFT), _BOTTOM - pod * (_BOTTOM - _TOP)


def plot_lines(low_mm: float, high_mm: float) -> list[tuple[float, float, float, float, tuple[int, int, int], float]]:
    """Axes and grid: x1, y1, x2, y2, colour, width."""
    lines = []
    for pod in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        _, y = plot_at(math.log(low_mm), pod, low_mm, high_mm)
        lines.append((_LEFT, y, _RIGHT, y, SOFT if pod in (0.0, 0.9) else (225, 225, 225), 0.2))
    for size_mm in _ticks(low_mm, high_mm):
        x, _ = plot_at(math.log(size_mm), 0.0, low_mm, high_mm)
        lines.append((x, _TOP, x, _BOTTOM, (225, 225, 225), 0.15))
    return lines


def plot_words(
    low_mm: float, high_mm: float, curves: Sequence[tuple[str, dict[str, Any]]]
) -> list[tuple[float, float, str, Any]]:
    """Labels of the axes: x, y, words, anchor."""
    words: list[tuple[float, float, str, Any]] = []
    for pod in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        _, y = plot_at(math.log(low_mm), pod, low_mm, high_mm)
        words.append((_LEFT - 1.5, y + 0.9, f"{pod:g}", "right"))
    for size_mm in _ticks(low_mm, high_mm):
        x, _ = plot_at(math.log(size_mm), 0.0, low_mm, high_mm)
        words.append((x, _BOTTOM + 4.0, f"{size_mm:g}", "centre"))
    words.append(((_LEFT + _RIGHT) / 2, _BOTTOM + 9.0, "largest extent of the indication, mm", "centre"))
    if any(one["a90_95_mm"] is not None for _, one in curves):
        words.append((143.0, _BOTTOM, "dot: a90/95", "left"))
    return words
