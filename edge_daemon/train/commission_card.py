"""What a commissioning says about itself, for people: the before/after table and the bundle's card."""

from __future__ import annotations

from typing import Any

__all__ = ["card", "table"]


def table(report: dict[str, Any]) -> str:
    """The before/after table with everything that was screened, as Markdown that reads as plain text too."""
    before, after = report["before"], report["after"]
    held, learned = len(report["frames"]["held_out"]), len(report["frames"]["learned"])
    lines = [
        "# Before and after", "",
        f"{report['frames']['given']} frames given, {len(report['screened'])} screened out, {learned} learned from, "
        f"{held} held out; {after['planted_pictures']} pictures with simulated discontinuities on the held-out frames.",
        "Both engines at the seed threshold that the same rule set on the same held-out frames "
        f"(at most {report['false_alarms_wanted']:g} false alarms a good frame wanted).", "",
        "| | before | after |", "|---|---|---|",
        f"| missed, of the visible | {_cell(before['missed'])} | {_cell(after['missed'])} |",
        f"| false alarms on good held-out frames | {_alarms(before)} | {_alarms(after)} |",
        f"| seed threshold | {before['seed']:g} | {after['seed']:g} |",
    ]  # fmt: skip
    shipped = before["as_shipped"]
    if shipped is not None:
        lines.append(f"| the base at its own threshold {shipped['seed']:g} | missed {_cell(shipped['missed'])}; "
                     f"false alarms {_alarms(shipped)} | |")  # fmt: skip
    for title, key in (("type", "by_type"), ("diameter, px", "by_size_px")):
        lines += ["", f"| missed, by {title} | before | after |", "|---|---|---|"]
        lines += [
            f"| {name} | {_cell(before[key][name]) if name in before[key] else 'none seen'} | {_cell(figures)} |"
            for name, figures in after[key].items()
        ]
    lines += [
        "",
        f"False alarms on this line: with 95 % confidence at most {report['false_alarms_upper95']:g} a picture. That "
        f"is what {held} held-out frames can show, however low the true rate; thresholds were set on these frames, so "
        "count alarms on the line for a truer figure.",
    ]
    if report["screened"]:
        lines += ["", "## Not learned", ""]
        lines += [f"- `{one['frame']}`: {one['reason']}{_where(one)}" for one in report["screened"]]
    if report["kept_by_a_person"]:
        lines += ["", f"Learned because a person insisted: {', '.join(report['kept_by_a_person'])}."]
    if report["seen_in_many_frames"]:
        lines += ["", "## Look at these", "",
                  "The base engine sees something in the same place of many frames. It is learned as normal; make sure "
                  "that it is no defect that all these parts have."]  # fmt: skip
        lines += [f"- {_box(one['box_px'])}, in {one['frames']} frames" for one in report["seen_in_many_frames"]]
    return "\n".join(lines) + "\n"


def _cell(figures: dict[str, Any]) -> str:
    if not figures["n"]:
        return "none seen"
    low, high = figures["ci95"]
    return f"{figures['k']}/{figures['n']} = {100 * figures['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _alarms(figures: dict[str, Any]) -> str:
    alarms = figures["false_alarms"]
    low, high = alarms["ci95"]
    return f"{alarms['n']} on {alarms['pictures']} = {alarms['per_picture']:g} a picture ({low:.3f} to {high:.3f})"


def _where(one: dict[str, Any]) -> str:
    return "" if one["box_px"] is None else f" ({one['strength']:g} standard deviations, {_box(one['box_px'])})"


def _box(box: list[int]) -> str:
    x, y, width, height = box
    return f"x {x}, y {y}, {width} x {height} px"


def card(name: str, report: dict[str, Any]) -> str:
    """``card.md`` of a commissioned bundle."""
    base = report["base"]
    return f"""# {name}

`{base["name"]}` (SHA-256 {base["sha256"]}), commissioned for one part under one camera from
{len(report["frames"]["learned"])} good frames in {report["minutes"]:g} minutes on {report["machine"]}.
Use it for this part and this camera only. To roll back, name `{base["name"]}` in the recipe again: it was not touched.

{table(report)}
## How to read this

Truth: simulated discontinuities, superimposed on frames the network never learned from, I' = I exp(contrast) with
contrasts from 1.5 % to 60 %; visible means an integrated signal-to-noise of at least 10 and a change of at least 4 of
255 grey levels. Missed: less than a quarter of an indication's visible pixels marked. In brackets: 95 % intervals,
Clopper-Pearson for shares, Poisson for rates, as if all pictures were independent; many of them show the same
{len(report["frames"]["held_out"])} frames, so the truth may lie further out.

## Not covered

Real defects: nobody had any. Other parts, poses, cameras and exposures than these frames show. What most of the good
frames have in common was learned as normal, defect or not. Known scores for "unknown" come from planted discontinuities
on the held-out frames. Everything that the base's own card does not cover.
"""
