"""Which character of a line stands where, when Hebrew and English, digits and signs share it.

The Unicode Bidirectional Algorithm (UAX #9) for one line without explicit embeddings: rules W1, W4 to W7, N0 to N2, I1,
I2, L1, L2. Characters marked as ``isolated`` (identifiers, hashes, quotations) count as left-to-right letters, digits,
blanks and signs included, so a quotation stays in its own order inside a Hebrew sentence.

Not covered: Arabic letters (their shaping and W2, W3), embedding and override characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["mirrored", "visual_order"]

_NEUTRAL = {"B", "S", "WS", "ON", "BN"}
_MIRROR = dict(zip("()[]{}<>«»≤≥‹›", ")(][}{><»«≥≤›‹", strict=True))

_PAIRS = {"(": ")", "[": "]", "{": "}"}


def mirrored(character: str) -> str:
    """The mirror image of a bracket or relation sign; any other character as it is."""
    return _MIRROR.get(character, character)


def visual_order(text: str, isolated: Sequence[bool], *, right_to_left: bool) -> list[tuple[int, bool]]:
    """For each place from left to right: (index into ``text``, whether it is read from right to left there).

    isolated: one flag a character. right_to_left: direction of the paragraph.
    """
    base = 1 if right_to_left else 0
    levels = _levels(text, isolated, base)
    order = list(range(len(text)))
    for level in range(max(levels, default=0), 0, -1):
        start = 0
        while start < len(order):
            if levels[order[start]] < level:
                start += 1
                continue
            end = start
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            order[start:end] = reversed(order[start:end])
            start = end
    return [(index, levels[index] % 2 == 1) for index in order]


def _levels(text: str, isolated: Sequence[bool], base: int) -> list[int]:
    embedding = "R" if base else "L"
    kinds = _weak(text, isolated, embedding)
    _brackets(text, kinds, embedding)
    _neutral(kinds, embedding)
    levels = [base + (1 if (base == 0 and one in ("R", "N")) or (base == 1 and one in ("L", "N")) else 0)
              + (1 if base == 0 and one == "N" else 0) for one in kinds]  # fmt: skip
    end = len(text)
    while end and text[end - 1].isspace() and not isolated[end - 1]:  # L1: blanks at the end of a line
        end -= 1
        levels[end] = base
    return levels


def _weak(text: str, isolated: Sequence[bool], embedding: str) -> list[str]:
    """L, R, N (a number) or " " (neutral) for each character."""
    kinds: list[str] = []
    before = embedding
    for index, character in enumerate(text):
        kind = "L" if isolated[index] else unicodedata.bidirectional(character) or "L"
        if kind == "NSM":  # W1
            kind = before
        kinds.append({"AL": "R", "AN": "EN"}.get(kind, kind))
        before = kinds[-1]
    for index in range(1, len(kinds) - 1):  # W4
        if kinds[index] in ("ES", "CS") and kinds[index - 1] == kinds[index + 1] == "EN":
            kinds[index] = "EN"
    for step in (1, -1):  # W5: signs beside a number belong to it
        order = range(len(kinds)) if step == 1 else range(len(kinds) - 1, -1, -1)
        for index in order:
            if kinds[index] == "ET" and 0 <= index - step < len(kinds) and kinds[index - step] == "EN":
                kinds[index] = "EN"
    strong = embedding
    for index, kind in enumerate(kinds):
        if kind in ("L", "R"):
            strong = kind
        elif kind == "EN":  # W7
            kinds[index] = "L" if strong == "L" else "N"
        elif kind in ("ES", "ET", "CS") or kind in _NEUTRAL:  # W6
            kinds[index] = " "
    return kinds


def _brackets(text: str, kinds: list[str], embedding: str) -> None:
    """N0: both brackets of a pair take the direction of what they hold, where that is clear."""
    open_at: list[tuple[str, int]] = []
    pairs = []
    for index, character in enumerate(text):
        if kinds[index] != " ":
            continue
        if character in _PAIRS:
            open_at.append((_PAIRS[character], index))
        elif character in _PAIRS.values():
            depth = next((d for d in range(len(open_at) - 1, -1, -1) if open_at[d][0] == character), None)
            if depth is not None:
                pairs.append((open_at[depth][1], index))
                del open_at[depth:]
    other = "L" if embedding == "R" else "R"
    for first, last in sorted(pairs):
        inside = {kind.replace("N", "R") for kind in kinds[first + 1 : last]} - {" "}
        if not inside:
            continue
        before = next((kind.replace("N", "R") for kind in reversed(kinds[:first]) if kind != " "), embedding)
        kinds[first] = kinds[last] = other if embedding not in inside and before == other else embedding


def _neutral(kinds: list[str], embedding: str) -> None:
    """N1, N2: between two of one direction neutrals take it, elsewhere that of the paragraph. A number counts as R."""
    start = 0
    while start < len(kinds):
        if kinds[start] != " ":
            start += 1
            continue
        end = start
        while end < len(kinds) and kinds[end] == " ":
            end += 1
        left = embedding if start == 0 else kinds[start - 1].replace("N", "R")
        right = embedding if end == len(kinds) else kinds[end].replace("N", "R")
        kinds[start:end] = [left if left == right else embedding] * (end - start)
        start = end
