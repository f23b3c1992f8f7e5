"""Conversations in every published layout, read as turns of user and assistant.

In: a record's fields in LLaVA's or ShareGPT's layout (``from``, ``value``), OpenAI's (``role``, ``content`` as text or as
parts), Qwen's (``<img>PATH</img>`` in the words), Janus's own (``<|User|>``, ``content``, ``images``), or as pairs of
``human`` and ``assistant``. Out: turns in Janus's form, with a placeholder where each image goes, and the images in the
order of their placeholders. ``prepare``, the sources and the template all read conversations here.

What would change the meaning and cannot be read (tools, videos, tags of other models) is refused by name: words are never
trained on in place of what they stand for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, SPECIAL_TOKENS, USER
from janus_train.data.unused import field_reason, not_used

TALK_FIELDS = ("conversations", "messages", "conversation")
"""The fields that hold a conversation; the first that is not empty is read."""
TALK_IMAGE_FIELDS = ("image", "images", "image_path", "img_path", "img")
"""The fields that name a conversation's images; the first that is not empty is read."""
SYSTEM_FIELDS = ("system", "system_prompt")
LOSS_FIELDS = ("loss", "weight", "train", "training")
"""Fields of an assistant's turn that say whether it is learned: true or false, 1 or 0."""
OUTSIDE = "turns before the first question or after the last answer"

_TOOLS, _MEDIA, _PREFERENCES = "tools", "videos and audio", "preferences"
REFUSED_FIELDS = {
    "tools": _TOOLS,
    "functions": _TOOLS,
    "video": _MEDIA,
    "videos": _MEDIA,
    "audio": _MEDIA,
    "audios": _MEDIA,
    "chosen": _PREFERENCES,
    "rejected": _PREFERENCES,
    "rejected_response": _PREFERENCES,
}
_REFUSED_TURN_FIELDS = {
    "tool_calls": _TOOLS,
    "tool_call_id": _TOOLS,
    "function_call": _TOOLS,
    "video": _MEDIA,
    "videos": _MEDIA,
    "audio": _MEDIA,
    "audios": _MEDIA,
    "train_detail": "losses on parts of a turn",
}
_EMPTY: tuple[Any, ...] = (None, "", [], {}, "[]", "{}")
"""Values that say nothing; some data sets write lists as strings."""

_SYSTEM = "system"
_ROLES = {
    "human": USER,
    "user": USER,
    USER.lower(): USER,
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    ASSISTANT.lower(): ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
    "model": ASSISTANT,
    "system": _SYSTEM,
    "developer": _SYSTEM,
}
_TOOL_ROLES = {"tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython"}
_TURN_FIELDS = {"from", "role", "value", "content", "image", "images", "human", "assistant", *LOSS_FIELDS}
_PART_FIELDS = {"type", "text", "image", "image_url", "path", "url", "source", "bytes", "base64"}
_IMAGE_KEYS = ("bytes", "base64", "path", "file_name", "image", "image_url", "url", "source", "data")
"""Where an object names its image, or holds it."""

_IMAGE_TAG = re.compile(
    r"<img>([^<>]+)</img>|<(?:image|image_placeholder|\|vision_start\|><\|image_pad\|><\|vision_end\|)>"
)
"""The tags that are read: an image's name (Qwen-VL), and LLaVA's, Janus's and Qwen2-VL's placeholders."""
_UNREAD_TAG = re.compile(
    r"<(?:/?img|/image|/?ref|/?box|/?quad|video|audio|speech|ImageHere|start_of_image|end_of_image|image_soft_token"
    r"|im_start|im_end|im_patch|image_?\d+|video_?\d+|audio_?\d+|image_start|image_end"
    r"|\|(?:image|video|audio|image_pad|video_pad|audio_pad|vision_pad|vision_start|vision_end|object_ref_start"
    r"|object_ref_end|box_start|box_end|quad_start|quad_end|audio_bos|audio_eos|AUDIO|IMAGE|VIDEO"
    r"|image_\d+|video_\d+|audio_\d+)\|)>|\[IMG\]|data:(?:image|video|audio)/"
)
"""Tags of other models that stand for images, places in them, videos or sound."""
_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS if token != PLACEHOLDER))


