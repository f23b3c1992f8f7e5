"""Loads a trained model: a run's ``final/``, a model's folder in either layout, or a hub id."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import JanusConfig, JanusForConditionalGeneration

from janus_train import gpu
from janus_train.data.encode import Encoder
from janus_train.data.prompt_format import OWN_STYLE, PromptStyle, with_places
from janus_train.errors import UserError
from janus_train.infer.chat import Messages, stream_answer
from janus_train.infer.decoding import StepCallback
from janus_train.infer.generate import ImageProgress, generate_images, tokens_per_image
from janus_train.infer.image_inputs import image_features
from janus_train.infer.sampling import GREEDY, TextSampling
from janus_train.interop.adapter import is_adapter
from janus_train.interop.hub import hint, is_hub_id
from janus_train.interop.model_folder import ModelFolder, open_model
from janus_train.interop.other_models import contents_without_config, instead_of_file
from janus_train.interop.processor import GUIDANCE, TEMPERATURE
from janus_train.interop.vq_encoder import PREFIX as VQ_PREFIX
from janus_train.interop.write import silence_transformers
from janus_train.model.vq import generation_image_size
from janus_train.paths import checked_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model, ready to generate images and to answer."""

    folder: Path
    janus: JanusForConditionalGeneration
    encoder: Encoder
    adapters: tuple[Path, ...] = ()
    """Folders of LoRA adapters that were added to the model in ``folder``."""

    @property
    def name(self) -> str:
        """The folders that the model is from, for records of results."""
        return " + ".join(map(str, (self.folder, *self.adapters)))

    @property
    def guidance(self) -> float:
        """The folder's own weight of classifier-free guidance."""
        return getattr(self.janus.generation_config, "guidance_scale", None) or GUIDANCE

    @property
    def temperature(self) -> float:
        return getattr(self.janus.generation_config, "temperature", None) or TEMPERATURE

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        images: Sequence[Image.Image] = (),
        image_guidance: float | None = None,
        batch_size: int = 16,
        progress: ImageProgress | None = None,
        on_step: StepCallback | None = None,
        style: PromptStyle = OWN_STYLE,
    ) -> list[Image.Image]:
        """Generates one image per prompt, each with its own seed.

        Guidance and temperature (0: the most likely codes) default to the folder's. ``top_k`` and ``top_p`` sample only the
        most likely codes: so many, and those that together have this probability; 0 and 1 mean all. ``images``, for editing, are put at
        every prompt's <image_placeholder>s, or before the prompt. ``image_guidance`` is the weight of guidance by the images,
        beside which ``guidance`` is that by the words (InstructPix2Pix); None: ``guidance`` is for both together.
        ``on_step`` is called before each step; what it raises ends the generation. ``style`` replaces the roles and adds a
        system prompt. Raises `UserError` for more placeholders than images, for ``image_guidance`` without images, and for a
        prompt that does not fit the model's context.
        """
        if image_guidance is not None and not images:
            raise UserError(f"image_guidance {image_guidance:g} needs images: without any, guidance is all there is")
        temperature = self.temperature if temperature is None else temperature
        num_images = len(images)
        ids = [
            self.encoder.generation_prompt_ids(with_places(prompt, num_images), num_images, style) for prompt in prompts
        ]
        return generate_images(
            self.janus,
            ids,
            image_features=[image_features(self.janus, self.encoder, images)] * len(prompts) if images else (),
            image_guidance=image_guidance,
            pad_id=self.encoder.special.pad,
            guidance=self.guidance if guidance is None else guidance,
            temperature=temperature,
            seeds=seeds,
            greedy=temperature == 0,
            top_k=top_k,
            top_p=top_p,
            batch_size=batch_size,
            progress=progress,
            on_step=on_step,
        )

    def chat(
        self,
        messages: Messages,
        images: Sequence[Image.Image] = (),
        max_new_tokens: int = 256,
        *,
        on_step: StepCallback | None = None,
        style: PromptStyle = OWN_STYLE,
        sampling: TextSampling = GREEDY,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yields the answer to the last of ``messages`` in pieces; ``"".join(...)`` gives the full text.

        Messages are ``{"role": "user" or "assistant", "content": text}``, with one <image_placeholder> per image. A
        ``system`` message at the start replaces the model's system prompt. Raises `UserError` for other roles.
        ``on_step`` is called before each token; what it raises ends the answer. ``style`` replaces the model's own roles
        or system prompt; ``sampling`` and ``seed`` sample the answer, which otherwise has the most likely tokens.
        """
        return stream_answer(
            self.janus,
            self.encoder,
            messages,
            images,
            max_new_tokens,
            on_step,
            style=style,
            sampling=sampling,
            seed=seed,
        )


def load_model(
    model: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Loads ``model``: a folder in either layout, one of LoRA adapters, or a hub id.

    Raises `UserError` naming what is missing.

    ``adapters``: folders or hub ids of LoRA adapters, which are merged into the model one after the other. They may have
    been trained on another model of the same shape.

    ``dtype``: that of all parts but the VQ tokenizer, which stays in fp32, because codes and colours change if it is
    rounded. None: bf16 on a GPU that computes in it, else fp32.
    """
    if not is_hub_id(str(model)):
        _check_folder(checked_path(Path(model).expanduser()), model)
    dtype = quickest_dtype(device) if dtype is None else dtype
    folder = open_model(str(model), "", added=[str(adapter) for adapter in adapters])
    janus = load_janus(folder, dtype)
    janus.to(device).eval()
    image_size, out_size = janus.config.vision_config.image_size, generation_image_size(janus.config)
    tokens = tokens_per_image(janus)
    encoder = Encoder(
        folder.tokenizer,
        tokens,
        image_size,
        folder.system_prompt,
        generation_image_size=out_size,
        context=janus.config.text_config.max_position_embeddings,
    )
    return LoadedModel(folder.origin, janus, encoder, tuple(adapter.folder for adapter in folder.added))


def load_janus(
    folder: ModelFolder, dtype: torch.dtype, config: JanusConfig | None = None, attention: str = "sdpa"
) -> JanusForConditionalGeneration:
    """Loads the transformers model in ``folder``, on the CPU; the VQ tokenizer stays in fp32 (`load_model`).

    ``config``: replaces the folder's, whose shapes it must have; ``attention``: transformers' name of the language model's.
    Raises `UserError` if the folder is not complete.
    """
    folder.check_complete()  # transformers would continue with random values
    with silence_transformers():
        janus: JanusForConditionalGeneration = JanusForConditionalGeneration.from_pretrained(
            None,
            config=config or folder.config,
            state_dict=dict(folder.tensors()),
            dtype=dtype,
            attn_implementation={"": "sdpa", "text_config": attention},
        )
    janus.generation_config = folder.generation_config
    if dtype != torch.float32:  # the stored weights: rounded ones would give other colours
        vq_tensors = {name.removeprefix(VQ_PREFIX): tensor for name, tensor in folder.tensors(VQ_PREFIX)}
        janus.model.vqmodel.float().load_state_dict(vq_tensors)
    return janus


def quickest_dtype(device: str) -> torch.dtype:
    """Returns bf16 for a GPU that computes in it, else fp32, with a warning if it is a GPU."""
    if torch.device(device).type != "cuda":
        return torch.float32
    if gpu.computes_in_bf16():
        return torch.bfloat16
    logger.warning(f"{gpu.name(device)} does not compute in bf16: the model runs in fp32")
    return torch.float32


def _check_folder(path: Path, model: str | Path) -> None:
    if path.is_file():
        raise UserError(f"{model} {instead_of_file(path)}")
    if not path.is_dir():
        raise UserError(
            f"there is no folder {model}: give a trained model's, for example outputs/demo/stage3/final{hint(str(model))}"
        )
    if not (path / "config.json").is_file() and not is_adapter(path):
        final = path / "final"
        if (final / "config.json").is_file():
            raise UserError(f"{path} does not contain a model: config.json is missing; did you mean {final}?")
        raise UserError(f"{path} does not contain a model: {contents_without_config(path)}")
