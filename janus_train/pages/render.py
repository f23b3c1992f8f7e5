"""The Jinja2 environment of all pages (report, plan, inspect): values in, HTML out.

Python builds plain values, the templates beside this module write the markup. Every value is escaped; control and
bidirectional characters of data are shown as escapes. A name that a template does not find is an error.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from janus_train.text import printable

_LAYOUT = "\n\t"
"""Kept as they are: pages show texts of several lines."""


def _finalize(value: Any) -> Any:
    """Applied to whatever a template prints, before it is escaped."""
    if isinstance(value, Markup):  # of a macro or another template: its escapes must stay what they are
        return Markup(printable(value, _LAYOUT))
    return printable(str(value), _LAYOUT)


_environment = Environment(
    loader=PackageLoader("janus_train.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """The HTML that ``template`` (a name in ``templates/``) makes of ``values``."""
    return _environment.get_template(template).render(values)


def render_fragment(template: str, **values: Any) -> Markup:
    """A part of a page as a value for another template, which takes it as it is."""
    return Markup(render(template, **values))
