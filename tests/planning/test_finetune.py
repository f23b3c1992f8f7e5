"""Ways to fine-tune: parameters counted by hand, memory by arithmetic on them, and the smallest GPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from janus_train.paths import ROOT
from janus_train.planning.finetune import CARDS, Way, shardings, ways_to_finetune
from janus_train.planning.gpus import GPUS
from janus_train.planning.parameters import parameter_counts
from janus_train.planning.plan import RESERVE
from tests.helpers import config_of


@dataclass(frozen=True)
class Size:
    """A released model by its published shape: width, MLP's width, layers."""

    name: str
    D: int
    mlp: int
    layers: int
    vocabulary: int = 102400
    codes: int = 16384

    @property
    def layer(self) -> int:
        return 4 * self.D**2 + 3 * self.D * self.mlp + 2 * self.D

    @property
    def image_head(self) -> int:
        return self.D**2 + self.D + (self.D + 1) * self.codes

    @property
    def adaptors(self) -> int:
        """From SigLIP-L's width of 1024 and from 8 numbers of a code, two layers each."""
        return (1024 + 1) * self.D + (8 + 1) * self.D + 2 * (self.D + 1) * self.D

    def lora(self, rank: int) -> int:
        """q, k, v, o and gate, up, down."""
        return self.layers * rank * (4 * 2 * self.D + 3 * (self.D + self.mlp))


SIGLIP_LAYERS, SIGLIP_LAYER = 24, 4 * 1024 * (1024 + 1) + 2 * 4096 * 1024 + 4096 + 1024 + 2 * 2 * 1024
SIGLIP_PATCHES = 3 * 16**2 * 1024 + 1024
SIGLIP = SIGLIP_LAYERS * SIGLIP_LAYER + SIGLIP_PATCHES + 576 * 1024 + 2 * 1024
"""SigLIP-L/16-384: layers of width 1024 (attention, MLP, two norms), patches, positions and the last norm."""
SIZES = (Size("janus_pro_1b", 2048, 5632, 24), Size("janus_pro_7b", 4096, 11008, 30))


def ways(name: str, num_gpus: int, *overrides: str) -> dict[str, Way]:
    words = ["+stage=3", f"model={name}", *overrides]
    return {way.name: way for way in ways_to_finetune(config_of(*words), words, num_gpus, cached_codes=True)}


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: size.name)
def on_one(request: pytest.FixtureRequest) -> tuple[Size, dict[str, Way]]:
    return request.param, ways(request.param.name, 1)


def test_trained_parameters_are_those_counted_by_hand(on_one: tuple[Size, dict[str, Way]]) -> None:
    size, found = on_one
    half, quarter = size.layers - size.layers // 2, size.layers - 3 * size.layers // 4
    counts = {name: way.num_trained for name, way in found.items()}
    language_model = size.layers * size.layer + 2 * size.vocabulary * size.D + size.D
    siglip = counts.pop("all parts") - language_model - size.adaptors - size.image_head
    assert counts == {
        f"image head, upper {half} layers": size.image_head + half * size.layer,
        f"image head, upper {quarter} layers": size.image_head + quarter * size.layer,
        "adaptors, image head": size.adaptors + size.image_head,
        "LoRA of rank 16": size.lora(16),
    }
    assert (
        siglip == 24 * 12_596_224 + 3 * 16**2 * 1024 + 1024 + 576 * 1024 + 2 * 1024
    )  # layers, patches, positions, norm


