"""Text without images."""

from __future__ import annotations

from janus_train.data.special_tokens import EOS
from janus_train.data.templates.fields import text_of
from janus_train.data.templates.registry import register_template
from janus_train.data.types import Record, Segment


@register_template(reads="text", can_cut=True)
def text(record: Record) -> list[Segment]:
    """Plain text, all of it with loss."""
    return [Segment("text", text_of(record, "text") + EOS, loss=True)]
