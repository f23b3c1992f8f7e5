"""The classes of cells: every cell of a scene has its own, wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_train.demo.build.cells import GRID, GROUNDS, CellClasses, TrainingImages, cells_of
from janus_train.demo.build.common import SHARDS, scenes, to_float
from janus_train.demo.objects import CELL, UNIT
from janus_train.demo.scenes import load_library
from tests.helpers import config_of

CODES = config_of("+stage=1").model.vq.num_embeddings


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    return TrainingImages(load_library(tuple(SHARDS)))


@pytest.fixture(scope="module")
def classes(images: TrainingImages) -> CellClasses:
    torch.manual_seed(0)
    return CellClasses(images, CODES)


def test_every_cell_of_held_out_scenes_is_a_class_exactly(classes: CellClasses) -> None:
    pixels = to_float(scenes("held_out", 5, 60, UNIT)[1])
    ids = classes(pixels)
    assert ids.shape == (60, GRID, GRID) and int(ids.max()) < classes.num_exact < CODES
    assert torch.equal(classes.cells[ids], cells_of(pixels))


def test_grounds_are_the_first_classes(classes: CellClasses) -> None:
    for number, colour in enumerate(GROUNDS):
        pixels = to_float(torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, CELL, CELL))
        assert classes(pixels).tolist() == [[[number]]]


def test_the_codes_that_are_left_group_other_cells(classes: CellClasses, images: TrainingImages) -> None:
    cells = cells_of(to_float(images.others_batch(20))).flatten(0, 2)
    ids = classes(to_float(images.others_batch(20))).flatten()
    error = (classes.cells[ids] - cells).square().mean()
    assert len(classes.cells) == CODES and len(ids.unique()) > 40
    assert error < 0.1 * (cells - cells.mean(0)).square().mean()


def test_more_cells_than_codes_are_an_error(images: TrainingImages) -> None:
    with pytest.raises(ValueError, match="different cells and the codebook 64 codes"):
        CellClasses(images, 64)


def test_training_images_are_the_same_for_a_step_and_differ_between_steps(images: TrainingImages) -> None:
    one = images.batch(3, 8)
    assert one.shape == (8, 3, UNIT, UNIT) and one.dtype == torch.uint8
    assert torch.equal(one, images.batch(3, 8)) and not torch.equal(one, images.batch(4, 8))


def test_what_stands_on_no_card_is_no_object_of_scenes(images: TrainingImages) -> None:
    in_scenes = {each.name for each in images.library.scene_objects}
    assert len(in_scenes) == 40 and not in_scenes & {each.name for each in images.others}
    assert np.isclose(len(images.others) + 40, len(images.library.objects))