def test_memory_of_a_way_is_arithmetic_on_its_counts(on_one: tuple[Size, dict[str, Way]]) -> None:
    """What trains takes 16 bytes and its matrices' copies 2; frozen matrices 2; embeddings, norms and the VQ tokenizer 4."""
    size, found = on_one
    half = size.layers - size.layers // 2
    embedding, norms = size.vocabulary * size.D, 2 * size.D
    layer_matrices = size.layer - norms
    siglip_matrices = SIGLIP_LAYERS * (SIGLIP_LAYER - 4 * 1024) + SIGLIP_PATCHES
    generation = 8 * size.codes
    vq = parameter_counts(config_of("+stage=3", f"model={size.name}").model)["generation_encoder"]
    fp32 = embedding + (size.layers * norms + size.D) + (SIGLIP - siglip_matrices) + generation
    frozen = (
        2 * (size.layers * layer_matrices + embedding + siglip_matrices + size.adaptors + size.image_head) + 4 * fp32
    )
    upper = 16 * (half * size.layer + size.image_head) + 2 * (half * layer_matrices + size.image_head)
    upper += frozen - 2 * (half * layer_matrices + size.image_head) - 4 * half * norms
    by_hand = {
        f"image head, upper {half} layers": upper,
        "LoRA of rank 16": frozen + (16 + 2) * size.lora(16),
    }
    for name, num_bytes in by_hand.items():
        option = found[name].fits[0].option
        assert option is not None
        assert option.state.total == num_bytes + 4 * vq, name
        assert option.total == option.state.total + option.activations.peak_bytes + RESERVE


def test_the_smallest_gpu_is_one_on_which_it_fits_and_the_next_smaller_is_too_small() -> None:
    for num_gpus in (1, 8):
        for way in ways("janus_pro_7b", num_gpus).values():
            assert [fit.sharding for fit in way.fits] == list(shardings(num_gpus))
            for fit in way.fits:
                smaller = [card for card in CARDS if fit.card is None or card.memory < fit.card.memory]
                assert all(fit.least_bytes > card.memory for card in smaller)
                if fit.card is not None:
                    assert fit.option is not None and fit.least_bytes <= fit.option.total <= fit.card.memory
                    assert fit.option.micro_rows == 1


def test_ways_need_less_the_less_they_train(on_one: tuple[Size, dict[str, Way]]) -> None:
    """Gradients stop below the lowest layer that trains: fewer upper layers keep fewer activations."""
    size, found = on_one
    full, half, quarter, adaptors, lora = (way.fits[0] for way in found.values())
    assert full.least_bytes > half.least_bytes > quarter.least_bytes > lora.least_bytes
    assert adaptors.card == lora.card == GPUS["rtx4090"]
    assert full.card == {"janus_pro_1b": GPUS["a100-80gb"], "janus_pro_7b": GPUS["h200"]}[size.name]
    fits = [fit.option for fit in (half, quarter) if fit.option and fit.option.policy == "none"]
    if len(fits) == 2:
        assert fits[0].activations.language_model > fits[1].activations.language_model


def test_choices_of_ones_own_are_a_way_too() -> None:
    own = "train_parts=[language_model.layers.20-]"
    assert next(iter(ways("janus_pro_1b", 1, own))) == "as requested"
    assert "as requested" not in ways("janus_pro_1b", 1, "+peft=lora", "peft.rank=64")
    lora = ways("janus_pro_1b", 1, "+peft=lora", "peft.rank=64")["LoRA of rank 64"]
    assert lora.num_trained == SIZES[0].lora(64) and "peft.rank=64" in lora.overrides
    way = ways("janus_pro_1b", 4, own)["as requested"]
    assert way.best_fit and way.best_fit.card == GPUS["rtx4090"] and way.best_fit.sharding == "ddp"


def test_the_documentations_table_is_what_the_plan_says() -> None:
    found = [ways(size.name, 1) for size in SIZES]
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8").partition("## Fine-tuning on a small GPU")[2]
    rows = [line.strip("| ").split(" | ") for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")][
        1:
    ]
    assert len(rows) == len(found[0])
    for row, pair in zip(rows, zip(*(entry.values() for entry in found), strict=True), strict=True):
        fits = [way.fits[0] for way in pair]
        assert row[1:] == [f"{fit.least_bytes / 1e9:.1f}, {fit.card.name if fit.card else 'none'}" for fit in fits], row
