"""Every option of a training run: the schema of the configuration, frozen and validated.

Scientific values have no defaults here, only in the YAML under ``configs/``. `compose` turns that YAML and the command
line's overrides into a `Config`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Part = Literal[
    "understanding_encoder",
    "understanding_adaptor",
    "generation_encoder",
    "generation_embedding",
    "generation_adaptor",
    "image_head",
    "language_model",
]
"""The seven named parts of a Janus model (Janus-Pro, Table 2): the vocabulary for freezing and reports."""
PARTS: tuple[Part, ...] = get_args(Part)

ActivationCheckpointing = Literal["none", "selective", "full"]
"""What of a decoder layer is computed again in backward instead of kept (`model.activation_checkpointing`)."""

TextLoss = Literal["chunked", "whole"]
"""How the text head's loss is made: some positions at a time, or from all logits at once (`model.chunked_cross_entropy`)."""

Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
"""The experiment trackers that Accelerate knows; each needs its own package installed."""

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class OptionGroup(BaseModel):
    """Base of all option groups: frozen, no unknown keys, no silent conversion between types, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TextConfig(OptionGroup):
    """The language model's shape (Llama architecture), in transformers' names."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    intermediate_size: Positive
    vocab_size: Positive
    max_position_embeddings: Positive
    rms_norm_eps: float
    rope_theta: float


class VisionConfig(OptionGroup):
    """The understanding encoder's shape (SigLIP)."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    mlp_ratio: float
    patch_size: Positive


class VQConfig(OptionGroup):
    """The generation encoder's shape (VQ tokenizer of LlamaGen)."""

    num_embeddings: Positive
    embed_dim: Positive
    base_channels: Positive
    channel_multiplier: tuple[Positive, ...] = Field(strict=False)
    num_res_blocks: NonNegative
    latent_channels: Positive


