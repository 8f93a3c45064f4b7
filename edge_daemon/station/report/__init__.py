"""The report of one part: HTML and PDF from a stored record and its pictures, the same bytes every time.

    report = report_of(document, pixels=frame, labels=labels, drawn=evidence(...))
    report.html()              # one file, pictures inside
    report.pdf(paper="a4")

One template (templates/report.html) says everything; ``paper.py`` prints that very HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ...errors import UsageError
from ..templating import template
from ..words import Words
from .content import report_content
from .figures import Figure, figures_of

__all__ = ["PAPER_NAMES", "Report", "report_of"]

#: Papers a report can be printed on.
PAPER_NAMES = ("a4", "letter")


@dataclass(frozen=True, slots=True)
class Report:
    """What a template needs, kept until somebody asks for a form of it. figures: by name; title: for the file."""

    template: str
    content: Mapping[str, Any] = field(repr=False)
    figures: Mapping[str, Figure] = field(repr=False)
    words: Words
    title: str

    def html(self) -> str:
        """One HTML file with its pictures inside; asks nothing of any server."""
        return self._rendered(lambda name: _data_uri(self.figures[name]))

    def pdf(self, paper: str = "a4") -> bytes:
        """The same on paper: ``a4`` or ``letter``. Raises UsageError for another one."""
        from .paper import pdf_of

        if paper not in PAPER_NAMES:
            raise UsageError(f"there is no paper {paper!r}", hint="one of: " + ", ".join(PAPER_NAMES))
        html = self._rendered(lambda name: name)
        return pdf_of(html, {name: one.data for name, one in self.figures.items()}, paper=paper, title=self.title)

    def _rendered(self, src: Any) -> str:
        style = (files("edge_daemon.station") / "templates" / "report.css").read_text(encoding="utf-8")
        return template(self.template).render(**self.content, t=self.words, src=src, style=Markup(style))  # noqa: S704


def _data_uri(figure: Figure) -> str:
    return f"data:{figure.media_type};base64,{base64.b64encode(figure.data).decode()}"


def report_of(
    document: Mapping[str, Any],
    *,
    pixels: NDArray[Any] | None = None,
    labels: NDArray[np.uint8] | None = None,
    drawn: Mapping[str, NDArray[np.uint8]] | None = None,
    words: Words | None = None,
) -> Report:
    """The report of one record.

    document: the record (``inspect --json``, or what the line stored). pixels, labels: its frame and label image, as
    kept; drawn: the pictures of ``evidence.evidence``. What is not given is not shown, and the report says so.
    """
    spoken = words or Words()
    figures = figures_of(pixels, labels, document, drawn)
    content = report_content(document, figures, spoken)
    return Report("report.html", content, figures, spoken, f"{content['title']} {document['record_id']}")
