"""The bodies of requests: OpenAI's fields, as far as a Janus model has a use for them.

A field that would change the result and is not implemented is refused unless its value asks for nothing; one that changes
nothing here is accepted. Nothing that a client asks for is dropped in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from janus_train.infer.limits import MAX_IMAGES
from janus_train.serve.errors import ApiError

MAX_SEED = 2**62
MAX_STOPS, MAX_STOP_CHARS = 4, 200
_EMPTY: tuple[Any, ...] = (None, [], {}, False, "")
_HARMLESS = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})
"""Fields for the one who runs a service; they change no result."""


class Body(BaseModel):
    """Strict fields; ``model_extra`` has passed `_check_extra`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    harmless: ClassVar[frozenset[str]] = frozenset()
    """Further fields that change no result."""
    asks_for_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields that are not implemented, with the values that would change nothing."""

    @model_validator(mode="after")
    def _check_extra(self) -> Body:
        for name, value in (self.model_extra or {}).items():
            if name in self.harmless:
                continue
            neutral = self.asks_for_nothing.get(name)
            if neutral is None:
                raise ApiError(400, f"there is no field {name[:100]!r}", param=name[:100], code="unknown_parameter")
            if not any(value == known and type(value) is type(known) for known in neutral):
                message = f"{name} is not supported: leave it out"
                raise ApiError(400, message, param=name, code="unsupported_parameter")
        return self


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImageUrl(Body):
    harmless = frozenset({"detail"})
    url: str


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Body):
    """A turn. A text alone stands for one part."""

    harmless = frozenset({"name"})
    asks_for_nothing = dict.fromkeys(
        ("refusal", "annotations", "audio", "tool_calls", "function_call", "reasoning", "reasoning_content"), _EMPTY
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]

    @field_validator("content", mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(Body):
    harmless = frozenset({"include_obfuscation"})
    include_usage: bool | None = None


class Sampled(Body):
    """What answers and images share."""

    harmless = _HARMLESS

    n: int | None = Field(None, ge=1, le=MAX_IMAGES)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)


class ChatBody(Sampled):
    """The body of ``/v1/chat/completions``. ``top_k`` and ``repetition_penalty`` are this server's own."""

    asks_for_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {
        "audio": _EMPTY,
        "frequency_penalty": (None, 0, 0.0),
        "function_call": (*_EMPTY, "none", "auto"),
        "functions": _EMPTY,
        "logit_bias": _EMPTY,
        "logprobs": _EMPTY,
        "modalities": (None, ["text"]),
        "parallel_tool_calls": (None, True, False),
        "prediction": _EMPTY,
        "presence_penalty": (None, 0, 0.0),
        "reasoning_effort": (None, "none"),
        "response_format": (None, {"type": "text"}),
        "tool_choice": (None, "none", "auto"),
        "tools": _EMPTY,
        "top_logprobs": (None, 0),
        "verbosity": (None,),
        "web_search_options": _EMPTY,
    }

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    repetition_penalty: float | None = Field(None, gt=0)
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]] | None = Field(
        None, max_length=MAX_STOPS
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class ImageBody(Sampled):
    """The body of ``/v1/images/generations``. ``seed``, ``guidance``, ``temperature``, ``top_k`` and ``top_p`` are this server's own."""

    harmless = _HARMLESS | {"moderation"}
    asks_for_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {
        "background": (None, "auto", "opaque"),
        "input_fidelity": (None,),
        "output_compression": (None, 100),
        "partial_images": (None, 0),
        "quality": (None, "auto", "standard"),
        "stream": (None, False),
        "style": (None,),
    }

    prompt: str
    model: str | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    guidance: float | None = Field(None, ge=1, le=20)


class EditBody(ImageBody):
    """The fields of ``/v1/images/edits`` but its images. They come as text."""

    model_config = ConfigDict(extra="allow", strict=False, allow_inf_nan=False)
    asks_for_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {
        name: (*values, *map(str, values)) for name, values in ImageBody.asks_for_nothing.items()
    } | {"stream": ("false", "False", "0")}
