"""Pretrains the base's understanding encoder by contrasting images with names, as CLIP and SigLIP do.

Here the texts are short and few (object names, background colours, counts), so every image is contrasted with all of them
and not only with those of its batch. With all texts, CLIP's softmax (arXiv 2103.00020) learns faster than SigLIP's
sigmoids, which spend a long time on learning that most names do not fit. The "text tower" is a table of label embeddings.
Pooling (an attention with one query per place) and the table are used only in this pretraining; only the encoder is
kept, whose patch features Janus uses. A second loss predicts for each patch the object that covers it and where that
stands, like SigLIP 2's local losses, so that place and identity can be read from the features with a linear map. A third
is that of captions and answers that the base's language model reads from the features (reader.py).

In: a ``JanusVisionModel``. Out: the same, trained; accuracies of linear probes on held-out combinations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.janus.modeling_janus import JanusVisionModel

from janus_train.demo.build.common import SHARDS, Figures, Progress, Schedule, scenes, to_float, to_tensor
from janus_train.demo.build.documents import ASKED
from janus_train.demo.build.reader import ImageReader
from janus_train.demo.objects import PLACES_OF_COUNT
from janus_train.demo.scenes import BACKGROUNDS, UNIT, Library, Scene, class_scene, load_library, render, sample_scene

PLACES = [places[0] for places in PLACES_OF_COUNT[1]]
COLOURS = list(BACKGROUNDS)
IMAGES = 32  # with labels, per step
READ = 16  # images that the language model reads, per step
READING = 3.0  # weight of the loss of its texts


class Labels:
    """The targets of pretraining and probes for a batch of N scenes. ``no_object`` stands for "no object"."""

    def __init__(self, scene_batch: list[Scene], patches_a_side: int):
        count, no_object = len(scene_batch), len(load_library(tuple(SHARDS)).objects)
        self.colour = torch.tensor([COLOURS.index(s.background) if s.background else -1 for s in scene_batch])
        self.count = torch.tensor([len(s.objects) - 1 for s in scene_batch])
        self.at_place = torch.full((count, len(PLACES)), no_object)  # the object's number
        self.patches = torch.full((count, patches_a_side**2), no_object)  # the object that covers the patch's center
        self.patch_places = torch.full((count, patches_a_side**2), -1)  # the place of that object
        self.no_object = no_object
        middles = (np.arange(patches_a_side) + 0.5) * UNIT / patches_a_side
        for n, scene in enumerate(scene_batch):
            for placed_object in scene.objects:
                self.at_place[n, PLACES.index(placed_object.place)] = placed_object.object.number
                inside_x = np.abs(middles - placed_object.x) < placed_object.side / 2
                inside_y = np.abs(middles - placed_object.y) < placed_object.side / 2
                inside = torch.from_numpy(np.outer(inside_y, inside_x).ravel())
                self.patches[n, inside] = placed_object.object.number
                self.patch_places[n, inside] = PLACES.index(placed_object.place)


class LabelHead(nn.Module):
    """Pooling and label embeddings, for pretraining only. Features (N, P, width) -> logits."""

    def __init__(self, width: int, num_objects: int):
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(PLACES), width) * 0.5)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.patch = nn.Linear(width, width)
        self.names = nn.Linear(width, num_objects + 1)
        self.patch_place = nn.Linear(width, len(PLACES))
        self.colour, self.count = nn.Linear(width, len(COLOURS)), nn.Linear(width, len(PLACES_OF_COUNT))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of names for each place (N, places, objects + 1) and for each patch (N, P, objects + 1)."""
        weights = torch.softmax(self.query @ self.key(features).transpose(1, 2) / features.shape[-1] ** 0.5, dim=-1)
        return self.names(weights @ self.value(features)), self.names(self.patch(features))


def pretraining_loss(head: LabelHead, features: torch.Tensor, labels: Labels) -> torch.Tensor:
    at_place, a_patch = head(features)
    mean = features.mean(1)
    has_colour = labels.colour >= 0  # class images have no background to name
    is_covered = (labels.patches != labels.no_object).flatten()
    names = F.cross_entropy(a_patch.flatten(0, 1), labels.patches.flatten(), reduction="none")
    is_present = (labels.at_place != labels.no_object).flatten()
    patch_places = F.cross_entropy(
        head.patch_place(features).flatten(0, 1), labels.patch_places.flatten(), ignore_index=-1
    )
    places = F.cross_entropy(at_place.flatten(0, 1), labels.at_place.flatten(), reduction="none")
    return (
        places[is_present].mean()
        + places[~is_present].mean()
        + names[is_covered].mean()
        + patch_places
        + 0.3 * names[~is_covered].mean()
        + F.cross_entropy(head.colour(mean[has_colour]), labels.colour[has_colour])
        + F.cross_entropy(head.count(mean[has_colour]), labels.count[has_colour])
    )