class UnusableConversation(ValueError):
    """A conversation that cannot be read. ``reason`` is the same for all with the same fault, ``detail`` is this one's."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Turn:
    """``role``: `USER` or `ASSISTANT`. ``images``: for each placeholder in ``content`` the image's name, or None."""

    role: str
    content: str
    images: tuple[Any, ...] = ()
    loss: bool = True
    """False: the assistant's turn is context, and nothing in it is learned."""

    def fields(self) -> dict[str, Any]:
        """The turn in Janus's form; `read_conversation` reads it back."""
        return {"role": self.role, "content": self.content} | ({} if self.loss else {"loss": False})


def has_conversation(fields: Mapping[str, Any]) -> bool:
    return any(isinstance(fields.get(name), list) for name in TALK_FIELDS)


def read_conversation(fields: Mapping[str, Any], num_images: int, *, repair: bool = False) -> list[Turn]:
    """The turns of a record with ``num_images`` images: they alternate, and the last is the assistant's.

    Raises `UnusableConversation` with the problem. Fields of turns that say nothing of this are counted (`not_used`). A system message goes in front of the user's next words. With ``repair``, answers before the first question and
    questions after the last answer are left out, unless an image belongs to them, and if there is no placeholder at all the
    images go in front of the user's first words.
    """
    unused: Counter[str] = Counter()
    turns = _read(fields, unused)
    if repair:
        turns = _trim(turns, unused)
    _check(turns)
    num_places = sum(len(turn.images) for turn in turns)
    if repair and num_images and not num_places:
        places = f"{PLACEHOLDER}\n" * num_images
        turns[0] = replace(turns[0], content=places + turns[0].content, images=(None,) * num_images)
    elif num_places != num_images:
        raise UnusableConversation(
            "placeholders and images differ in number", f"{num_places} placeholders but {num_images} images"
        )
    for reason, count in unused.items():
        not_used(reason, count)
    return turns


def images_in_order(fields: Mapping[str, Any], images: Sequence[Any]) -> list[Any]:
    """The conversation's images in the order of their placeholders.

    ``images``: those that the record names beside its turns; they go to the placeholders that name none. They may also be
    those that the turns name, once more. Raises `UnusableConversation`.
    """
    places = [image for turn in _read(fields, Counter()) for image in turn.images]
    if not places or list(images) == places:
        return list(images)
    if places.count(None) != len(images):
        raise UnusableConversation(
            "placeholders and images differ in number",
            f"{places.count(None)} placeholders without a name but {len(images)} images beside the turns",
        )
    others = iter(images)
    return [next(others) if place is None else place for place in places]


def image_name(value: Any) -> Any:
    """What an image's value says: a path, an address, base64, or bytes. None if it is none of these."""
    if isinstance(value, dict):
        return next((name for key in _IMAGE_KEYS if (name := image_name(value.get(key))) is not None), None)
    return value if isinstance(value, (str, bytes)) and value else None


def role_of(turn: Mapping[str, Any]) -> str | None:
    """`USER`, `ASSISTANT`, ``system``, or None for another."""
    return _ROLES.get(_role_name(turn))


def is_empty(value: Any) -> bool:
    """Whether a field's value says nothing."""
    return any(type(value) is type(empty) and value == empty for empty in _EMPTY)


def unread_tag(words: str) -> str | None:
    """The first tag in ``words`` that stands for an image, a video or sound in other models; placeholders are such tags too."""
    if "<" not in words and "data:" not in words and "[IMG]" not in words:
        return None
    match = _IMAGE_TAG.search(words) or _UNREAD_TAG.search(words)
    return match[0][:40] if match else None


# -- a record's turns


