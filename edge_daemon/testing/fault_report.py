"""The table of a fault campaign, from the lines of its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COUNTED = ("wrong", "missing", "doubled", "unproven", "unnoted")

__all__ = ["percentile", "report", "totals"]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _simulated(out: Path) -> dict[str, Any]:
    """The sums of all runs on simulated time."""
    path = out / "simulated.jsonl"
    found: dict[str, Any] = {"faults": {}}
    for line in path.read_text().splitlines() if path.exists() else ():
        run = json.loads(line)
        for name in (name for name in run if name not in ("seed", "faults")):
            found[name] = round(found.get(name, 0) + run[name], 2)
        for name, count in run["faults"].items():
            found["faults"][name] = found["faults"].get(name, 0) + count
    return found if "parts" in found else {}


def totals(out: Path, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all shifts; ``bad``: what must be 0 and is not."""
    shifts = [line for line in lines if line.get("shift")]
    faults = [line for line in lines if "kind" in line]
    names = ("triggers", "let_through", "records", *_COUNTED, "messages_lost", "messages_doubled", "messages_strange",
             "messages_repeated", "pending", "daemon_starts")  # fmt: skip
    found: dict[str, Any] = {name: sum(shift[name] for shift in shifts) for name in names}
    found["faults"] = len(faults)
    found["not_recovered"] = sum(fault["passed_s"] is None for fault in faults)
    found["chain_faults"] = sum(len(shift["chain_faults"]) for shift in shifts)
    simulated = _simulated(out)
    found["bad"] = (
        found["wrong"] + found["missing"] + found["doubled"] + found["messages_lost"] + found["messages_doubled"]
        + found["messages_strange"] + found["not_recovered"] + found["chain_faults"]
        + sum(simulated.get(name, 0) for name in ("wrong", "missing", "doubled"))
    )  # fmt: skip
    return found


def report(out: Path, lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row a kind, then the sums, then the campaign on simulated time."""
    text = ""
    kinds = sorted({line["kind"] for line in lines if "kind" in line})
    if kinds:
        text += (
            "| fault | n | wrong passes | records missing / doubled | unproven | unnoted | Ready again p50 / p99, s | "
            "first pass p50 / p99, s | not recovered |\n|---|---|---|---|---|---|---|---|---|\n"
        )
        for kind in kinds:
            of = [line for line in lines if line.get("kind") == kind]
            back = [line for line in of if line["passed_s"] is not None]
            ready, passed = ([line[name] for line in back] for name in ("ready_s", "passed_s"))
            times = [f"{percentile(v, 0.5):.2f} / {percentile(v, 0.99):.2f}" if v else "-" for v in (ready, passed)]
            count = {
                name: sum(line[name] for line in of) for name in ("wrong", "missing", "doubled", "unproven", "unnoted")
            }
            text += (
                f"| {kind} | {len(of)} | {count['wrong']} | {count['missing']} / {count['doubled']} | "
                f"{count['unproven']} | {count['unnoted']} | {times[0]} | {times[1]} | {len(of) - len(back)} |\n"
            )
        found = totals(out, lines)
        text += (
            f"\n{found['faults']} faults, {found['triggers']} triggers, {found['let_through']} parts let through, "
            f"{found['records']} records, the daemon started {found['daemon_starts']} times. Wrong passes "
            f"{found['wrong']}; records missing {found['missing']}, doubled {found['doubled']}; messages lost "
            f"{found['messages_lost']}, with two contents {found['messages_doubled']}, without a record "
            f"{found['messages_strange']}, delivered again as QoS 1 may {found['messages_repeated']}; not recovered "
            f"{found['not_recovered']}; faults of the audit chain {found['chain_faults']}.\n"
        )
    simulated = _simulated(out)
    if simulated:
        text += "\n" + "; ".join(f"{name} {value}" for name, value in simulated.items() if name != "faults") + "\n"
        text += "faults: " + ", ".join(f"{name} {count}" for name, count in simulated["faults"].items()) + "\n"
    return text
