"""The schema of all options of a training run, frozen and validated.

Scientific values have no defaults here, only in the YAML under ``configs/``. `compose` turns that YAML and the command
line's overrides into a `Config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from janus_train.part_specs import LAYERS, PIECES, PartSpec, check_specs, parse_spec, part_named
from janus_train.part_specs import PARTS as PARTS
from janus_train.part_specs import Part as Part

ActivationCheckpointing = Literal["none", "selective", "full"]
"""What backward recomputes of a decoder layer instead of keeping it (`model.activation_checkpointing`)."""

TextLoss = Literal["chunked", "whole"]
"""How the text head's loss is computed: in chunks of positions, or from all logits (`model.chunked_cross_entropy`)."""

Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
"""The experiment trackers that Accelerate supports; each needs its own package."""

Schedule = Literal["constant", "cosine", "linear", "wsd"]
"""The learning rate after the warm-up (`train.schedules`)."""

DecayType = Literal["linear", "cosine", "1-sqrt"]
"""How the rate falls in the decay of ``wsd``, by transformers' names."""


def _part_name(text: str) -> str:
    parse_spec(text)
    return text


PartName = Annotated[str, AfterValidator(_part_name)]
"""A part or a piece of one, such as ``language_model.layers.16-23`` (`part_specs`)."""

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class OptionGroup(BaseModel):
    """Base of all option groups: frozen, no unknown keys, no silent conversion between types, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TextConfig(OptionGroup):
    """The language model's shape (Llama architecture), with transformers' names."""

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
    """Side of understanding images, in pixels."""
    generation_image_size: Positive
    """Side of generated images, in pixels; null in YAML: ``image_size``. Both encoders need the same grid."""
    adaptor_depth: Positive
    system_prompt: str
    """Text before conversations about images, as in the official code; may be empty."""
    guidance: Annotated[float, Field(ge=1)]
    """Default weight of classifier-free guidance for generating images."""
    temperature: Annotated[float, Field(gt=0)]
    """Default temperature for generating images."""
    text: TextConfig
    vision: VisionConfig
    vq: VQConfig
    transformers: dict[str, Any] | None
    """The full transformers configuration of a model that was read from a folder (model=from_folder); None: it is built from
    the fields above."""
    base: str | None
    """Folder with the pretrained base (VQ tokenizer, vision encoder, LLM, tokenizer); None: ``init_from`` must name one."""

    @property
    def tokens_per_image(self) -> int:
        return (self.image_size // self.vision.patch_size) ** 2

    @property
    def num_layers(self) -> dict[Part, int]:
        """The number of layers of the parts that have some."""
        return {
            "understanding_encoder": self.vision.num_hidden_layers,
            "language_model": self.text.num_hidden_layers,
        }

    @model_validator(mode="before")
    @classmethod
    def _one_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("generation_image_size", 0) is None:
            return values | {"generation_image_size": values.get("image_size")}
        return values

    @model_validator(mode="after")
    def _grids_agree(self) -> ModelConfig:
        vq_stride = 2 ** (len(self.vq.channel_multiplier) - 1)
        side = (
            self.image_size // self.vision.patch_size
        )  # with patches of 14 SigLIP-so400m does not use 6 of its 384 pixels
        if self.generation_image_size != side * vq_stride:
            raise ValueError(
                f"both encoders need the same grid: image_size {self.image_size}, vision.patch_size "
                f"{self.vision.patch_size}, VQ stride {vq_stride}"
                f" and generation_image_size {self.generation_image_size} do not match, {side * vq_stride} would fit"
            )
        return self


class RatioConfig(OptionGroup):
    """The ratio of the kinds in every step (Janus-Pro, Table 2)."""

    understanding: NonNegative
    text: NonNegative
    generation: NonNegative
    unit: Literal["samples", "tokens"]
    """The unit that the ratio counts; the papers do not say which."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> RatioConfig:
        if not (self.understanding or self.text or self.generation):
            raise ValueError("at least one kind needs a share above 0")
        return self


