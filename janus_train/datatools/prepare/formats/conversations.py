"""``conversations``: LLaVA's and ShareGPT's JSON, OpenAI's messages, Qwen's and Janus's own form, with or without images."""

from __future__ import annotations

from typing import Any

from janus_train.data.conversations import TALK_IMAGE_FIELDS, UnusableConversation, image_name, images_in_order
from janus_train.datatools.prepare.fields import conversation
from janus_train.datatools.prepare.formats.listed import RecordListFormat


class ConversationsFormat(RecordListFormat):
    """One conversation per record. The record names its images, or its turns do."""

    image_fields = TALK_IMAGE_FIELDS

    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        return [conversation(record, num_images)]

    def named_images(self, record: dict[str, Any]) -> Any:
        images = super().named_images(record)
        images = images if isinstance(images, list) else [] if images in (None, "") else [images]
        try:
            return images_in_order(record, list(map(image_name, images)))
        except UnusableConversation:  # `samples` says why
            return images
