"""Surface engines trained alike but for their seed, side by side: how much of a figure is luck.

    edge-daemon train fit --on DIR --split train --test-split test --out work1 --seed 1 ...      # and 2, and 3
    python -m edge_daemon.testing.seed_table work1/NAME work2/NAME work3/NAME

Prints a table in Markdown of what each bundle's certificate says: a row for each figure, a column for each engine, the
mean, and the worst of them. Figures of different pictures are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EdgeError, UsageError
from ..segment.bundle import Bundle, load

__all__ = ["main", "seed_table"]


def seed_table(bundles: Sequence[Bundle]) -> str:
    """The table. Raises UsageError where the figures are not of the same pictures, or a bundle holds none."""
    documents = [dict(one.certificate) for one in bundles]
    of = {(document.get("pictures"), document.get("parts"), document.get("what")) for document in documents}
    if len(of) != 1 or None in next(iter(of)) or len({one.types for one in bundles}) != 1:
        raise UsageError(
            "these bundles were not measured on the same pictures", hint="train all with the same --on and --test-split"
        )
    ((pictures, parts, what),) = of
    rows = [_row(name, [_at(document, path) for document in documents]) for name, path in _figures(bundles[0].types)]
    heads = [f"seed {document.get('seed')}, {document.get('steps')} steps" for document in documents]
    return "\n".join([
        f"{what}: {pictures} pictures of {parts} parts.", "",
        f"| figure | {' | '.join(heads)} | mean | worst |",
        "|---" * (len(heads) + 3) + "|",
        *(row for row in rows if row),
    ])  # fmt: skip


def _figures(types: Sequence[str]) -> list[tuple[str, tuple[str | int, ...]]]:
    return [
        *((f"IoU, {name}", ("types", name, "iou")) for name in types),
        ("IoU, mean of types with masks", ("type_iou_mean",)),
        ("IoU, defect or not", ("defect_iou",)),
        ("type of the whole picture right", ("picture_type", "value")),
        *((f"type of the whole picture right, {name}", ("picture_type", "by_class", name)) for name in types),
        *((f"indications found, {name}", ("types", name, "found", "value")) for name in types),
        ("coloured pixels inside boxes, mean of classes", ("coloured_inside_boxes", "mean")),
    ]


def _at(document: Mapping[str, Any], path: Sequence[str | int]) -> float | None:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _row(name: str, values: Sequence[float | None]) -> str:
    """Empty where a figure is missing; an overlap of 0 stands for a type whose masks nobody drew."""
    present = [value for value in values if value]
    if len(present) != len(values):
        return ""
    cells = [f"{value:.3f}" for value in (*present, sum(present) / len(present), min(present))]
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 2 where there is none."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.seed_table", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    try:
        print(seed_table([load(path) for path in parser.parse_args(arguments).bundles]))  # noqa: T201
    except EdgeError as error:
        print(f"seed_table: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