def training_batch(library: Library, rng: np.random.Generator, size: int) -> tuple[list[Scene], torch.Tensor]:
    """Three quarters scenes of the training split, one quarter class images."""
    scene_batch = []
    for number in range(IMAGES):
        if number % 4 == 3:
            scene_batch.append(class_scene(library.objects[rng.integers(len(library.objects))]))
        else:
            scene_batch.append(sample_scene(library, rng, "train"))
    return scene_batch, to_tensor([render(scene, library, size) for scene in scene_batch])


def train_vision(
    janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, size: int, steps: int, seed: int
) -> Figures:
    """Train the vision encoder by labels and by what the base's language model, which stays as it is, reads from it."""
    vision = janus.model.vision_model
    library = load_library(tuple(SHARDS))
    head, reader = LabelHead(vision.config.hidden_size, len(library.objects)), ImageReader(janus, tokenizer, size)
    janus.requires_grad_(False).eval()
    vision.requires_grad_(True).train()
    weights = [*vision.parameters(), *head.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.01)
    schedule, progress = Schedule(2e-3, steps, warmup=100), Progress("vision", steps)
    rng = np.random.default_rng(seed)
    side = size // vision.config.patch_size
    for step in range(steps):
        schedule.apply(optimizer, step)
        scene_batch, pixels = training_batch(library, rng, size)
        labels = pretraining_loss(head, vision(to_float(pixels)).last_hidden_state, Labels(scene_batch, side))
        reading = reader(vision, reader.documents(step * READ, READ, "train"))
        optimizer.zero_grad()
        (labels + READING * reading).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        progress(step, labels=labels.item(), reading=reading.item())
    with torch.no_grad():
        held_out = [reader(vision, reader.documents(start, READ, "held_out")).item() for start in range(0, 256, READ)]
    answers = {f"answers about images, {sort}": reader.right_answers(vision.eval(), sort, 240) for sort in ASKED}
    return {
        "steps": steps,
        "seconds": round(progress.seconds),
        "perplexity of held-out texts about images": math.exp(sum(held_out) / len(held_out)),
        **answers,
    }


LAYOUTS = [places for arrangements in PLACES_OF_COUNT.values() for places in arrangements]


def features_of(vision: JanusVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, S, S) -> features (N, P, width)."""
    with torch.no_grad():
        return torch.cat([vision(to_float(chunk)).last_hidden_state for chunk in pixels.split(64)])


def fit(inputs: torch.Tensor, targets: torch.Tensor, classes: int, steps: int = 400) -> nn.Linear:
    """Fit a linear classifier by gradient descent (logistic regression on frozen features)."""
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
def object_accuracy(probe: nn.Linear, features: torch.Tensor, scene_batch: list[Scene], labels: Labels) -> Figures:
    """Top-1 accuracy over all objects, by size: the patches of an object vote with their log-probabilities."""
    hits: dict[int, list[bool]] = {}
    for n, scene in enumerate(scene_batch):
        votes = F.log_softmax(probe(features[n]), dim=-1)  # (P, objects)
        for placed_object in scene.objects:
            object_patches = labels.patches[n] == placed_object.object.number
            guess = int(votes[object_patches].sum(0).argmax())
            hits.setdefault(placed_object.side, []).append(guess == placed_object.object.number)
    return {f"object at {side} px, of all {probe.out_features}": sum(h) / len(h) for side, h in sorted(hits.items())}


def evaluate_vision(vision: JanusVisionModel, size: int, train_count: int = 4000, count: int = 800) -> Figures:
    """Accuracies of linear probes on held-out combinations; the probes are fitted on new scenes of the training split."""
    vision.eval()
    side = size // vision.config.patch_size
    sets = [scenes("train", 7001, train_count, size), scenes("held_out", 7002, count, size)]
    (train, train_pixels), (test, test_pixels) = sets
    x_train, x_test = features_of(vision, train_pixels), features_of(vision, test_pixels)
    y_train, y_test = Labels(train, side), Labels(test, side)
    figures: Figures = {}
    layouts = [torch.tensor([LAYOUTS.index(tuple(p.place for p in s.objects)) for s in part]) for part in (train, test)]
    probes = (
        ("background colour", y_train.colour, y_test.colour, len(COLOURS)),
        ("count", y_train.count, y_test.count, len(PLACES_OF_COUNT)),
        ("places", layouts[0], layouts[1], len(LAYOUTS)),
    )
    for name, train_targets, test_targets, classes in probes:
        probe = fit(x_train.mean(1), train_targets, classes)
        figures[f"{name} (mean of features)"] = (probe(x_test.mean(1)).argmax(1) == test_targets).float().mean().item()
    is_covered = y_train.patches != y_train.no_object
    probe = fit(x_train[is_covered], y_train.patches[is_covered], y_train.no_object, steps=1500)
    return figures | object_accuracy(probe, x_test, test, y_test)
