"""Documents of text with images anywhere in it, such as web pages and instructions (WikiHow, OBELICS, MMC4).

    text:  Melt the butter.\\n<image_placeholder>\\nBeat the eggs.\\n<image_placeholder>\\nDone.

    in     **Melt the butter.** image **Beat the eggs.** image **Done.**                              bold: with loss
    out    Melt the butter. **image** Beat the eggs. **image**
    both   **Melt the butter. image** image **Beat the eggs. image** image **Done.**

The two directions of Janus have two encoders, and an image that is drawn has been seen by the generation encoder alone.
So with ``both`` each image comes twice: its codes are learned, and behind them its features stand for what follows, as
they do when the model goes on after an image that it has drawn.
"""

from __future__ import annotations

from janus_train.data.special_tokens import EOS, PLACEHOLDER
from janus_train.data.templates.fields import check_special, check_tags, images_and_codes, string_of
from janus_train.data.templates.registry import register_template
from janus_train.data.types import BadSample, ImageUse, Record, Segment
from janus_train.data.unused import not_used


@register_template(reads="text", can_cut=True, can_drop_prompt=False, images="in")
def interleaved(record: Record, images: ImageUse = "in") -> list[Segment]:
    """Stage 2: text with images at its placeholders; ``images``: looked at, drawn, or both.

    Like all samples of generation, a document whose images are only drawn has no loss on its words; so those after the last
    image are left out.
    """
    texts = _texts(record)
    text_has_loss = images != "out"
    segments: list[Segment] = []
    for words, (image, codes) in zip(texts, images_and_codes(record), strict=False):
        segments.append(Segment("text", words, text_has_loss))
        if images != "in":
            segments.append(Segment("image_out", image=image, codes=codes))
        if images != "out":
            segments.append(Segment("image_in", image=image))
    if text_has_loss:
        segments.append(Segment("text", texts[-1] + EOS, loss=True))
    elif texts[-1].strip():
        not_used("texts after the last image to draw")
    return [segment for segment in segments if segment.role != "text" or segment.text]


def _texts(record: Record) -> list[str]:
    """The texts before, between and after the images; some may be empty."""
    texts = string_of(record, "text").split(PLACEHOLDER)
    num_places, num_images = len(texts) - 1, len(record.images)
    if num_places != num_images:
        raise BadSample(f"{num_places} placeholders but {num_images} images")
    if not num_images:
        raise BadSample("it has no image: text alone is for the template text")
    if not any(words.strip() for words in texts):
        raise BadSample("field 'text' has no words beside the places of its images")
    for words in texts:
        check_special("text", words)
        check_tags("text", words)
    return texts
