"""The templates' environment: it escapes every value, and knows no missing ones."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from janus_train.pages import render as pages


def render_source(source: str, **values: object) -> str:
    return pages._environment.from_string(source).render(values)


def test_values_are_escaped_once() -> None:
    attack = "<b>&\"'\x1b"
    escaped_text = "&lt;b&gt;&amp;&#34;&#39;\\x1b"
    assert render_source("{{ x }}", x=attack) == escaped_text
    macro = "{% macro m(x) %}<i title='{{ x }}'>{{ x }}</i>{% endmacro %}{{ m(x) }}"
    assert render_source(macro, x=attack) == f"<i title='{escaped_text}'>{escaped_text}</i>"
    assert render_source("{{ x | join('·') }}", x=[attack, attack]) == f"{escaped_text}·{escaped_text}"


def test_markup_of_another_template_stays_but_acts_on_nothing() -> None:
    assert render_source("{{ x }}", x=Markup("<b>\u202e\n</b>")) == "<b>\\u202e\n</b>"


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render_source("{{ nobody }}")
    with pytest.raises(UndefinedError):
        render_source("{% if nobody %}{% endif %}")


@pytest.mark.parametrize("name", pages._environment.list_templates())
def test_no_template_turns_escaping_off(name: str) -> None:
    assert pages._environment.loader is not None
    source, _, _ = pages._environment.loader.get_source(pages._environment, name)
    assert not re.search(r"\|\s*safe\b|\bautoescape\b", source)
    pages._environment.get_template(name)
