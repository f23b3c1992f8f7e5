"""The official ``config.json`` as an object: sections by attribute, the language model's as transformers' ``LlamaConfig``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import JanusConfig, PreTrainedConfig

from janus_train.interop import official_config

SECTIONS = ("vision_config", "aligner_config", "gen_vision_config", "gen_aligner_config", "gen_head_config")


class Attributes(dict[str, Any]):
    """A JSON object whose values are attributes too, as in ``config.gen_vision_config.params.n_embed``."""

    def __init__(self, values: dict[str, Any]):
        super().__init__({k: Attributes(v) if isinstance(v, dict) else v for k, v in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class MultiModalityConfig(PreTrainedConfig):
    """What ``AutoConfig.from_pretrained`` gives for a folder in the official layout; a section has ``cls`` and ``params``.

    ``language_config._attn_implementation`` chooses the language model's attention: ``sdpa`` (the default), ``eager``, ...
    """

    model_type: ClassVar[str] = "multi_modality"

    language_config: Any = None
    vision_config: Any = None
    aligner_config: Any = None
    gen_vision_config: Any = None
    gen_aligner_config: Any = None
    gen_head_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.language_config, PreTrainedConfig):
            self.language_config = official_config.text_config(self.language_config or {}, None)
        for section in SECTIONS:
            setattr(self, section, Attributes(getattr(self, section) or {}))
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, config: JanusConfig) -> MultiModalityConfig:
        """Describes a model of transformers' ``config``, whose language model's part is shared, not copied."""
        dtype = str(config.dtype or torch.float32).removeprefix("torch.")
        values = official_config.to_official(config, dtype) | {"language_config": config.text_config}
        return cls(**{key: value for key, value in values.items() if key != "model_type"})
