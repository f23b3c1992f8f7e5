"""`MultiModalityCausalLM`: the official names over the modules of transformers' ``JanusForConditionalGeneration``.

    official name       the shared module
    vision_model        model.vision_model, by `CLIPVisionTower`
    aligner             model.aligner
    gen_vision_model    model.vqmodel, by `VQModel`
    gen_embed           model.generation_embeddings
    gen_aligner         model.generation_aligner
    gen_head            model.generation_head
    language_model      model.language_model and lm_head, as transformers' causal language model (``LlamaForCausalLM``)

The parameters are the same objects, so there is no second copy in memory, and what trains one trains the other.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import nn
from transformers import AutoModelForCausalLM, JanusConfig, JanusForConditionalGeneration, PreTrainedConfig

from janus_train.errors import UserError
from janus_train.infer.load import load_janus
from janus_train.interop.model_folder import ModelFolder, open_model
from janus_train.interop.official_config import TOKEN_IDS
from janus_train.model.meta_init import without_weights
from janus_train.official.models.clip_encoder import CLIPVisionTower
from janus_train.official.models.configuration_vlm import MultiModalityConfig
from janus_train.official.models.vq_model import VQModel

_WITHOUT_EFFECT = ("trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "adapter_kwargs")
"""Options of transformers' ``from_pretrained`` that change no weight; those that begin with ``_`` are AutoModel's own."""


class MultiModalityCausalLM(nn.Module):
    """The official model's names; ``janus`` is the transformers model whose modules they are."""

    config_class: ClassVar[type[PreTrainedConfig]] = MultiModalityConfig
    janus: JanusForConditionalGeneration

    def __init__(self, config: MultiModalityConfig, janus: JanusForConditionalGeneration):
        """``config`` describes ``janus`` (`MultiModalityConfig.of`)."""
        super().__init__()
        self.config = config
        object.__setattr__(self, "janus", janus)  # not a submodule: its parts are those below
        shared = janus.model
        self.vision_model = CLIPVisionTower(shared.vision_model)
        self.aligner = shared.aligner
        self.gen_vision_model = VQModel(shared.vqmodel)
        self.gen_aligner = shared.generation_aligner
        self.gen_head = shared.generation_head
        self.gen_embed = shared.generation_embeddings
        self.language_model = causal_language_model(janus)

    @classmethod
    def of(cls, janus: JanusForConditionalGeneration) -> MultiModalityCausalLM:
        """The official interface to ``janus``."""
        return MultiModalityCausalLM(MultiModalityConfig.of(janus.config), janus)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        language_config: PreTrainedConfig | None = None,
        torch_dtype: torch.dtype | str | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        device_map: Any = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> MultiModalityCausalLM:
        """Loads a folder in either layout, one of LoRA adapters, or a hub id, in evaluation mode.

        Args:
            config, language_config: from ``AutoConfig.from_pretrained``; the language model's part replaces the folder's,
                with its ``_attn_implementation``, unless ``attn_implementation`` names another.
            torch_dtype, dtype: by default fp32, as with the transformers of the official package; "auto" is that of the
                folder's language model. In other types than fp32 the VQ tokenizer stays in fp32 until ``to`` converts it.
            device_map: "auto" or one device for the whole model.

        Raises:
            UserError: the folder is not a complete Janus model, or an option is not supported.
        """
        _check_without_effect(kwargs)
        adapters = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")  # AutoModel opens their base
        folder = open_model(str(adapters or pretrained_model_name_or_path), "", revision=revision)
        full_config = _with_language_config(folder.config, language_config or getattr(config, "language_config", None))
        attentions = (getattr(c, "_attn_implementation", None) for c in (full_config.text_config, config))
        attention = attn_implementation or next(filter(None, attentions), "sdpa")
        janus = load_janus(folder, _dtype(dtype or torch_dtype, folder), full_config, attention)
        return cls.of(janus).to(_device(device_map)).eval()

    @property
    def device(self) -> torch.device:
        return self.janus.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.janus.lm_head.weight.dtype

    def prepare_inputs_embeds(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        images_seq_mask: torch.Tensor,
        images_emb_mask: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Embeds a processor's batch -> (B, T, D): its tokens, with the images' features over their places.

        input_ids (B, T), pixel_values (B, n, 3, S, S), images_seq_mask (B, T) bool and images_emb_mask (B, n, P) bool, with
        as many true ones. Pixels are taken in the model's type. Raises `UserError` if the masks do not fit each other.
        """
        if int(images_seq_mask.sum()) != int(images_emb_mask.sum()):
            raise UserError(
                f"images_seq_mask has {int(images_seq_mask.sum())} places, images_emb_mask {int(images_emb_mask.sum())}: "
                "take both from one call of the processor"
            )
        images = rearrange(pixel_values, "b n c h w -> (b n) c h w").to(self.aligner.fc1.weight.dtype)
        features = self.aligner(self.vision_model(images))  # (B n, P, D)
        embeds = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        embeds = embeds.clone()  # a leaf if the table is frozen and its output asks for gradients, as peft makes it
        chosen = rearrange(features, "(b n) p d -> b (n p) d", b=len(pixel_values))
        embeds[images_seq_mask] = chosen[rearrange(images_emb_mask, "b n p -> b (n p)")].to(embeds.dtype)
        return embeds

    def prepare_gen_img_embeds(self, image_ids: torch.Tensor) -> torch.Tensor:
        """Embeds codes (N,) for the language model -> (N, D)."""
        embeds: torch.Tensor = self.gen_aligner(self.gen_embed(image_ids))
        return embeds


class JanusFolderCausalLM(MultiModalityCausalLM):
    """What ``AutoModelForCausalLM`` finds for a folder in transformers' layout; it loads a `MultiModalityCausalLM`."""

    config_class = JanusConfig


def causal_language_model(janus: JanusForConditionalGeneration) -> Any:
    """Returns transformers' causal language model (``LlamaForCausalLM`` for a Llama) that has the modules of ``janus``."""
    shared = janus.model.language_model
    with without_weights():
        model = AutoModelForCausalLM.from_config(copy.deepcopy(shared.config))
    model.config = shared.config
    model.model, model.lm_head = shared, janus.lm_head
    return model


def _with_language_config(config: JanusConfig, language_config: PreTrainedConfig | None) -> JanusConfig:
    config = copy.deepcopy(config)
    if language_config is not None:
        own, config.text_config = config.text_config, copy.deepcopy(language_config)
        for key in TOKEN_IDS:  # an official config.json does not have them all
            if getattr(language_config, key, None) is None:
                setattr(config.text_config, key, getattr(own, key, None))
    return config


def _dtype(name: torch.dtype | str | None, folder: ModelFolder) -> torch.dtype:
    if name is None:
        return torch.float32
    if name == "auto":
        return next(tensor.dtype for _, tensor in folder.tensors("model.language_model."))
    dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"dtype={name!r} is not a type of torch: give torch.bfloat16, torch.float32 or 'auto'")
    return dtype


def _device(device_map: Any) -> torch.device:
    """Returns the device of the whole model."""
    name = device_map.get("", device_map) if isinstance(device_map, dict) and len(device_map) == 1 else device_map
    if name in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device("cpu" if name is None else name)
    except (RuntimeError, TypeError):
        raise UserError(
            f"device_map={device_map!r}: the model stays on one device: give 'auto' or one device"
        ) from None


def _check_without_effect(options: dict[str, Any]) -> None:
    """Raises `UserError` for an option that would change the model and is not read here."""
    for name, value in options.items():
        if not name.startswith("_") and name not in _WITHOUT_EFFECT and value not in (None, False):
            raise UserError(f"from_pretrained({name}=...) is not supported by janus_train.official: leave it out")
