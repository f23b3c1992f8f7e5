"""Pretrains the base's understanding encoder in SigLIP's way: pictures against names, with a sigmoid loss.

SigLIP (arXiv 2303.15343) sets pictures against the texts of a batch; here the texts are short and few, so every picture
is set against all of them: object names, each at each place, backgrounds, counts. The "text tower" is a table of
label embeddings. Pooling (an attention with one query a question) and the table belong to this pretraining alone: what
is kept is the encoder, whose patch features Janus uses. A second, per-patch loss asks each patch what covers it, in
the manner of SigLIP 2's local losses, so that place and identity can be read from the features with a linear map.

In: a ``JanusVisionModel``. Out: the same, trained; accuracies of linear probes on held-out combinations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from base_common import SHARDS, Figures, Progress, Schedule, scenes, to_float, to_tensor
from torch import nn

from janus_train.data.scenes import (
    BACKGROUNDS,
    MIDDLE,
    SIDE_OF_CLASS,
    Library,
    Placed,
    Scene,
    Thing,
    class_picture,
    draw_scene,
    library,
    render,
)

PLACES = ("left", "right", "middle", "top", "bottom")
COLOURS = list(BACKGROUNDS)
PICTURES = 32  # a step


def as_scene(thing: Thing) -> Scene:
    """A class picture as a scene without a background colour."""
    return Scene((Placed(thing, "middle", MIDDLE, MIDDLE, SIDE_OF_CLASS),), "")


class Labels:
    """The answers for a batch of N scenes: the targets of the pretraining and of the probes."""

    def __init__(self, drawn: list[Scene], patches_a_side: int):
        count, objects = len(drawn), len(library(tuple(SHARDS)).things)
        self.names = torch.zeros(count, len(PLACES) + 1, objects)  # present at the place; the last row: anywhere
        self.at_place = torch.full((count, len(PLACES)), -1)  # the object's number, -1 where nothing is
        self.colour = torch.tensor([COLOURS.index(s.background) if s.background else -1 for s in drawn])
        self.count = torch.tensor([len(s.placed) - 1 for s in drawn])
        self.patches = torch.full((count, patches_a_side**2), -1)  # which object covers the patch's middle, -1: none
        for n, scene in enumerate(drawn):
            for placed in scene.placed:
                self.names[n, PLACES.index(placed.place), placed.thing.number] = 1
                self.names[n, -1, placed.thing.number] = 1
                self.at_place[n, PLACES.index(placed.place)] = placed.thing.number
                middles = (np.arange(patches_a_side) + 0.5) * 64 / patches_a_side
                inside_x = np.abs(middles - placed.x) < placed.side / 2
                inside_y = np.abs(middles - placed.y) < placed.side / 2
                covered = torch.from_numpy(np.outer(inside_y, inside_x).ravel())
                self.patches[n, covered] = placed.thing.number


class Head(nn.Module):
    """Pooling and label embeddings, for pretraining only. Features (N, P, W) -> logits."""

    def __init__(self, width: int, objects: int):
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(PLACES) + 1, width) * 0.02)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.names = nn.Parameter(torch.randn(objects, width) * 0.02)
        self.patch = nn.Linear(width, width)
        self.whole = nn.Linear(width, len(COLOURS) + 3)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))  # SigLIP's initial temperature and bias
        self.bias = nn.Parameter(torch.tensor(-7.0))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, places + 1, objects) names, (N, P, objects) names a patch, (N, colours + counts)."""
        weights = torch.softmax(self.query @ self.key(features).transpose(1, 2) / features.shape[-1] ** 0.5, dim=-1)
        pooled = weights @ self.value(features)  # (N, places + 1, W)
        names = F.normalize(self.names, dim=-1)
        scale = self.scale.exp()
        at_place = scale * F.normalize(pooled, dim=-1) @ names.T + self.bias
        a_patch = scale * F.normalize(self.patch(features), dim=-1) @ names.T + self.bias
        return at_place, a_patch, self.whole(features.mean(1))


def pretraining_loss(head: Head, features: torch.Tensor, labels: Labels) -> torch.Tensor:
    at_place, a_patch, whole = head(features)
    known = labels.colour >= 0  # class pictures have no background to name
    whole_targets = torch.cat([F.one_hot(labels.colour[known], len(COLOURS)), F.one_hot(labels.count[known], 3)], dim=1)
    covered = labels.patches >= 0
    objects = a_patch.shape[-1]
    patch_targets = F.one_hot(labels.patches[covered], objects).float()
    sums = (
        F.binary_cross_entropy_with_logits(at_place, labels.names, reduction="sum") / len(features),
        F.binary_cross_entropy_with_logits(whole[known], whole_targets.float(), reduction="sum") / len(features),
        F.binary_cross_entropy_with_logits(a_patch[covered], patch_targets, reduction="sum") / covered.sum().clamp_min(1),
    )
    return torch.stack(sums).sum()


