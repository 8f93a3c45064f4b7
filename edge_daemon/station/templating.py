"""The templates of this room: escaped by default, and a name that is used but not given is an error."""

from __future__ import annotations

from functools import cache

import jinja2

__all__ = ["template"]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("edge_daemon.station"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def template(name: str) -> jinja2.Template:
    """One template by its file name."""
    return _environment().get_template(name)
