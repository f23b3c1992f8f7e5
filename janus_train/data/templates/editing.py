"""Images and what is to be done with them: image editing, from one image or several, in Janus-Pro's request format."""

from __future__ import annotations

from janus_train.data.prompt_format import generation_prompt, with_places
from janus_train.data.special_tokens import EOS, PLACEHOLDER
from janus_train.data.templates.fields import check_special, check_tags, images_and_codes, string_of
from janus_train.data.templates.registry import register_template
from janus_train.data.types import BadSample, Record, Segment


@register_template(reads="instruction", reads_codes=True, can_drop_parts=True)
def editing(record: Record) -> list[Segment]:
    """Stage 3: the user shows images and says what to do with them, the assistant answers with the last of the record's images.

    The images to look at stand at the instruction's placeholders, or before it if it has none, as at inference
    (`LoadedModel.generate`). A record with one image has nothing to look at: its image is drawn from the words alone.
    """
    instruction = string_of(record, "instruction")
    if not record.images:
        raise BadSample("0 images where the template takes the edited one and those before the edit")
    *inputs, (edited, codes) = images_and_codes(record)
    _check(instruction, len(inputs))
    first_text, *later_texts = generation_prompt(with_places(instruction, len(inputs))).split(PLACEHOLDER)
    segments = [Segment("text", first_text)]
    for (image, _), text in zip(inputs, later_texts, strict=True):
        segments += [Segment("image_in", image=image), Segment("text", text)]
    return [*segments, Segment("image_out", image=edited, codes=codes), Segment("text", EOS)]


def _check(instruction: str, num_inputs: int) -> None:
    texts = instruction.split(PLACEHOLDER)
    if len(texts) - 1 > num_inputs:
        raise BadSample(f"{len(texts) - 1} placeholders but {num_inputs} images to look at")
    if not any(words.strip() for words in texts):
        raise BadSample("field 'instruction' has no words beside the places of its images")
    for words in texts:
        check_special("instruction", words)
        check_tags("instruction", words)