def _read(fields: Mapping[str, Any], unused: Counter[str]) -> list[Turn]:
    """All turns, with system messages in the user's words."""
    _refuse_fields(fields, REFUSED_FIELDS, "")
    name, values = next(((name, fields[name]) for name in TALK_FIELDS if not is_empty(fields.get(name))), ("", None))
    if not isinstance(values, list):
        raise UnusableConversation(
            "there is no conversation", f"{' or '.join(TALK_FIELDS)} is missing, empty or not a list of turns"
        )
    turns: list[Turn] = []
    for number, value in enumerate(values):
        where = f"turn {number}"
        if not isinstance(value, dict):
            raise UnusableConversation("a turn is not an object", where)
        _refuse_fields(value, _REFUSED_TURN_FIELDS, where)
        unused.update(field_reason(f"{name}.{key}") for key in value.keys() - _TURN_FIELDS if not is_empty(value[key]))
        turns += _turns(value, where, lambda key: unused.update([field_reason(f"{name}.content.{key}")]))
    return _fold_system([*_system_turns(fields), *turns])


def _refuse_fields(values: Mapping[str, Any], refused: dict[str, str], where: str) -> None:
    for name, what in refused.items():
        if name in values and not is_empty(values[name]):
            raise UnusableConversation(f"{what} are not supported (field {name!r})", where)


def _system_turns(fields: Mapping[str, Any]) -> list[Turn]:
    """The system messages that stand beside the turns."""
    values = [value for name in SYSTEM_FIELDS if not is_empty(value := fields.get(name))]
    if not all(isinstance(value, str) for value in values):
        raise UnusableConversation("the system message is not a string")
    return [Turn(_SYSTEM, *_words(value, "the system message")) for value in dict.fromkeys(values)]


def _turns(value: dict[str, Any], where: str, count_unused: Callable[[str], None]) -> list[Turn]:
    """The turn of an object, or the two of a pair."""
    own_images = [value[name] for name in ("image", "images") if not is_empty(value.get(name))]
    if isinstance(value.get("human"), str) and isinstance(value.get("assistant"), str):
        question = Turn(USER, *_place(*_words(value["human"], where), own_images, where))
        return [question, Turn(ASSISTANT, *_words(value["assistant"], where), _loss(value, ASSISTANT, where))]
    role = role_of(value)
    if role is None:
        name = _role_name(value)
        if name.replace("-", "_") in _TOOL_ROLES:
            raise UnusableConversation(f"tools are not supported (role {name!r})", where)
        raise UnusableConversation("a turn's role is unknown", f"{where}: {name[:40]!r}")
    content = value.get("content") if value.get("value") is None else value["value"]
    words, images = _place(*_content(content, where, count_unused), own_images, where)
    return [Turn(role, words, images, _loss(value, role, where))]


def _role_name(turn: Mapping[str, Any]) -> str:
    name = turn.get("role") if turn.get("from") is None else turn["from"]
    return "" if name is None else str(name).strip().lower()


def _place(words: str, places: tuple[Any, ...], values: list[Any], where: str) -> tuple[str, tuple[Any, ...]]:
    """Give the images in the turn's fields to its placeholders; without any they go in front of its words."""
    if not values:
        return words, places
    images = [image for value in values for image in (value if isinstance(value, list) else [value])]
    names = tuple(map(image_name, images))
    if not places:
        return f"{PLACEHOLDER}\n" * len(names) + words, names
    if places != (None,) * len(names):
        raise UnusableConversation("placeholders and images of a turn differ in number", where)
    return words, names


