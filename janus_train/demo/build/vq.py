"""Trains the base's VQ tokenizer: images to 6 x 6 codes and back, by the official rule of nearest codes.

In: a ``JanusVQVAE``. Out: the same, trained; reconstruction errors on held-out combinations.

Official rule (docs/janus.md): latent and codebook are L2-normalised, the nearest code is the one with the largest cosine,
and the decoder gets the normalised code. Which cells have a code is known (cells.py), so nothing has to be quantised
while training:

1. encoder and codebook: cross-entropy over the cosines of the encoder's latents and the codes, one vector for each class.
2. decoder: it learns to draw images from the codes of their cells, level by level: first the layers at 6 x 6 with a linear
   head for the pixels of a cell, then each further level with a head of its own, the whole decoder last. What the cells
   look like is learnt at 6 x 6, at a tenth of the whole decoder's cost; the levels above learn only to spread it over
   the pixels, which is the same for all cells. (The whole decoder at once: benchmarks/demo.md.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEDecoder

from janus_train.demo.build.cells import GROUNDS, CellClasses, TrainingImages
from janus_train.demo.build.common import SHARDS, Figures, Progress, Schedule, scenes, to_float
from janus_train.demo.objects import CELL, UNIT
from janus_train.demo.scenes import load_library
from janus_train.model.vq import decode_codes, encode_images


@dataclass(frozen=True)
class Phase:
    """A level that learns, with all below."""

    level: int
    steps: int
    images: int  # per step
    peak: float  # rate
    lower: float = 0.3  # weight of the lower levels' losses
    edges: float = 0.0  # weight of the error of differences between neighbouring pixels, for clear outlines


PHASES = (
    Phase(0, 6000, 16, 3e-3),
    Phase(1, 500, 16, 2e-3),
    Phase(2, 600, 8, 2e-3),
    Phase(3, 600, 8, 2e-3),
    Phase(4, 600, 8, 2e-3),
    Phase(4, 1500, 8, 1e-3, lower=0.0, edges=0.5),
)
ENCODER = (1200, 16, 2e-3)  # steps, images per step, peak rate
OBJECTS = 3.0  # weight of a pixel of any cell that is not a plain ground
MOST_COSINE = 0.8
"""Codes may be no closer than this, so that the encoder can tell them apart and rounding to bf16 changes none."""
TEMPERATURE = 0.05  # of the cosines


class PixelHead(nn.Module):
    """The pixels that a feature of a level covers, as a linear function of it. (N, width, h, w) -> (N, 3, S, S)"""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.out = nn.Conv2d(width, 3 * stride**2, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.out(hidden), self.stride)


def pixel_heads(decoder: JanusVQVAEDecoder) -> nn.ModuleList:
    """A head for every level but the last, whose head is the decoder's own."""
    widths = [level.upsample.conv.in_channels for level in list(decoder.up)[:-1]]
    return nn.ModuleList(PixelHead(width, CELL >> number) for number, width in enumerate(widths))


def start_residuals(decoder: JanusVQVAEDecoder) -> None:
    """Initialise residual blocks near the identity, those of the upsampling levels exactly, and upsampling near it."""
    for name, parameter in decoder.named_parameters():
        if name.endswith("conv2.weight"):
            parameter.data.mul_(0.1)
    for level in list(decoder.up)[1:]:
        for block in level.block:
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
    for level in list(decoder.up)[:-1]:
        weight = level.upsample.conv.weight
        identity = torch.zeros_like(weight)
        nn.init.dirac_(identity)
        weight.data.mul_(0.3).add_(identity)


def decode_levels(vq: JanusVQVAE, heads: nn.ModuleList, codes: torch.Tensor, last: int) -> list[torch.Tensor]:
    """Codes (N, h, w, e) -> the images (N, 3, S, S) of the levels 0..last; the decoder's own image is that of its last level."""
    decoder = vq.decoder
    hidden = decoder.mid(decoder.conv_in(vq.post_quant_conv(rearrange(codes, "n h w e -> n e h w"))))
    images = []
    for number, level in enumerate(decoder.up):
        for position, block in enumerate(level.block):
            hidden = block(hidden)
            if len(level.attn):
                hidden = level.attn[position](hidden)
        if number == len(decoder.up) - 1:
            hidden = decoder.norm_out(hidden)
            images.append(decoder.conv_out(hidden * torch.sigmoid(hidden)))
        else:
            images.append(heads[number](hidden))
        if number == last:
            break
        hidden = level.upsample(hidden)
    return images


def pixel_loss(output: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, edges: float = 0.0) -> torch.Tensor:
    """L1 + L2 / 2 in -1..1, weighted; ``weights``: (N, 1, S, S); ``edges``: see `Phase`."""
    error = output - target
    loss = (weights * (error.abs() + 0.5 * error.square())).mean() / weights.mean()
    if edges:
        loss = loss + edges * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    return loss


def crowding(codes: torch.Tensor) -> torch.Tensor:
    """How far the nearest neighbours among unit codes (C, e) are closer than they may be."""
    cosines = codes @ codes.T - 2 * torch.eye(len(codes))
    return F.relu(cosines.max(1).values - MOST_COSINE).mean()


def training_batch(
    images: TrainingImages, classes: CellClasses, step: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = to_float(images.batch(step, count))
    return pixels, classes(pixels)


def flat_latents(vq: JanusVQVAE, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 3, S, S) in -1..1 -> unit latents (N * P, e); e: size of a code's embedding."""
    return rearrange(F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1), "n e h w -> (n h w) e")


