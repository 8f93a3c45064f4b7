"""The few shapes of SVG that the reports' charts use, drawn on paper as the browser draws them on the screen."""

from __future__ import annotations

from typing import Any

from reportlab.platypus import Flowable

from ...errors import EdgeError
from .markup import Node
from .text import Run, Text

__all__ = ["Drawn"]


def _rgb(code: str) -> tuple[float, float, float]:
    code = code.lstrip("#")
    return int(code[:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:], 16) / 255


class Drawn(Flowable):  # type: ignore[misc]  # reportlab has no types
    """An <svg> with a viewBox, as wide as its column. Colours are #rrggbb; text-anchor and font-size are known."""

    def __init__(self, node: Node, width: float) -> None:
        super().__init__()
        _, _, across, down = (float(one) for one in node.attributes["viewbox"].split())
        self._node, self._zoom = node, width / across
        self.width, self.height = width, down * self._zoom

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:  # noqa: N803 - reportlab's names
        return self.width, self.height

    def draw(self) -> None:
        for one in self._node.nodes:
            if one.tag == "title":
                continue
            make = getattr(self, f"_{one.tag}", None)
            if make is None:
                raise EdgeError(f"<{one.tag}> in a chart cannot be printed")
            make(one)

    def _number(self, node: Node, name: str, default: float = 0.0) -> float:
        return float(node.attributes.get(name, default)) * self._zoom

    def _look(self, node: Node) -> dict[str, Any]:
        fill, stroke = node.attributes.get("fill", "none"), node.attributes.get("stroke", "none")
        if fill != "none":
            self.canv.setFillColorRGB(*_rgb(fill))
        if stroke != "none":
            self.canv.setStrokeColorRGB(*_rgb(stroke))
            self.canv.setLineWidth(self._number(node, "stroke-width", 1.0))
            dash = node.attributes.get("stroke-dasharray", "")
            self.canv.setDash([float(one) * self._zoom for one in dash.split()] if dash else [])
        return {"fill": int(fill != "none"), "stroke": int(stroke != "none")}

    def _rect(self, node: Node) -> None:
        look = self._look(node)
        height = self._number(node, "height")
        self.canv.rect(
            self._number(node, "x"), self.height - self._number(node, "y") - height, self._number(node, "width"),
            height, **look,
        )  # fmt: skip

    def _line(self, node: Node) -> None:
        self._look(node)
        x1, y1, x2, y2 = (self._number(node, name) for name in ("x1", "y1", "x2", "y2"))
        self.canv.line(x1, self.height - y1, x2, self.height - y2)

    def _polyline(self, node: Node) -> None:
        self._look(node)
        pairs = [[float(one) * self._zoom for one in pair.split(",")] for pair in node.attributes["points"].split()]
        path = self.canv.beginPath()
        for index, (x, y) in enumerate(pairs):
            (path.lineTo if index else path.moveTo)(x, self.height - y)
        self.canv.drawPath(path, stroke=1, fill=0)

    def _circle(self, node: Node) -> None:
        look = self._look(node)
        self.canv.circle(
            self._number(node, "cx"), self.height - self._number(node, "cy"), self._number(node, "r"), **look
        )

    def _text(self, node: Node) -> None:
        size = self._number(node, "font-size", 10.0)
        colour = _rgb(node.attributes.get("fill", "#14181f"))
        run = Run(node.words(), size, node.attributes.get("font-weight") == "600", colour)
        anchor = node.attributes.get("text-anchor", "start")
        text = Text([run], align={"start": "start", "middle": "centre", "end": "end"}[anchor])
        room = text.natural_width + 1.0
        text.wrap(room, size * 2)
        left = self._number(node, "x") - {"start": 0.0, "middle": room / 2, "end": room}[anchor]
        # The base line of Text lies (leading - 1) / 2 + 0.16 sizes above its lower edge.
        text.drawOn(self.canv, left, self.height - self._number(node, "y") - 0.32 * size)
