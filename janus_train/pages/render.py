"""Renders pages (report, plan, inspect) with Jinja2: values in, HTML out.

Python builds plain values; the templates beside this module write the markup. Every value is escaped; control and
bidirectional characters of data are shown as escapes. A name without a value is an error.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from janus_train.text import printable

_LAYOUT = "\n\t"
"""Characters that are not escaped: pages show texts of several lines."""


def _finalize(value: Any) -> Any:
    """Makes a value printable; Jinja2 calls it before it escapes the value."""
    if isinstance(value, Markup):  # from a macro or another template: its escapes must stay unchanged
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
    """Renders ``template`` (a name in ``templates/``) with ``values`` as HTML."""
    return _environment.get_template(template).render(values)


def render_fragment(template: str, **values: Any) -> Markup:
    """Renders a part of a page as a value that another template does not escape again."""
    return Markup(render(template, **values))