def _loss(turn: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether the turn is learned. Only an assistant's turn can be."""
    losses: dict[str, bool] = {}
    for name in LOSS_FIELDS:
        value = turn.get(name)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise UnusableConversation(f"a turn's {name!r} is neither 0 nor 1", f"{where}: {str(value)[:40]}")
        losses[name] = bool(value)
    if len(set(losses.values())) > 1:
        raise UnusableConversation(f"a turn's {' and '.join(map(repr, losses))} contradict each other", where)
    if role != ASSISTANT and any(losses.values()):
        raise UnusableConversation(
            f"{next(iter(losses))!r} asks for a loss on a turn that is not the assistant's", where
        )
    return all(losses.values())


def _fold_system(turns: list[Turn]) -> list[Turn]:
    """Put the words of system messages in front of the user's next words."""
    folded: list[Turn] = []
    words, images = "", ()
    for turn in turns:
        if turn.role == _SYSTEM:
            words, images = (f"{words}{turn.content}\n\n" if turn.content.strip() else words), images + turn.images
        elif turn.role == USER and words:
            folded.append(replace(turn, content=words + turn.content, images=images + turn.images))
            words, images = "", ()
        else:
            folded.append(turn)
    if words:
        raise UnusableConversation("no question follows a system message")
    return folded


def _trim(turns: list[Turn], unused: Counter[str]) -> list[Turn]:
    """The turns from the first question to the last answer."""
    start = next((number for number, turn in enumerate(turns) if turn.role == USER), len(turns))
    end = next((number for number in reversed(range(len(turns))) if turns[number].role == ASSISTANT), -1)
    outside = turns[:start] + turns[end + 1 :]
    if end > start and any(turn.images for turn in outside):
        raise UnusableConversation("an image belongs to a turn without question or answer")
    if end > start and outside:
        unused[OUTSIDE] += len(outside)
    return turns[start : end + 1]


def _check(turns: list[Turn]) -> None:
    if not any(turn.role == ASSISTANT for turn in turns):
        raise UnusableConversation("there is no answer to learn from")
    for number, turn in enumerate(turns):
        if turn.role != (USER, ASSISTANT)[number % 2]:
            owner = ("user", "assistant")[number % 2]
            raise UnusableConversation("the turns do not alternate", f"turn {number} is not the {owner}'s")
        if not turn.content.strip():
            raise UnusableConversation("a turn is empty", f"turn {number}")
    if len(turns) % 2:
        raise UnusableConversation("the last turn is the user's", "there is nothing to learn from it")
    if not any(turn.loss for turn in turns[1::2]):
        raise UnusableConversation("every answer is without loss", "there is nothing to learn from them")


# -- a turn's words


def _content(content: Any, where: str, count_unused: Callable[[str], None]) -> tuple[str, tuple[Any, ...]]:
    """The words with a placeholder for each image, and the images' names."""
    if isinstance(content, str):
        return _words(content, where)
    if not isinstance(content, list):
        raise UnusableConversation("a turn is not a string", where)
    text, after_image = "", False
    images: list[Any] = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind in ("text", "input_text", "output_text"):
            words, names = _words(part.get("text") if isinstance(part, dict) else part, where)
        elif kind in ("image", "image_url", "input_image"):
            words, names = PLACEHOLDER, (image_name({key: part[key] for key in part if key != "type"}),)
        else:
            raise UnusableConversation(f"parts of type {str(kind)[:40]!r} are not supported", where)
        if isinstance(part, dict):
            for key in part.keys() - _PART_FIELDS:
                if not is_empty(part[key]):
                    count_unused(key)
        is_image = kind not in ("text", "input_text", "output_text")
        # an image is on a line of its own, as in the chat template
        text += ("\n" if number and (is_image or after_image) else "") + words
        images += names
        after_image = is_image
    return text, tuple(images)


def _words(words: Any, where: str) -> tuple[str, tuple[Any, ...]]:
    """A string with every tag of an image replaced by a placeholder, and the images' names."""
    if not isinstance(words, str):
        raise UnusableConversation("a turn is not a string", where)
    if "<" not in words and "data:" not in words and "[IMG]" not in words:
        return words, ()
    names: list[Any] = []
    pieces, end = [], 0
    for match in _IMAGE_TAG.finditer(words):
        pieces += [words[end : match.start()], PLACEHOLDER]
        names.append(match[1].strip() or None if match[1] else None)
        end = match.end()
    pieces.append(words[end:])
    for text in pieces[::2]:
        tag, special = _UNREAD_TAG.search(text), _SPECIAL.search(text)
        if tag:
            raise UnusableConversation(f"a turn has the tag {tag[0]}, which is not supported", where)
        if special:
            raise UnusableConversation(f"a turn contains the special token {special[0]}", where)
    return "".join(pieces), tuple(names)