class PartOptimConfig(OptionGroup):
    """What a part has of its own; None: as the other parts."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The part's own peak rate, with the same warm-up and schedule."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> PartOptimConfig:
        if self.learning_rate is None and self.weight_decay is None:
            raise ValueError("sets neither learning_rate nor weight_decay")
        return self


def _by_part(values: object) -> object:
    if not isinstance(values, Mapping):
        return {} if values is None else values
    for name in values:
        part_named(str(name))
    return values


def _steps_or_share(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and (value >= 1 if isinstance(value, int) else 0 < value < 1)):  # type: ignore[operator]
        return value
    raise ValueError("a number of steps, or a share of the planned steps between 0 and 1, such as 0.1")


class OptimConfig(OptionGroup):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Schedule
    warmup_steps: NonNegative
    min_lr_ratio: Share
    """The share of its peak to which the rate falls."""
    decay_steps: Annotated[int | float | None, BeforeValidator(_steps_or_share)]
    """``wsd``: the last steps, over which the rate falls: their number, or their share of the planned steps."""
    decay_type: DecayType
    betas: tuple[Share, Share] = Field(strict=False)
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    gradient_clip: Annotated[float, Field(gt=0)]
    parts: Annotated[dict[Part, PartOptimConfig], BeforeValidator(_by_part)]
    """Learning rates and weight decay of parts that have their own; null in YAML: none."""

    def num_decay_steps(self, planned_steps: int) -> int:
        """The number of steps of the decay of ``wsd`` in a schedule of ``planned_steps``."""
        steps = self.decay_steps or 0
        return steps if isinstance(steps, int) else max(1, round(steps * planned_steps))

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimConfig:
        if (self.schedule == "wsd") != (self.decay_steps is not None):
            raise ValueError(
                "schedule wsd needs decay_steps, the steps at its end over which the rate falls: for example 0.1"
                if self.schedule == "wsd"
                else f"decay_steps is for schedule wsd, not {self.schedule}"
            )
        if self.schedule == "constant" and self.min_lr_ratio:
            raise ValueError("min_lr_ratio needs a schedule that falls: linear, cosine or wsd")
        return self


class BatchConfig(OptionGroup):
    """The global batch: ``rows_per_step`` packed rows of ``row_tokens`` tokens, ``micro_rows`` at a time in a process."""

    unit: Literal["rows", "samples"]
    """What the batch size counts: packed rows, or samples in a row of their own each (the papers do not say)."""
    row_tokens: Positive
    rows_per_step: Positive
    micro_rows: Positive


class MemoryConfig(OptionGroup):
    """Options that save memory at the cost of time, without changing results."""

    activation_checkpointing: ActivationCheckpointing
    text_loss: TextLoss


class EditingDropoutConfig(OptionGroup):
    """Shares of the editing samples of which something becomes pad tokens, for guidance with two scales (`data.encode`)."""

    text: Share
    """All words, while the images stay: what inference compares with as ``image_guidance``."""
    images: Share
    """All images to look at, while the words stay."""
    both: Share
    """The whole prompt."""

    @model_validator(mode="after")
    def _at_most_all(self) -> EditingDropoutConfig:
        if self.text + self.images + self.both > 1:
            raise ValueError("text, images and both exclude each other: together they are more than 1")
        return self


class DataConfig(OptionGroup):
    """The training data."""

    recipe: str | None
    """Path of a recipe (data_recipes/), relative to the project's folder if not absolute."""
    num_workers: NonNegative
    lookahead: Positive
    """Minimum number of documents per kind that the packer chooses from."""
    max_wait: Positive
    """Rows after which a waiting document takes precedence. It should be a few times ``lookahead``."""
    cut_text: Literal["long", "fit"]
    """Which texts may be cut: only those longer than a row, or any plain text, to fill a row."""
    max_bad: Share
    """The largest share of a source's samples that may be unusable; they are quarantined and replaced by others."""
    jpeg: Literal["exact", "reduced"]
    """Whether large JPEGs for the understanding encoder may be decoded at reduced scale (`data.images`)."""
    guidance_dropout: Share
    """Share of the text-to-image samples whose text is replaced by pad tokens (Janus: 10 %)."""
    editing_dropout: EditingDropoutConfig
    """Instead of ``guidance_dropout`` for samples of the template editing that have images to look at."""
    first_sentence: Share
    """Share of the text-to-image captions cut to their first sentence (Janus: 25 %)."""


