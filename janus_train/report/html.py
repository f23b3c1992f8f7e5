"""Small pieces of HTML that several sections use. All text goes through `escape`."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def picture(path: Path, alt: str, css: str = "") -> str:
    """The file inside the page; a box that says so if there is none."""
    if not path.is_file():
        return f'<span class="none {css}">no picture</span>'
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="{css}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def chip(name: str, right: bool) -> str:
    css, mark, spoken = ("yes", "✓", "right") if right else ("no", "✗", "wrong")
    return f'<span class="chip {css}" title="{escape(name)}: {spoken}">{mark} {escape(name)}</span>'


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    if isinstance(value, dict):
        return [
            pair for key, inner in value.items() for pair in flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, str(value))]
