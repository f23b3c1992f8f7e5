"""The templates' environment: it escapes every value, and knows no missing ones."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from janus_train.pages import render as pages


def rendered(source: str, **values: object) -> str:
    return pages._environment.from_string(source).render(values)


def test_values_are_escaped_once() -> None:
    attack = "<b>&\"'\x1b"
    shown = "&lt;b&gt;&amp;&#34;&#39;\\x1b"
    assert rendered("{{ x }}", x=attack) == shown
    macro = "{% macro m(x) %}<i title='{{ x }}'>{{ x }}</i>{% endmacro %}{{ m(x) }}"
    assert rendered(macro, x=attack) == f"<i title='{shown}'>{shown}</i>"
    assert rendered("{{ x | join('·') }}", x=[attack, attack]) == f"{shown}·{shown}"


def test_markup_of_another_template_stays_but_acts_on_nothing() -> None:
    assert rendered("{{ x }}", x=Markup("<b>\u202e\n</b>")) == "<b>\\u202e\n</b>"


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        rendered("{{ nobody }}")
    with pytest.raises(UndefinedError):
        rendered("{% if nobody %}{% endif %}")


@pytest.mark.parametrize("name", pages._environment.list_templates())
def test_no_template_turns_escaping_off(name: str) -> None:
    assert pages._environment.loader is not None
    source, _, _ = pages._environment.loader.get_source(pages._environment, name)
    assert not re.search(r"\|\s*safe\b|\bautoescape\b", source)
    pages._environment.get_template(name)