class ProfileConfig(OptionGroup):
    """Which steps of a start torch's profiler traces (`train.monitor.profile`)."""

    wait: NonNegative
    """Steps before the profiler starts."""
    warmup: NonNegative
    """Steps whose results it discards, because its first steps are slower."""
    active: Positive
    """Steps in the trace."""


class RunConfig(OptionGroup):
    """The length of the run, and when it writes and logs."""

    steps: Positive
    """The step at which training stops."""
    planned_steps: Positive | None
    """The schedule's length; None: ``steps``. Stage 2 of the paper plans 360K and stops at 270K."""
    checkpoint_every: NonNegative
    """Steps between checkpoints; 0: only the last step."""
    keep_checkpoints: Positive
    skip_steps: tuple[Positive, ...] = Field(strict=False)
    """Steps whose batches are loaded but not trained on, to skip a loss spike when resuming before it."""
    sample_every: NonNegative
    """Steps between previews, images generated from the recipe's preview prompts; 0: never."""
    validate_every: NonNegative
    """Steps between validations on held-out samples (`data.held_out`), also at the last step; 0: never."""
    validation_samples: Positive | None
    """At most so many samples of each source that holds samples out; None: all of them."""
    keep_best: str | None
    """The validation's metric, such as ``validation/loss``, of whose lowest value the checkpoint is kept too; None: none."""
    patience: Positive | None
    """So many validations without a new best (of ``keep_best``, else of ``validation/loss``) end the run; None: never."""
    log_every: Positive
    compile: bool | None
    """Whether decoder layers are compiled (`model.compile`); None: on GPUs in bf16 only."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    """The decay of an average of the trained weights, which is validated and exported too; None: no average."""
    profile: ProfileConfig | None
    """Steps of which rank 0 writes a trace by torch's profiler into the run's folder; None: none."""
    cpu_threads: Positive | None
    """Threads per process on CPUs; None: the user's ``OMP_NUM_THREADS``, else its share of the cores."""
    join_timeout_s: Seconds
    """Timeout for all processes to find each other."""
    first_step_timeout_s: Seconds
    """Timeout for the first step, with loading and compiling, and for writing the final model."""
    timeout_s: Seconds
    """Timeout for each later step, with checkpoint and previews; a process that exceeds it counts as hung and ends."""
    rank_times_every: Positive
    """Steps over which the ranks' times are averaged, written and compared."""
    straggler_ratio: Annotated[float, Field(gt=1)]
    """A rank is reported if its time exceeds the others' median by this factor."""

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        for option in ("keep_best", "patience"):
            if getattr(self, option) is not None and not self.validate_every:
                raise ValueError(f"{option} needs validations: set validate_every")
        if self.planned_steps is not None and self.steps > self.planned_steps:
            raise ValueError(f"steps {self.steps} is more than planned_steps {self.planned_steps}: raise both")
        return self


def peft_method(use_rslora: bool, use_dora: bool) -> str:
    """The name of the method with these options, for messages."""
    name = "DoRA" if use_dora else "LoRA"
    return f"rs{name}" if use_rslora else name


