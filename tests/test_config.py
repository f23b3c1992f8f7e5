"""The paper's tables, typed from the report, against what Hydra composes, which ``--cfg job`` prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any, get_args

import pytest
import yaml

from janus_train.compose import check_overrides, compose_values, quote_stage, validate
from janus_train.config import PARTS, Config
from janus_train.errors import UserError
from janus_train.model.build import transformers_config
from janus_train.paths import ROOT
from tests.helpers import config_of

MODELS = ("janus_pro_1b", "janus_pro_7b")

# Janus-Pro, Table 1, and the official config.json
TABLE_1 = {
    "janus_pro_1b": {
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
    },
    "janus_pro_7b": {
        "num_hidden_layers": 30,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
    },
}
SIGLIP_L = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "patch_size": 16, "mlp_ratio": 4.0}
VQ_16 = {
    "num_embeddings": 16384,
    "embed_dim": 8,
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "latent_channels": 256,
}

# Janus-Pro, Table 2 and 3.1
TABLE_2 = {
    1: {
        "learning_rate": 1e-3,
        "warmup_steps": 600,
        "batch": 256,
        "ratio": (1, 0, 3),
        "steps": {"janus_pro_1b": 20_000, "janus_pro_7b": 20_000},
        "planned": None,
    },
    2: {
        "learning_rate": 1e-4,
        "warmup_steps": 5000,
        "batch": 512,
        "ratio": (2, 3, 5),
        "steps": {"janus_pro_1b": 270_000, "janus_pro_7b": 270_000},
        "planned": 360_000,
    },
    3: {
        "learning_rate": 4e-5,
        "warmup_steps": 0,
        "batch": 128,
        "ratio": (5, 1, 4),
        "steps": {"janus_pro_1b": 80_000, "janus_pro_7b": 40_000},
        "planned": None,
    },
}
ADAPTORS_AND_HEAD = {"understanding_adaptor", "generation_adaptor", "image_head"}
TRAINS = {
    1: ADAPTORS_AND_HEAD,
    2: ADAPTORS_AND_HEAD | {"language_model"},
    3: ADAPTORS_AND_HEAD | {"language_model", "understanding_encoder"},
}


@pytest.mark.parametrize("stage", TABLE_2)
@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_is_the_papers(stage: int, model: str) -> None:
    values = compose_values([f"+stage={stage}", f"model={model}"])

    text = values["model"]["text"]
    assert {key: text[key] for key in TABLE_1[model]} == TABLE_1[model]
    assert (text["vocab_size"], text["max_position_embeddings"]) == (102_400, 4096)
    assert text["num_key_value_heads"] == text["num_attention_heads"]
    assert values["model"]["vision"] == SIGLIP_L
    assert values["model"]["vq"] == VQ_16
    assert (values["model"]["image_size"], values["model"]["adaptor_depth"]) == (384, 2)

    table = TABLE_2[stage]
    optim = values["optim"]
    assert (optim["learning_rate"], optim["schedule"], optim["warmup_steps"]) == (
        table["learning_rate"],
        "constant",
        table["warmup_steps"],
    )
    assert (optim["betas"], optim["weight_decay"], optim["gradient_clip"]) == ([0.9, 0.95], 0.0, 1.0)
    assert (values["batch"]["rows_per_step"], values["batch"]["row_tokens"]) == (table["batch"], 4096)
    assert tuple(values["ratio"][kind] for kind in ("understanding", "text", "generation")) == table["ratio"]
    assert (values["run"]["steps"], values["run"]["planned_steps"]) == (table["steps"][model], table["planned"])  # type: ignore[index]
    assert set(values["train_parts"]) == TRAINS[stage]
    assert (values["data"]["guidance_dropout"], values["data"]["first_sentence"]) == (0.1, 0.25)
    assert values["stage"] == stage
    validate(values)  # and it is a configuration that runs


def test_the_command_prints_the_composed_configuration() -> None:
    words = ["+stage=3", "model=janus_pro_7b", "run.steps=7"]
    command = [sys.executable, "train.py", *words, "--cfg", "job"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(printed) == json.loads(json.dumps(compose_values(words)))


def test_images_have_576_tokens() -> None:
    assert config_of("+stage=1", "model=janus_pro_1b").model.tokens_per_image == 576
    assert config_of("+stage=1").model.tokens_per_image == 36


@pytest.mark.parametrize("stage", (1, 2, 3))
def test_the_tiny_model_keeps_ratio_and_parts_of_the_paper(stage: int) -> None:
    tiny, paper = config_of(f"+stage={stage}"), config_of(f"+stage={stage}", "model=janus_pro_7b")
    assert (tiny.ratio, tiny.train_parts, tiny.optim.betas, tiny.optim.weight_decay) == (
        paper.ratio,
        paper.train_parts,
        paper.optim.betas,
        paper.optim.weight_decay,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "no stage given: add +stage=1"),
        (["+stage=4"], "stage=4: no such stage, choose 1, 2, 3"),
        (["+stage=one"], "choose 1, 2, 3"),
        (["+stage=1", "model=janus_pro_3b"], "no such model, choose from_folder, janus_pro_1b, janus_pro_7b, tiny"),
        (["+stage=1", "run.stepz=3"], "run.stepz: no such option; did you mean run.steps?"),
        (["+stage=1", "+run.extra=3"], "run.extra: no such option"),
        (["+stage=1", "run.steps=many"], "run.steps: Input should be a valid integer, got 'many'"),
        (["+stage=1", "run.steps=0"], "run.steps: Input should be greater than 0, got 0"),
        (["+stage=1", "resume=maybe"], "resume: true, false, force or restart, got 'maybe'"),
        (["+stage=1", "optim.learning_rate=-1"], "optim.learning_rate"),
        (["+stage=1", "train_parts=[head]"], "train_parts.0"),
        (["+stage=1", "train_parts=[]"], "train_parts: nothing trains"),
        (
            ["+stage=3", "optim.parts={understanding_encodr:{learning_rate:1e-5}}"],
            "optim.parts: there is no part understanding_encodr: did you mean understanding_encoder?",
        ),
        (
            ["+stage=1", "optim.parts={language_model:{learning_rate:1e-5}}"],
            "optim.parts: language_model does not train, only understanding_adaptor, generation_adaptor, image_head do",
        ),
        (
            ["+stage=3", "optim.parts.language_model.learning_rate=1e-5"],
            "a part's own option is added with a plus, +optim.parts.language_model.learning_rate=VALUE",
        ),
        (["+stage=3", "+optim.parts.image_head.learning_rate=0"], "optim.parts.image_head.learning_rate: Input"),
        (["+stage=3", "+optim.parts.image_head.weight_decay=-1"], "optim.parts.image_head.weight_decay: Input"),
        (["+stage=3", "+optim.parts.image_head.lr=1"], "optim.parts.image_head.lr: no such option"),
        (["+stage=3", "optim.parts={image_head:{}}"], "optim.parts.image_head: sets neither learning_rate nor"),
        (["+stage=3", "optim.schedule=wsd"], "optim: schedule wsd needs decay_steps"),
        (
            ["+stage=3", "optim.schedule=wsd", "optim.decay_steps=1.5"],
            "optim.decay_steps: a number of steps, or a share",
        ),
        (["+stage=3", "optim.schedule=wsd", "optim.decay_steps=0"], "optim.decay_steps: a number of steps, or a share"),
        (["+stage=3", "optim.schedule=wsd", "optim.decay_steps=true"], "optim.decay_steps: a number of steps"),
        (["+stage=3", "optim.schedule=linear", "optim.decay_steps=10"], "decay_steps is for schedule wsd, not linear"),
        (["+stage=2", "optim.min_lr_ratio=0.1"], "optim: min_lr_ratio needs a schedule that falls"),
        (["+stage=3", "optim.schedule=cosine", "optim.min_lr_ratio=1.5"], "optim.min_lr_ratio"),
        (
            ["+stage=3", "optim.schedule=wsd", "optim.decay_steps=0.5", "optim.warmup_steps=800"],
            "optim.decay_steps (750) and optim.warmup_steps (800) do not fit into a schedule of 1500 steps",
        ),
        (["+stage=3", "peft=lora"], "did you mean +peft=lora?"),
        (["+stage=3", "peft.rank=8"], "did you mean +peft=lora?"),
        (["+stage=3", "+peft=nothing"], "no such peft, choose lora"),
        (["+stage=3", "+peft=lora", "peft=null"], "peft"),
        (["+stage=1", "train_parts=[generation_encoder]"], "generation_encoder makes the targets"),
        (["+stage=1", "ratio={understanding:0,text:0,generation:0}"], "at least one kind"),
        (["+stage=1", "batch.row_tokens=5000"], "more than the model's context 1024"),
        (["+stage=1", "model.vision.patch_size=8"], "both encoders need the same grid"),
        (["+stage=2", "model=janus_pro_1b", "run.steps=400000"], "steps 400000 is more than planned_steps 360000"),
        (["+stage=1", "seed"], "seed: cannot be parsed, options are written key=value"),
    ],
)
def test_mistakes_get_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_overrides(overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override",
    ["optim.parts={image_head: {learning_rate: 1e-5}}", "+optim.parts.image_head.learning_rate=1e-5"],
)
def test_a_parts_own_options_are_written_either_way(override: str) -> None:
    parts = config_of("+stage=3", override).optim.parts
    assert {part: own.model_dump() for part, own in parts.items()} == {
        "image_head": {"learning_rate": 1e-5, "weight_decay": None}
    }


def test_stage_may_be_written_either_way() -> None:
    assert quote_stage(["+stage=2", "stage=3", "++stage=1", "stage='2'", "seed=1"]) == [
        "stage='2'",
        "stage='3'",
        "stage='1'",
        "stage='2'",
        "seed=1",
    ]


def test_every_key_is_read_by_something() -> None:
    """A key that the configuration names but no code uses would promise what does not happen."""
    modules = (path for path in (ROOT / "janus_train").rglob("*.py") if path.name != "config.py")
    code = "".join(path.read_text(encoding="utf-8") for path in modules)

    def names(values: dict[str, Any]) -> set[str]:
        found = set()
        for name, value in values.items():
            if name not in ("text", "vision", "vq"):  # handed to transformers whole: the next test
                found |= names(value) if isinstance(value, dict) else {name}
        return found

    def schema(model: type[Any]) -> dict[str, Any]:
        """The keys of ``model``, those of a section nested, as a composed configuration has them."""
        found = {}
        for name, field in model.model_fields.items():
            inner = [t for t in (field.annotation, *get_args(field.annotation)) if hasattr(t, "model_fields")]
            found[name] = schema(inner[0]) if inner else None
        return found

    composed = [
        compose_values([f"+stage={stage}", f"model={model}", *peft])
        for stage in (1, 2, 3)
        for model in ("tiny", *MODELS, "from_folder")
        for peft in ([], ["+peft=lora"])
    ]
    wanted = names(schema(Config)).union(*map(names, composed))
    assert {"row_tokens", "understanding", "rank", "base"} <= wanted
    unread = {name for name in wanted if not re.search(rf"\.{name}\b|['\"]{name}['\"]", code)}
    assert not unread, f"nothing reads {sorted(unread)}"


def test_every_key_of_the_shape_reaches_transformers() -> None:
    model = config_of("+stage=1").model
    made = transformers_config(model, None, None, None, None)
    for ours, theirs in (
        (model.text, made.text_config),
        (model.vision, made.vision_config),
        (model.vq, made.vq_config),
    ):
        for key, value in ours.model_dump().items():
            there = theirs.rope_parameters["rope_theta"] if key == "rope_theta" else getattr(theirs, key)
            assert there == (list(value) if isinstance(value, tuple) else value), key


def test_parts_are_the_papers_seven() -> None:
    assert len(PARTS) == 7


def test_a_data_group_can_be_chosen() -> None:
    assert (
        compose_values(["+stage=2", "model=janus_pro_1b", "data=demo"])["data"]["recipe"]
        == "data_recipes/demo/stage2.yaml"
    )
    assert compose_values(["+stage=2", "model=janus_pro_1b"])["data"]["recipe"] is None
