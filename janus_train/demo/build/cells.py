"""The cells that the base's VQ tokenizer has codes for, and the images that it is trained on.

Scenes consist of few different cells, a stride of the tokenizer wide: the parts of the cards, and plain grounds. Each is a
class of its own, with a code of its own. The codes that are left go to groups of similar cells (k-means) of other images,
the library's other objects without cards, so that the tokenizer also shows roughly what a scene never contains.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from janus_train.demo.build.common import to_float, to_tensor
from janus_train.demo.objects import BACKGROUNDS, CELL, NEUTRAL, SIDES, UNIT, Library, SceneObject
from janus_train.demo.scenes import render, sample_scene

GRID = UNIT // CELL
GROUNDS = [*BACKGROUNDS.values(), NEUTRAL]
SHARES = {"large": 0.45, "small": 0.2, "scene": 0.15, "other": 0.2}
"""Of the training images: a large card has four times the cells of a small one."""
FILLED = 0.8  # probability that one of the nine places of small cards is taken
SAMPLE = 1000  # images whose cells are grouped
LEAST_DIFFERENCE = 0.02  # from every cell of scenes, root mean square in -1..1: those that differ less have its code


def cells_of(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) -> (N, S / CELL, S / CELL, 3 * CELL * CELL)"""
    return rearrange(pixels, "n c (h p) (w q) -> n h w (c p q)", p=CELL, q=CELL)


class TrainingImages:
    """Images with as many different cells as possible, the same for a step: cards side by side, or objects without."""

    def __init__(self, library: Library):
        self.library = library
        in_scenes = set(library.scene_objects)
        self.others = [each for each in library.objects if each not in in_scenes] or library.objects

    def batch(self, step: int, count: int) -> torch.Tensor:
        """uint8 (count, 3, UNIT, UNIT)."""
        rng = np.random.default_rng((11, step))
        kinds = rng.choice(list(SHARES), count, p=list(SHARES.values()))
        return to_tensor([getattr(self, f"_{kind}")(rng) for kind in kinds])

    def others_batch(self, count: int, seed: int = 12) -> torch.Tensor:
        """Images without cards, uint8 (count, 3, UNIT, UNIT)."""
        rng = np.random.default_rng(seed)
        return to_tensor([self._other(rng) for _ in range(count)])

    def _any(self, objects: list[SceneObject], rng: np.random.Generator) -> SceneObject:
        return objects[rng.integers(len(objects))]

    def _large(self, rng: np.random.Generator) -> Image.Image:
        image, side = _ground(rng), SIDES["large"]
        left, top = (int(n) * CELL for n in rng.integers((UNIT - side) // CELL + 1, size=2))
        image.paste(self.library.card(self._any(self.library.scene_objects, rng).number, side), (left, top))
        return image

    def _small(self, rng: np.random.Generator) -> Image.Image:
        image, side = _ground(rng), SIDES["small"]
        for x in range(0, UNIT, side):
            for y in range(0, UNIT, side):
                if rng.random() < FILLED:
                    image.paste(self.library.card(self._any(self.library.scene_objects, rng).number, side), (x, y))
        return image

    def _scene(self, rng: np.random.Generator) -> Image.Image:
        return render(sample_scene(self.library, rng, "train"), self.library)

    def _other(self, rng: np.random.Generator) -> Image.Image:
        colour = tuple(int(n) for n in rng.integers(256, size=3)) if rng.random() < 0.5 else None
        image = Image.new("RGB", (UNIT, UNIT), colour) if colour else _ground(rng)
        side = int(rng.integers(UNIT // 3, UNIT + 1))
        drawn = self.library.image(self._any(self.others, rng).number, side)
        left, top = (int(n) for n in rng.integers(UNIT - side + 1, size=2))
        image.paste(drawn, (left, top), drawn)
        return image


def _ground(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (UNIT, UNIT), GROUNDS[rng.integers(len(GROUNDS))])


class CellClasses:
    """All cells of scenes and groups of other cells; the number of a cell's class is its code.

    ``cells``: (num_codes, 3 * CELL * CELL) in -1..1, the grounds first. ``num_exact``: how many are cells of scenes.
    """

    def __init__(self, images: TrainingImages, num_codes: int):
        exact = self._cells_of_scenes(images.library)
        self.num_exact = len(exact)
        if self.num_exact > num_codes:
            raise ValueError(f"scenes have {self.num_exact} different cells and the codebook {num_codes} codes")
        others = cells_of(to_float(images.others_batch(SAMPLE))).flatten(0, 2)
        differs = (others - exact[_nearest(others, exact)]).square().mean(1) > LEAST_DIFFERENCE**2
        self.cells = torch.cat([exact, _kmeans(others[differs], num_codes - self.num_exact)])

    @staticmethod
    def _cells_of_scenes(library: Library) -> torch.Tensor:
        grounds = [Image.new("RGB", (CELL, CELL), colour) for colour in GROUNDS]
        cards = [library.card(each.number, side) for each in library.scene_objects for side in SIDES.values()]
        distinct: dict[bytes, torch.Tensor] = {}
        for image in grounds + cards:
            for cell in cells_of(to_tensor([image])).flatten(0, 2):
                distinct.setdefault(cell.numpy().tobytes(), cell)
        return to_float(torch.stack(list(distinct.values())))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, 3, S, S) in -1..1 -> the nearest class of each cell, (N, S / CELL, S / CELL)."""
        cells = cells_of(pixels)
        return _nearest(cells.flatten(0, 2), self.cells).view(cells.shape[:3])


def _nearest(cells: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    return (cells @ centers.T - 0.5 * centers.square().sum(1)).argmax(1)


def _kmeans(cells: torch.Tensor, number: int, rounds: int = 12) -> torch.Tensor:
    """k-means over cells (N, D) -> (number, D); an empty group starts again at a random cell."""
    centers = cells[torch.randperm(len(cells))[:number]].clone()
    for _ in range(rounds):
        nearest = _nearest(cells, centers)
        counts = torch.bincount(nearest, minlength=number)
        centers = torch.zeros_like(centers).index_add_(0, nearest, cells) / counts.clamp_min(1)[:, None]
        empty = counts == 0
        centers[empty] = cells[torch.randperm(len(cells))[: int(empty.sum())]]
    return centers
