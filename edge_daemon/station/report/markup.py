"""The reports' HTML as a tree: the one template is read back, so that page and paper say the same words.

Only the few elements that the reports use are known. One that is not is an error, never something left out: a report
must not lose a sentence on its way to paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

from ...errors import EdgeError

__all__ = ["INLINE", "Node", "parse"]

BLOCKS = frozenset(
    {"html", "body", "main", "header", "footer", "section", "div", "h1", "h2", "h3", "p", "ul", "ol", "li", "figure",
     "figcaption", "img", "table", "colgroup", "col", "thead", "tbody", "tr", "th", "td", "svg", "rect", "line",
     "polyline", "circle", "text", "title"}
)  # fmt: skip
INLINE = frozenset({"b", "strong", "small", "code", "span", "bdi", "br"})
_SKIPPED = frozenset({"head", "style"})
_VOID = frozenset({"img", "col", "br", "meta", "link", "rect", "line", "polyline", "circle"})


@dataclass(slots=True)
class Node:
    """One element. children: nodes and texts in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def classes(self) -> frozenset[str]:
        """The words of its class."""
        return frozenset(self.attributes.get("class", "").split())

    @property
    def nodes(self) -> Iterator[Node]:
        """Its children that are elements."""
        return (one for one in self.children if isinstance(one, Node))

    def find(self, tag: str) -> Node | None:
        """The first element of that name inside it, itself included."""
        if self.tag == tag:
            return self
        return next((found for one in self.nodes if (found := one.find(tag)) is not None), None)

    def words(self) -> str:
        """All its text, blanks joined."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for one in self.children:
            if isinstance(one, str):
                yield one
            else:
                yield from one._texts()
                yield " " if one.tag in BLOCKS or one.tag == "br" else ""


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("document")
        self._open = [self.root]
        self._skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping += 1
        if self._skipping:
            return
        if tag not in BLOCKS and tag not in INLINE:
            raise EdgeError(f"<{tag}> in a report's template cannot be printed")
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in _VOID:
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipping -= 1
            return
        if self._skipping or tag in _VOID:
            return
        node = self._open.pop()
        if node.tag != tag:
            raise EdgeError(f"</{tag}> in a report's template closes <{node.tag}>")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self._open[-1].children.append(data)


def parse(html: str) -> Node:
    """The ``<html>`` element. Raises EdgeError for an element that is not known or not closed."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    found = builder.root.find("html")
    if found is None:
        raise EdgeError("a report's template has no <html>")
    return found