def train_encoder(vq: JanusVQVAE, images: TrainingImages, classes: CellClasses, effort: float = 1.0) -> Figures:
    """Learn codes, and to give each cell's latent the direction of its code; the codebook is stored in ``vq.quantize``.

    Rare classes count nearly as much as frequent ones.
    """
    all_steps, count, peak = ENCODER
    steps = max(1, round(all_steps * effort))
    vectors = nn.Parameter(torch.randn(vq.quantize.num_embeddings, vq.quantize.embedding_dim))
    weights = [*vq.encoder.parameters(), *vq.quant_conv.parameters(), vectors]
    vq.train()
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.0)
    schedule, progress = Schedule(peak, steps), Progress("vq encoder", steps)
    for step in range(steps):
        schedule.apply(optimizer, step)
        pixels, ids = training_batch(images, classes, step, count)
        targets, codes = ids.flatten(), F.normalize(vectors, dim=1)
        logits = flat_latents(vq, pixels) @ codes.T / TEMPERATURE
        rarity = torch.bincount(targets, minlength=len(codes)).float().rsqrt()[targets]
        loss = (F.cross_entropy(logits, targets, reduction="none") * rarity).sum() / rarity.sum()
        optimizer.zero_grad()
        (loss + crowding(codes)).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        is_exact = targets < classes.num_exact
        right = (logits.argmax(1) == targets)[is_exact].float().mean().item()
        progress(step, loss=loss.item(), right=right)
    with torch.no_grad():
        vq.quantize.embedding.weight.copy_(F.normalize(vectors, dim=1))
    return {"encoder: steps": steps, "encoder: seconds": round(progress.seconds)}


def train_decoder(vq: JanusVQVAE, images: TrainingImages, classes: CellClasses, effort: float = 1.0) -> Figures:
    """Learn to decode the codes of cells, level by level."""
    start_residuals(vq.decoder)
    heads = pixel_heads(vq.decoder)
    seconds, steps = 0.0, 0
    for phase in PHASES:
        phase = replace(phase, steps=max(1, round(phase.steps * effort)))
        seconds += train_level(vq, heads, images, classes, phase, steps)
        steps += phase.steps
    vq.eval()
    return {"decoder: steps": steps, "decoder: seconds": round(seconds)}


def train_level(
    vq: JanusVQVAE, heads: nn.ModuleList, images: TrainingImages, classes: CellClasses, phase: Phase, steps_before: int
) -> float:
    """Run a phase; returns its seconds."""
    codes = vq.quantize.embedding.weight.detach()
    model = nn.ModuleList([vq.post_quant_conv, vq.decoder, heads]).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    schedule, progress = Schedule(phase.peak, phase.steps), Progress(f"vq level {phase.level}", phase.steps)
    for step in range(phase.steps):
        schedule.apply(optimizer, step)
        pixels, ids = training_batch(images, classes, 10**6 + steps_before + step, phase.images)
        importance = 1 + (OBJECTS - 1) * (ids >= len(GROUNDS)).float()
        importance = importance.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)[:, None]
        *lower, output = decode_levels(vq, heads, codes[ids], phase.level)
        loss = pixel_loss(output, pixels, importance, phase.edges)
        if phase.lower:
            loss = loss + phase.lower * sum(pixel_loss(each, pixels, importance) for each in lower)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, loss=loss.item(), dB=decibels(output.detach(), pixels))
    with torch.no_grad():
        test = to_float(scenes("held_out", 7004, 64, UNIT)[1])
        output = decode_levels(vq, heads, codes[classes(test)], phase.level)[-1].clamp(-1, 1)
    print(f"vq level {phase.level}: {decibels(output, test):.1f} dB on held-out scenes", flush=True)
    return progress.seconds


def decibels(output: torch.Tensor, target: torch.Tensor) -> float:
    """PSNR of images in -1..1."""
    return 10 * math.log10(4 / (output - target).square().mean().item())


def train_vq(vq: JanusVQVAE, effort: float = 1.0) -> Figures:
    images = TrainingImages(load_library(tuple(SHARDS)))
    classes = CellClasses(images, vq.quantize.num_embeddings)
    figures = {"cells of scenes, of all codes": f"{classes.num_exact} of {len(classes.cells)}"}
    return figures | train_encoder(vq, images, classes, effort) | train_decoder(vq, images, classes, effort)


@torch.no_grad()
def evaluate_vq(vq: JanusVQVAE, size: int, count: int = 200) -> Figures:
    """Reconstruction errors on held-out combinations, in 0..255, and how many of the codes are those of their cells."""
    vq.eval()
    _, pixels = scenes("held_out", 7003, count, size)
    torch.manual_seed(0)
    classes = CellClasses(TrainingImages(load_library(tuple(SHARDS))), vq.quantize.num_embeddings)
    ids = encode_images(vq, to_float(pixels))
    output = rearrange(decode_codes(vq, ids), "n h w c -> n c h w").float()
    error = output - pixels.float()
    others = to_float(TrainingImages(load_library(tuple(SHARDS))).others_batch(count, seed=13))
    other_output = rearrange(decode_codes(vq, encode_images(vq, others)), "n h w c -> n c h w").float() / 127.5 - 1
    ground = pixels.flatten(2).mode(2).values[..., None, None]  # the background's colour
    on_ground = (pixels == ground).all(1, keepdim=True).expand_as(error)
    return {
        "PSNR, dB": 10 * math.log10(255**2 / error.square().mean().item()),
        "PSNR of other images, dB": decibels(other_output, others),
        "mean error of the background, of 255": error[on_ground].abs().mean().item(),
        "mean error of the objects, of 255": error[~on_ground].abs().mean().item(),
        "right codes of cells": (ids.view(count, -1) == classes(to_float(pixels)).flatten(1)).float().mean().item(),
    }
