"""A tiny OWLv2 from a folder: its boxes become objects, one for each thing, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.geneval_rule import DetectedObject
from janus_train.evaluate.benchmarks.drawing.mask2former import Mask2FormerDetector
from janus_train.evaluate.benchmarks.drawing.owlv2 import Owlv2Detector, overlap, surest
from janus_train.evaluate.benchmarks.drawing.quick_check import load_detector
from tests.evaluate.tiny_models import make_mask2former, make_owlv2
from tests.helpers import plain_image

pytest.importorskip("scipy", reason="the extra evaluation is not installed")


class ThreeBoxes:
    """A model that sees a cat on the left, the same one less surely, and a dog in the corner."""

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        # names in alphabetical order: cat, dog; boxes (x, y, width, height) of their middle, of the padded square
        logits = torch.tensor([[[2.0, -9.0], [1.0, -9.0], [-9.0, 0.0], [-2.0, -2.0]]])
        boxes = torch.tensor(
            [[[0.25, 0.375, 0.5, 0.75], [0.26, 0.375, 0.5, 0.75], [0.9, 0.65, 0.3, 0.3], [0.5, 0.5, 1.0, 1.0]]]
        )
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


def test_one_object_is_kept_of_overlapping_boxes_of_a_name_inside_the_image(tmp_path: Path) -> None:
    detector = Owlv2Detector(make_owlv2(tmp_path / "detector"), ["dog", "cat"])
    detector._model = ThreeBoxes()
    cat, dog = detector.detect(plain_image())  # 80 x 60, padded to 80 x 80
    assert (cat.object.name, dog.object.name) == ("cat", "dog")
    assert cat.object.score == pytest.approx(0.8808, abs=1e-3) and dog.object.score == pytest.approx(0.5)
    assert cat.object.box == pytest.approx((0, 0, 40, 60)) and dog.object.box == pytest.approx((60, 40, 80, 60))
    assert cat.mask.shape == (60, 80) and cat.mask[:, :40].all() and not cat.mask[:, 40:].any()


def test_the_models_own_output_is_read(tmp_path: Path) -> None:
    detector = Owlv2Detector(make_owlv2(tmp_path / "detector"), ["dog", "cat"])
    with torch.no_grad():
        for name, parameter in detector._model.named_parameters():
            if name.endswith("logit_shift.bias"):
                parameter.fill_(8.0)  # sure of everything
    found = detector.detect(plain_image())
    assert found and all(each.object.name in ("dog", "cat") and each.object.score > 0.3 for each in found)
    assert len(found) <= 16
    for each in found:
        left, top, right, bottom = each.object.box
        assert 0 <= left <= right <= 80 and 0 <= top <= bottom <= 60


def test_an_overlap_is_the_shared_part_of_both() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(2 / 6)
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0 and overlap((1, 1, 1, 1), (1, 1, 1, 1)) == 0
    one, same, other = (
        DetectedObject(*values)
        for values in (("cat", (0, 0, 4, 4), 0.5), ("cat", (0, 0, 4, 3), 0.9), ("dog", (0, 0, 4, 4), 0.4))
    )
    assert surest([one, same, other]) == [same, other]


def test_the_folder_says_which_detector_it_is(tmp_path: Path) -> None:
    assert isinstance(load_detector(make_owlv2(tmp_path / "owl"), ["dog"], "cpu"), Owlv2Detector)
    assert isinstance(load_detector(make_mask2former(tmp_path / "mask"), ["dog"], "cpu"), Mask2FormerDetector)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    folder = make_owlv2(tmp_path / "detector")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as an OWLv2") as error:
        load_detector(folder, ["dog"], "cpu")
    assert "\n" not in str(error.value)
