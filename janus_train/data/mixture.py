"""From a run's configuration to what its rows are drawn with: recipe, drawer, packer. Needs a tokenizer, but no model."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.data.packer import Packer, RowPacker
from janus_train.data.recipe import Recipe
from janus_train.data.single import SinglePacker
from janus_train.data.streams import Drawer
from janus_train.errors import UserError


def open_recipe(config: Config) -> Recipe:
    """The configured mixture with its sources opened. Raises `UserError` naming what is missing or damaged."""
    if config.data.recipe is None:
        raise UserError(
            "data.recipe: no recipe is given: name a mixture's YAML, or data=demo for the embedded pictures"
        )
    return Recipe(config.data.recipe, config.ratio, config.model.image_size)


def make_encoder(config: Config, tokenizer: PreTrainedTokenizerFast) -> Encoder:
    """What turns the run's samples into documents."""
    model = config.model
    return Encoder(
        tokenizer,
        model.tokens_per_picture,
        model.image_size,
        model.system_prompt,
        reduced_jpeg=config.data.jpeg == "reduced",
        picture_out_size=model.picture_out_size,
    )


def open_mixture(config: Config, recipe: Recipe, encoder: Encoder) -> tuple[Drawer, Packer]:
    """What `loader.steps` and `streams.Stream` draw documents and pack rows with."""
    drawer = Drawer(
        recipe,
        encoder,
        seed=config.seed,
        num_streams=config.batch.rows_per_step,
        row_tokens=config.batch.row_tokens,
        guidance_dropout=config.data.guidance_dropout,
        first_sentence=config.data.first_sentence,
    )
    if config.batch.unit == "samples":
        ratio = {kind: getattr(config.ratio, kind) for kind in recipe.shares}
        return drawer, SinglePacker(config.batch.row_tokens, ratio, config.batch.rows_per_step)
    packer = RowPacker(
        config.batch.row_tokens,
        recipe.shares,
        config.data.lookahead,
        unit=config.ratio.unit,
        cut=config.data.cut_text,
        max_wait=config.data.max_wait,
    )
    return drawer, packer
