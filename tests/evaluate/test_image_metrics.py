"""FID and CLIP score, against values computed by hand; what was compared stands in words beside them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from janus_train.errors import UserError
from janus_train.evaluate.image_metrics import clip_scores, fid
from tests.evaluate.tiny_models import make_clip
from tests.helpers import plain_image


class Red(torch.nn.Module):
    """One feature: the mean of red."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        features = img[:, 0].float().mean(dim=[1, 2])[:, None]
        return features if return_features else features * 0


class WithoutFeatures(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.float().flatten(1)


def scripted(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


def reds(*values: int, size: tuple[int, int] = (32, 32)) -> list:
    return [plain_image((value, 0, 0), size) for value in values]


def test_fid_is_the_one_computed_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="the extra evaluation is not installed")
    weights = scripted(Red(), tmp_path / "network.pt")
    # means 15 and 40, variances 50 and 200: 25^2 + 50 + 200 - 2 * sqrt(50 * 200)
    result = fid(reds(10, 20, size=(64, 48)), reds(30, 50), weights)
    assert result.value == pytest.approx(675)
    assert (result.num_true, result.num_drawn) == (2, 2)
    assert result.how.startswith("2 drawn images of 32 x 32 against 2 true ones, these resized by their short side")
    assert fid(reds(10, 20), reds(10, 20), weights).value == pytest.approx(0, abs=1e-6)


def test_more_images_than_a_batch_all_count(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="the extra evaluation is not installed")
    weights = scripted(Red(), tmp_path / "network.pt")
    values = [number % 7 for number in range(40)]
    mean, mean_square = sum(values) / 40, sum(value**2 for value in values) / 40
    variance = (mean_square - mean**2) * 40 / 39
    expected = (mean - 15) ** 2 + variance + 50 - 2 * (variance * 50) ** 0.5
    assert fid(reds(10, 20), reds(*values), weights).value == pytest.approx(expected)


def test_what_fid_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="at least two drawn images, there are 1"):
        fid(reds(1, 2), reds(3), tmp_path / "x.pt")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(UserError, match=r"FID needs torchmetrics .*pip install 'janus_train\[evaluation\]'"):
        fid(reds(1, 2), reds(3, 4), tmp_path / "x.pt")


def test_weights_that_are_no_such_network_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="the extra evaluation is not installed")
    with pytest.raises(UserError, match=r"none\.pt: there is no such file; bring the Inception network as TorchScript"):
        fid(reds(1, 2), reds(3, 4), tmp_path / "none.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pth")
    with pytest.raises(UserError, match=r"state\.pth is not a TorchScript file") as error:
        fid(reds(1, 2), reds(3, 4), tmp_path / "state.pth")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="its forward has no return_features"):
        fid(reds(1, 2), reds(3, 4), scripted(WithoutFeatures(), tmp_path / "other.pt"))


def test_clip_scores_are_a_hundred_cosines_and_never_negative(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip", seed=1)
    images = [plain_image((200, 30, 30)), plain_image((20, 30, 200), (40, 90)), plain_image((20, 230, 20))]
    prompts = ["a red dog", "a blue cat", "a green object and a white cat"]
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=images, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(
        prompts, padding=True, truncation=True, max_length=8, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**pixels, **tokens).logits_per_image.diag()
        cosines = logits / model.logit_scale.exp()
    expected = [max(0.0, 100 * cosine) for cosine in cosines.tolist()]
    result = clip_scores(images, prompts, folder)
    assert result.scores == pytest.approx(expected, abs=1e-3)
    assert 0.0 in result.scores and max(result.scores) > 0, "both cases of the rule must occur here"
    assert result.mean == pytest.approx(sum(expected) / 3, abs=1e-3)
    assert result.num_cut_prompts == 1
    assert result.how == (
        "3 images of 40 x 90 and 80 x 60; resize: short side to 32, middle 32 x 32 (bicubic); CLIP in clip; "
        "1 prompts are longer than its 8 tokens and were cut there"
    )


def test_an_image_without_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 images and 2 prompts"):
        clip_scores([plain_image()], ["a", "b"], tmp_path)
