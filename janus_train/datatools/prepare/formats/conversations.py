"""``conversations``: LLaVA's and ShareGPT's JSON, OpenAI's messages and Janus's own form, with or without images."""

from __future__ import annotations

from typing import Any

from janus_train.datatools.prepare.fields import TALK_FIELDS, conversation
from janus_train.datatools.prepare.formats.listed import RecordListFormat
from janus_train.datatools.prepare.turns import images_of_turns


class ConversationsFormat(RecordListFormat):
    """One conversation per record. The record names its images or, in Janus's form, its turns do."""

    image_fields = ("image", "images", "image_path", "img_path", "img")

    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        return [conversation(record, num_images)]

    def named_images(self, record: dict[str, Any]) -> Any:
        images = super().named_images(record)
        if images or self.options.image_field is not None:
            return images
        return [path for field in TALK_FIELDS for path in images_of_turns(record.get(field))]
