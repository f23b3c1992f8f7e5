"""``conversations``: LLaVA's JSON, ShareGPT's, OpenAI's messages and Janus's own form, with images or without."""

from __future__ import annotations

from typing import Any

from janus_train.datatools.prepare.fields import TALK_FIELDS, conversation
from janus_train.datatools.prepare.formats.listed import RecordListFormat
from janus_train.datatools.prepare.turns import images_named


class ConversationsFormat(RecordListFormat):
    """A record a conversation. Its images are named by the record or, in Janus's form, by single turns."""

    image_fields = ("image", "images", "image_path", "img_path", "img")

    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        return [conversation(record, num_images)]

    def named_images(self, record: dict[str, Any]) -> Any:
        named = super().named_images(record)
        if named or self.options.image_field is not None:
            return named
        return [path for field in TALK_FIELDS for path in images_named(record.get(field))]