def training_batch(objects: Library, rng: np.random.Generator, size: int) -> tuple[list[Scene], torch.Tensor]:
    """Three quarters scenes of the training split, one quarter class pictures."""
    drawn, pictures = [], []
    for number in range(PICTURES):
        if number % 4 == 3:
            thing = objects.things[rng.integers(len(objects.things))]
            drawn.append(as_scene(thing))
            pictures.append(class_picture(thing, objects, size, rng))
        else:
            drawn.append(draw_scene(objects, rng, "train"))
            pictures.append(render(drawn[-1], objects, size))
    return drawn, to_tensor(pictures)


def train_vision(vision: nn.Module, size: int, steps: int, seed: int) -> Figures:
    objects = library(tuple(SHARDS))
    head = Head(vision.config.hidden_size, len(objects.things))
    model = nn.ModuleList([vision, head]).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    schedule, progress = Schedule(2e-3, steps, warmup=100), Progress("vision", steps)
    rng = np.random.default_rng(seed)
    side = size // vision.config.patch_size
    for step in range(steps):
        schedule.apply(optimizer, step)
        drawn, pixels = training_batch(objects, rng, size)
        loss = pretraining_loss(head, vision(to_float(pixels)).last_hidden_state, Labels(drawn, side))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, loss=loss.item())
    return {"steps": steps, "seconds": round(progress.seconds)}


LAYOUTS = [("left",), ("right",), ("middle",), ("top",), ("bottom",), ("left", "right"), ("top", "bottom")]
LAYOUTS.append(("left", "middle", "right"))


def features_of(vision: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, S, S) -> features (N, P, W)."""
    with torch.no_grad():
        return torch.cat([vision(to_float(chunk)).last_hidden_state for chunk in pixels.split(64)])


def fit(inputs: torch.Tensor, targets: torch.Tensor, classes: int, steps: int = 400) -> nn.Linear:
    """A linear classifier by gradient descent (logistic regression on frozen features)."""
    torch.manual_seed(0)
    probe = nn.Linear(inputs.shape[1], classes)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=0.02, weight_decay=0.01)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (1024,))
        optimizer.zero_grad()
        F.cross_entropy(probe(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return probe


@torch.no_grad()
def object_accuracy(probe: nn.Linear, features: torch.Tensor, drawn: list[Scene], labels: Labels) -> Figures:
    """Top-1 over all objects, by size: the patches an object covers vote with their log-probabilities."""
    hits: dict[int, list[bool]] = {}
    for n, scene in enumerate(drawn):
        votes = F.log_softmax(probe(features[n]), dim=-1)  # (P, objects)
        for placed in scene.placed:
            own = labels.patches[n] == placed.thing.number
            guess = int(votes[own].sum(0).argmax())
            hits.setdefault(placed.side, []).append(guess == placed.thing.number)
    return {f"object at {side} px, of all {probe.out_features}": sum(h) / len(h) for side, h in sorted(hits.items())}


def evaluate_vision(vision: nn.Module, size: int, train_count: int = 4000, count: int = 800) -> Figures:
    """Accuracies on held-out combinations of linear probes fitted on training scenes the encoder has not seen as such."""
    vision.eval()
    side = size // vision.config.patch_size
    sets = [scenes("train", 7001, train_count, size), scenes("held_out", 7002, count, size)]
    (train, train_pixels), (test, test_pixels) = sets
    x_train, x_test = features_of(vision, train_pixels), features_of(vision, test_pixels)
    y_train, y_test = Labels(train, side), Labels(test, side)
    figures: Figures = {}
    layouts = [torch.tensor([LAYOUTS.index(tuple(p.place for p in s.placed)) for s in part]) for part in (train, test)]
    for name, fitted, tested, classes in (
        ("background colour", y_train.colour, y_test.colour, len(COLOURS)),
        ("count", y_train.count, y_test.count, 3),
        ("places", *layouts, len(LAYOUTS)),
    ):
        probe = fit(x_train.mean(1), fitted, classes)
        figures[f"{name} (mean of features)"] = (probe(x_test.mean(1)).argmax(1) == tested).float().mean().item()
    covered = y_train.patches >= 0
    probe = fit(x_train[covered], y_train.patches[covered], y_train.names.shape[-1], steps=1500)
    return figures | object_accuracy(probe, x_test, test, y_test)