class ModelConfig(OptionGroup):
    """A Janus model's shape, and where its pretrained parts come from."""

    name: str
    image_size: Positive
    """Side of an image to look at, in pixels."""
    generation_image_size: Positive
    """Side of an image to generate; null in YAML: ``image_size``. Both encoders have to come to the same grid."""
    adaptor_depth: Positive
    system_prompt: str
    """Put before conversations about images, as the official code does; may be empty."""
    guidance: Annotated[float, Field(ge=1)]
    """Weight of classifier-free guidance with which the model draws unless told otherwise."""
    temperature: Annotated[float, Field(gt=0)]
    """Temperature with which the model draws unless told otherwise."""
    text: TextConfig
    vision: VisionConfig
    vq: VQConfig
    transformers: dict[str, Any] | None
    """The whole configuration in transformers' words, of a model read from a folder (model=from_folder); None: it is made
    from the fields above."""
    base: str | None
    """Folder with the pretrained base (VQ tokenizer, vision encoder, LLM, tokenizer); None: ``init_from`` must name one."""

    @property
    def tokens_per_image(self) -> int:
        return (self.image_size // self.vision.patch_size) ** 2

    @model_validator(mode="before")
    @classmethod
    def _one_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("generation_image_size", 0) is None:
            return values | {"generation_image_size": values.get("image_size")}
        return values

    @model_validator(mode="after")
    def _grids_agree(self) -> ModelConfig:
        vq_stride = 2 ** (len(self.vq.channel_multiplier) - 1)
        side = self.image_size // self.vision.patch_size  # SigLIP-so400m leaves 6 of 384 pixels to no patch of 14
        if self.generation_image_size != side * vq_stride:
            raise ValueError(
                f"one grid for both encoders is needed: image_size {self.image_size}, vision.patch_size "
                f"{self.vision.patch_size}, VQ stride {vq_stride}"
                f" with images to draw of {self.generation_image_size}, {side * vq_stride} would fit"
            )
        return self


class RatioConfig(OptionGroup):
    """How much of each kind a step holds (Janus-Pro, Table 2)."""

    understanding: NonNegative
    text: NonNegative
    generation: NonNegative
    unit: Literal["samples", "tokens"]
    """What the ratio counts: the papers do not say."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> RatioConfig:
        if not (self.understanding or self.text or self.generation):
            raise ValueError("at least one kind needs a share above 0")
        return self


class OptimConfig(OptionGroup):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine"]
    warmup_steps: NonNegative
    betas: tuple[Share, Share] = Field(strict=False)
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    gradient_clip: Annotated[float, Field(gt=0)]


class BatchConfig(OptionGroup):
    """The global batch: ``rows_per_step`` packed rows of ``row_tokens`` tokens, ``micro_rows`` at a time on a process."""

    unit: Literal["rows", "samples"]
    """What the batch size counts: packed rows, or samples, each then a row of its own (the papers do not say)."""
    row_tokens: Positive
    rows_per_step: Positive
    micro_rows: Positive


class MemoryConfig(OptionGroup):
    """What memory is saved at the cost of time; changes no result."""

    activation_checkpointing: ActivationCheckpointing
    text_loss: TextLoss


class DataConfig(OptionGroup):
    """What is trained on."""

    recipe: str | None
    """Path of a mixture's YAML (data_recipes/), relative to the project's folder if not absolute."""
    num_workers: NonNegative
    lookahead: Positive
    """Documents of a kind from which the packer chooses, at least."""
    max_wait: Positive
    """Rows after which a waiting document goes before all others. Wants to be a few times ``lookahead``."""
    cut_text: Literal["long", "fit"]
    """Which texts may be cut: only those longer than a row, or any, to fit what a row has left."""
    max_bad: Share
    """The share of a source's samples that may be unusable; they are quarantined and others drawn instead."""
    jpeg: Literal["exact", "reduced"]
    """Whether large JPEGs for the understanding encoder may be decoded at reduced scale (`data.images`)."""
    guidance_dropout: Share
    """Share of the text-to-image samples whose text is replaced by pad tokens (Janus: 10 %)."""
    first_sentence: Share
    """Share of the text-to-image captions cut to their first sentence (Janus: 25 %)."""


class RunConfig(OptionGroup):
    """How long, and what is written when."""

    steps: Positive
    """The step at which training stops."""
    planned_steps: Positive | None
    """The length that the schedule is made for, None: ``steps``. Stage 2 of the paper plans 360K and stops at 270K."""
    checkpoint_every: NonNegative
    """0: only the last step."""
    keep_checkpoints: Positive
    skip_steps: tuple[Positive, ...] = Field(strict=False)
    """Steps whose batches are drawn but not trained on: those of a loss spike that one has gone back before."""
    sample_every: NonNegative
    """Images are drawn from the recipe's preview prompts each so many steps; 0: never."""
    log_every: Positive
    compile: bool | None
    """Whether decoder layers are compiled (`model.compile`); None: on a GPU."""
    cpu_threads: Positive | None
    """Threads of a process that trains on the CPU; None: its share of the cores."""
    join_timeout_s: Seconds
    """Within it all processes have to find each other."""
    first_step_timeout_s: Seconds
    """Within it the first step has to be done, loading and compiling included; and the final model written."""
    timeout_s: Seconds
    """Within it each later step has to be done, checkpoint and previews included: else the process hangs and ends."""
    rank_times_every: Positive
    """Steps after which the ranks' times are averaged, written and compared."""
    straggler_ratio: Annotated[float, Field(gt=1)]
    """A rank whose own time is more than so many times the others' median is named."""

    @model_validator(mode="after")
    def _stop_within_plan(self) -> RunConfig:
        if self.planned_steps is not None and self.steps > self.planned_steps:
            raise ValueError(f"steps {self.steps} is more than planned_steps {self.planned_steps}: raise both")
        return self


class PeftConfig(OptionGroup):
    """LoRA (`model.lora`): what trains of parts that are frozen else."""

    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    """An adapter's output is multiplied by ``alpha / rank``."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Of an adapter's input."""
    parts: tuple[Part, ...] = Field(strict=False, min_length=1)
    """The parts whose linear layers get adapters, the text head excepted."""

    @model_validator(mode="after")
    def _parts_can(self) -> PeftConfig:
        for part in ("generation_encoder", "generation_embedding"):
            if part in self.parts:
                raise ValueError(f"parts: {part} takes no adapters, it has no linear layers to train")
        return self


class LoggingConfig(OptionGroup):
    """Where metrics go besides metrics.jsonl, which is always written."""

    trackers: tuple[Tracker, ...] = Field(strict=False)
    """Experiment trackers, by Accelerate's names."""
    project: str


def _resume(value: object) -> object:
    if not isinstance(value, bool) and value not in ("force", "restart"):
        raise ValueError("true, false, force or restart")
    return value


class Config(OptionGroup):
    """One stage's run."""

    stage: Literal[1, 2, 3]
    seed: int
    plugins: tuple[str, ...] = Field(strict=False)
    """Python modules that are imported at the start; they register templates, sources and evaluations."""
    output_dir: str | None
    init_from: str | None
    resume: Annotated[bool | Literal["force", "restart"], BeforeValidator(_resume)]
    """Whether a run goes on in its folder; ``force``: even if what is trained on or how has changed since; ``restart``: from
    step 0 if it has checkpoints and none is valid, with what is there moved aside."""
    precision: Literal["fp32", "bf16"]
    train_parts: tuple[Part, ...] = Field(strict=False)
    """The parts that train in full; every other is frozen."""
    peft: PeftConfig | None
    """Adapters beside frozen parts (+peft=lora); None: none."""
    model: ModelConfig
    ratio: RatioConfig
    optim: OptimConfig
    batch: BatchConfig
    memory: MemoryConfig
    data: DataConfig
    run: RunConfig
    logging: LoggingConfig

    @property
    def touched_parts(self) -> tuple[Part, ...]:
        """The parts of which anything trains, all of it or adapters."""
        return (*self.train_parts, *(self.peft.parts if self.peft else ()))

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if "generation_encoder" in self.train_parts:
            raise ValueError("train_parts: generation_encoder makes the targets and is frozen in every stage")
        if self.peft is None and not self.train_parts:
            raise ValueError("train_parts: nothing trains, name at least one part or add +peft=lora")
        both = [part for part in self.train_parts if self.peft is not None and part in self.peft.parts]
        if both:
            raise ValueError(f"peft.parts and train_parts both name {both[0]}: a part trains by LoRA or in full")
        if self.batch.unit == "samples" and self.ratio.unit == "tokens":
            raise ValueError(
                "batch.unit samples keeps the ratio of samples in every step: ratio.unit tokens needs rows"
            )
        if self.batch.row_tokens > self.model.text.max_position_embeddings:
            raise ValueError(
                f"batch.row_tokens {self.batch.row_tokens} is more than the model's context "
                f"{self.model.text.max_position_embeddings}"
            )
        return self
