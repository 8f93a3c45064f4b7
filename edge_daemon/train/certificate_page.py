"""The certificate as certificate.html: one file that needs nothing else and prints on A4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from .certificate_content import (
    INKS,
    PLOT_MM,
    SIGN,
    SOFT,
    TITLE,
    Table,
    curve_points,
    curves_of,
    facts,
    hashes,
    plain,
    plot_at,
    plot_lines,
    plot_words,
    range_mm,
    tables,
)

__all__ = ["certificate_html"]


def certificate_html(claims: dict[str, Any]) -> str:
    """The page as one HTML document without any outside reference; prints on A4."""
    first, annex = tables(claims)
    too_small = claims["too_small"]
    body = [
        f"<header><p class=kind>CERTIFICATE</p><h1>{escape(TITLE)}</h1>"
        f"<p class=engine>{escape(claims['bundle']['name'])} {escape(claims['bundle']['version'])}</p></header>",
        f"<blockquote>{escape(claims['sentence'])}</blockquote>",
        _html_pairs(facts(claims)),
    ]
    if too_small:
        body.append("<h2>Too small to say more</h2>" + _html_list(too_small))
    body += [_html_table(one) for one in first]
    if curves_of(claims):
        body.append(_svg(claims))
    body.append("<h2>Not covered</h2>" + _html_list(claims["not_covered"]))
    body += [f"<section>{_html_table(one)}</section>" for one in annex]
    body.append("<h2>Seals (SHA-256)</h2>" + _html_pairs(hashes(claims), "hash"))
    body.append("<div class=sign>" + "".join(f"<p>{escape(one)}</p>" for one in SIGN) + "</div>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Certificate {escape(claims['bundle']['name'])}</title><style>{_CSS}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


_CSS = """
@page{size:A4;margin:16mm}*{box-sizing:border-box}
body{font:10pt/1.4 "DejaVu Sans",Verdana,sans-serif;color:#141414;max-width:180mm;margin:0 auto;padding:8mm 0}
header{border-bottom:.4mm solid #141414;margin-bottom:5mm}h1{font-size:17pt;margin:0}
.kind{font-size:7pt;letter-spacing:.1em;color:#696969;margin:0}.engine{margin:.5mm 0 2mm}
blockquote{margin:0 0 5mm;padding:3mm 4mm;background:#f4f4f4;border-left:1mm solid #141414;font-size:10.5pt}
h2{font-size:10.5pt;margin:5mm 0 1.5mm}table{border-collapse:collapse;width:100%;font-size:8.5pt}
th,td{text-align:right;padding:.7mm 1.5mm;border-bottom:.1mm solid #dcdcdc;vertical-align:top}
th:first-child,td:first-child,td.why,th.why{text-align:left}thead th{border-bottom:.3mm solid #141414}
tr.default td{font-weight:bold}.note{font-size:7.5pt;color:#696969;margin:1mm 0 0}
dl{display:grid;grid-template-columns:34mm 1fr;font-size:8.5pt;margin:0}dt{color:#696969}dd{margin:0}
.hash dd{font-family:monospace;font-size:7.5pt}ul{margin:0;padding-left:5mm;font-size:8.5pt}
.sign{display:grid;grid-template-columns:2fr 2fr 1fr;gap:8mm;margin-top:18mm}
.sign p{border-top:.2mm solid #141414;font-size:7.5pt;color:#696969;margin:0;padding-top:1mm}
section,table,svg,.sign{break-inside:avoid}svg{width:100%;height:auto;margin-top:3mm}
""".replace("\n", "")


def _html_pairs(pairs: Sequence[tuple[str, str]], style: str = "") -> str:
    inner = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs)
    return f'<div class="{style}"><dl>{inner}</dl></div>'


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        names = ["why" if head == "why not" else "" for head in table.header]
        return "".join(f'<{tag} class="{name}">{escape(one)}</{tag}>' for one, name in zip(cells, names, strict=True))

    columns = "".join(f'<col style="width:{100 * width:g}%">' for width in table.widths)
    rows = "".join(
        f'<tr class="{"default" if index == table.marked else ""}">{row(cells, "td")}</tr>'
        for index, cells in enumerate(table.rows)
    )
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{escape(table.title)}</h2><table><colgroup>{columns}</colgroup><thead><tr>{row(table.header, 'th')}</tr>"
        f"</thead><tbody>{rows}</tbody></table>{note}"
    )


def _svg(claims: dict[str, Any]) -> str:
    """The curves, in tenths of a millimetre."""
    curves, (width, height) = curves_of(claims), PLOT_MM
    low_mm, high_mm = range_mm(curves)
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Probability of detection over size" '
           'font-family="DejaVu Sans,Verdana,sans-serif" font-size="2.6">']  # fmt: skip
    for x1, y1, x2, y2, colour, line_mm in plot_lines(low_mm, high_mm):
        out.append(f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="rgb{colour}" '
                   f'stroke-width="{line_mm}"/>')  # fmt: skip
    for x, y, words, anchor in plot_words(low_mm, high_mm, curves):
        side = {"left": "start", "centre": "middle", "right": "end"}[anchor]
        out.append(f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{side}" fill="#696969">{escape(words)}</text>')
    for number, (group, one) in enumerate(curves):
        ink = f"rgb{INKS.get(group, SOFT)}"
        line = " ".join("{:.2f},{:.2f}".format(*plot_at(x, p, low_mm, high_mm)) for x, p in curve_points(one))
        thick = 0.7 if group == "pooled" else 0.35
        out.append(f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-width="{thick}"/>')
        if one["a90_95_mm"] is not None:
            x, y = plot_at(math.log(one["a90_95_mm"]), 0.9, low_mm, high_mm)
            out.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="0.9" fill="{ink}"/>')
        y = 8.0 + 4.0 * number
        out.append(f'<line x1="143" x2="149" y1="{y - 0.9}" y2="{y - 0.9}" stroke="{ink}" stroke-width="{thick}"/>'
                   f'<text x="151" y="{y}">{escape(plain(group))}</text>')  # fmt: skip
    return "".join(out) + "</svg>"
