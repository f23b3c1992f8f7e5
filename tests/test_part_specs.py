"""Names of parts and pieces: what they stand for, and one line for those that stand for nothing."""

from __future__ import annotations

from itertools import combinations

import pytest

from janus_train.config import PARTS
from janus_train.errors import UserError
from janus_train.part_specs import LAYERS, PIECES, PartSpec, covered_layers, covers_piece, parse_spec, pieces_of
from tests.helpers import config_of

LM = "language_model"


@pytest.mark.parametrize(
    ("text", "spec", "layers"),
    [
        (LM, PartSpec(LM), [0, 1, 2, 3, 4]),
        (f"{LM}.layers", PartSpec(LM, LAYERS), [0, 1, 2, 3, 4]),
        (f"{LM}.layers.1-3", PartSpec(LM, LAYERS, 1, 3), [1, 2, 3]),
        (f"{LM}.layers.3-", PartSpec(LM, LAYERS, 3), [3, 4]),
        (f"{LM}.layers.0", PartSpec(LM, LAYERS, 0, 0), [0]),
        (f"{LM}.lm_head", PartSpec(LM, "lm_head"), []),
        ("understanding_encoder.layers.0-11", PartSpec("understanding_encoder", LAYERS, 0, 11), []),
    ],
)
def test_a_name_is_read(text: str, spec: PartSpec, layers: list[int]) -> None:
    assert parse_spec(text) == spec
    assert [n for n, covered in enumerate(covered_layers([text], LM, 5)) if covered] == layers
    assert covers_piece([text], LM, "lm_head") == (text in (LM, f"{LM}.lm_head"))


def test_overlaps_are_those_of_the_layers() -> None:
    texts = [
        LM,
        "image_head",
        f"{LM}.norm",
        *(f"{LM}.layers{end}" for end in ("", ".0", ".0-1", ".1-2", ".2-", ".3-4")),
    ]
    for one, other in combinations(texts, 2):
        first, second = parse_spec(one), parse_spec(other)
        shared = [a and b for a, b in zip(*(covered_layers([text], LM, 5) for text in (one, other)), strict=True)]
        same_piece = LM in (one, other) and "image_head" not in (one, other)
        assert first.overlaps(second) == second.overlaps(first) == (any(shared) or same_piece), (one, other)


def test_pieces_are_said_with_their_numbers() -> None:
    names = [f"{LM}.layers.16-", f"{LM}.layers.3", f"{LM}.lm_head", "image_head"]
    assert pieces_of(names, LM, 24) == ["layers.16-23", "layers.3", "lm_head"]
    assert pieces_of(names, "image_head", None) == pieces_of([LM], LM, 24) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["understanding_encodr"], "there is no part understanding_encodr: did you mean understanding_encoder?"),
        (["siglip"], f"there is no part siglip: choose {', '.join(PARTS)}"),
        ([f"{LM}.layer.3"], f"{LM} has no piece layer: did you mean layers?"),
        ([f"{LM}.heads"], f"{LM} has no piece heads: choose {', '.join(PIECES[LM])}"),
        (["image_head.layers.0"], "image_head trains as a whole"),
        ([f"{LM}.layers.x"], f"layers are written {LM}.layers.16-23"),
        ([f"{LM}.layers.1-2-3"], "layers are written"),
        ([f"{LM}.layers.-3"], "layers are written"),
        ([f"{LM}.norm.1"], "layers are written"),
        ([f"{LM}.layers.3-2"], f"{LM}.layers.3-2 is empty"),
        ([f"{LM}.layers.2-4"], f"{LM}.layers.2-4 is beyond the 4 layers of this model's {LM}, 0 to 3"),
        ([f"{LM}.layers.4-"], f"{LM}.layers.4- is beyond the 4 layers"),
        (["understanding_encoder.layers.3"], "is beyond the 3 layers of this model's understanding_encoder"),
        ([LM, f"{LM}.layers.2-"], f"{LM} and {LM}.layers.2- overlap"),
        ([f"{LM}.layers.0-1", f"{LM}.layers.1"], "overlap"),
        (["image_head", "image_head"], "overlap"),
    ],
)
def test_a_wrong_name_is_one_line(names: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        config_of("+stage=3", f"train_parts=[{','.join(names)}]")
    assert message in str(error.value) and "train_parts" in str(error.value) and "\n" not in str(error.value)


def test_lora_adapts_layers_and_leaves_the_text_head_to_train_in_full() -> None:
    config = config_of("+stage=3", "+peft=lora", f"train_parts=[{LM}.lm_head,{LM}.embed_tokens]")
    assert config.touched_parts == (f"{LM}.lm_head", f"{LM}.embed_tokens", LM)
    with pytest.raises(UserError, match=rf"both name {LM}.layers.3: a part trains by LoRA or in full"):
        config_of("+stage=3", "+peft=lora", f"train_parts=[{LM}.layers.3]")