class PeftConfig(OptionGroup):
    """LoRA (`model.lora`): adapters that train beside otherwise frozen parts."""

    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    """An adapter's output is multiplied by ``alpha / rank``, with ``use_rslora`` by ``alpha / sqrt(rank)``."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout of an adapter's input."""
    use_rslora: bool
    """Rank-stabilised LoRA: the scale ``alpha / sqrt(rank)``."""
    use_dora: bool
    """DoRA: the norm of each row of an adapted weight trains too."""
    parts: tuple[PartName, ...] = Field(strict=False, min_length=1)
    """The parts, or layers of parts, whose linear layers get adapters, except for the text head."""

    @model_validator(mode="after")
    def _parts_can(self) -> PeftConfig:
        for name in self.parts:
            spec = parse_spec(name)
            if spec.part in ("generation_encoder", "generation_embedding") or spec.piece not in (None, LAYERS):
                raise ValueError(f"parts: {name} takes no adapters, because it has no linear layers to adapt")
        return self

    @property
    def method(self) -> str:
        """The name of the method, for messages."""
        return peft_method(self.use_rslora, self.use_dora)


class LoggingConfig(OptionGroup):
    """Where metrics are logged besides metrics.jsonl, which is always written."""

    trackers: tuple[Tracker, ...] = Field(strict=False)
    """Experiment trackers, by Accelerate's names."""
    project: str


def _resume(value: object) -> object:
    if not isinstance(value, bool) and value not in ("force", "restart"):
        raise ValueError("true, false, force or restart")
    return value


def _adapted(name: str) -> PartSpec:
    """What LoRA adapts of a name: of a part with layers these alone, so that the text head may train in full beside it."""
    spec = parse_spec(name)
    return PartSpec(spec.part, LAYERS) if spec.piece is None and spec.part in PIECES else spec


class Config(OptionGroup):
    """The configuration of one stage's run."""

    stage: Literal[1, 2, 3]
    seed: int
    plugins: tuple[str, ...] = Field(strict=False)
    """Python modules that are imported at the start; they register templates, sources and evaluations."""
    output_dir: str | None
    init_from: str | None
    resume: Annotated[bool | Literal["force", "restart"], BeforeValidator(_resume)]
    """Whether a run resumes in its folder; ``force``: even if its data or settings have changed; ``restart``: from step 0 if
    it has checkpoints but none is valid, with the old files moved aside."""
    precision: Literal["fp32", "bf16"]
    train_parts: tuple[PartName, ...] = Field(strict=False)
    """The parts, or layers of parts, that train in full; all else is frozen."""
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
    def touched_parts(self) -> tuple[str, ...]:
        """The names of what trains, in full or by adapters."""
        return (*self.train_parts, *(self.peft.parts if self.peft else ()))

    @property
    def planned_steps(self) -> int:
        """The schedule's length."""
        return self.run.planned_steps or self.run.steps

    @model_validator(mode="after")
    def _what_trains_fits(self) -> Config:
        for text in self.train_parts:
            if parse_spec(text).part == "generation_encoder":
                raise ValueError("train_parts: generation_encoder makes the targets and is frozen in every stage")
        if self.peft is None and not self.train_parts:
            raise ValueError("train_parts: nothing trains, name at least one part or add +peft=lora")
        for option, names in {
            "train_parts": self.train_parts,
            "peft.parts": self.peft.parts if self.peft else (),
        }.items():
            try:
                check_specs(names, self.model.num_layers)
            except ValueError as error:
                raise ValueError(f"{option}: {error}") from None
        for name in self.train_parts:
            if self.peft is not None and any(_adapted(other).overlaps(parse_spec(name)) for other in self.peft.parts):
                raise ValueError(f"peft.parts and train_parts both name {name}: a part trains by LoRA or in full")
        for part in self.optim.parts:
            trained_parts = [
                trained for trained in PARTS if trained in {parse_spec(t).part for t in self.touched_parts}
            ]
            if part not in trained_parts:
                raise ValueError(f"optim.parts: {part} does not train, only {', '.join(trained_parts)} do")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Config:
        num_decay_steps, warmup_steps = self.optim.num_decay_steps(self.planned_steps), self.optim.warmup_steps
        if self.optim.schedule == "wsd" and num_decay_steps + warmup_steps > self.planned_steps:
            raise ValueError(
                f"optim.decay_steps ({num_decay_steps}) and optim.warmup_steps ({warmup_steps}) do not fit into a schedule "
                f"of {self.planned_steps} steps"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Config:
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
