"""Trains the base's VQ tokenizer: images to 8x8 codes and back, by the official rule of nearest codes.

In: a ``JanusVQVAE``. Out: the same, trained; reconstruction errors on held-out combinations.

Official rule (docs/janus.md): latent and codebook are L2-normalised, the nearest code is the one with the largest cosine,
and the decoder gets the normalised code. There are two phases, because the decoder's full-size layers cost ten times as
much as everything else on a CPU:

1. codes: encoder, codebook and the decoder's 8x8 layers learn with a cheap head that turns each 8x8 feature into its
   8x8 pixels. The codes are final after this phase.
   A code should describe its cell and not its surroundings. Without further measures, a plain background took 20 to 40
   codes (3 nats per cell, of 6.2 possible) and a third of an object's codes changed with its place, which is noise to a
   model that has to predict them. So the encoder's middle block (attention over the whole image) stays the identity,
   and a loss asks for the same latents among other neighbours; codes that differ too little to matter are merged.
2. pictures: the full decoder learns to decode the frozen codes. The residual blocks of its last level begin as the
   identity and are left out of most steps, then trained with the rest.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEDecoder, JanusVQVAEEncoder

from janus_train.demo.build.common import Figures, Images, Progress, Schedule, scenes, to_float
from janus_train.model.vq import decode_codes, encode_images

CODES_BATCH, IMAGES_BATCH = 16, 8
PEAK = 2e-3
LOCALITY = 0.4
"""Weight of the loss that asks for the same latent of a cell among other neighbours and in another place (`recompose`)."""
SAME_COSINE = 0.98
"""Codes with a larger cosine are merged. Frequent latents attract many codes without a visible difference: without
merging 8 backgrounds take 60 codes, 1.9 nats per cell; with it 15 and 0.05, at a cost of 0.15 dB of the images."""
DECAY = 0.99  # of the codebook's moving averages
FREE = 1 / 8  # share of the first phase without quantisation, before the codebook starts from k-means
RESTARTS = 0.8  # share of the first phase in which unused codes are moved


class Codebook:
    """Unit-norm codes as moving averages of their latents (van den Oord et al., 1711.00937, appendix)."""

    def __init__(self, latents: torch.Tensor, num_codes: int):
        self.codes = self._kmeans(latents, num_codes)
        self.counts = torch.full((num_codes,), 8.0)
        self.sums = self.codes * 8.0

    @staticmethod
    def _kmeans(latents: torch.Tensor, num_codes: int, rounds: int = 12) -> torch.Tensor:
        """Spherical k-means over latents (N, e)."""
        codes = latents[torch.randperm(len(latents))[:num_codes]].clone()
        for _ in range(rounds):
            nearest = (latents @ codes.T).argmax(1)
            sums = torch.zeros_like(codes).index_add_(0, nearest, latents)
            empty = torch.bincount(nearest, minlength=num_codes) == 0
            sums[empty] = latents[torch.randperm(len(latents))[: int(empty.sum())]]
            codes = F.normalize(sums, dim=1)
        return codes

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents @ self.codes.T).argmax(1)

    def update(self, latents: torch.Tensor, ids: torch.Tensor, restart: bool) -> None:
        number = torch.bincount(ids, minlength=len(self.codes)).float()
        sums = torch.zeros_like(self.codes).index_add_(0, ids, latents)
        self.counts.mul_(DECAY).add_(number, alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(sums, alpha=1 - DECAY)
        if restart:
            self._restart(latents, ids)
        self.codes = F.normalize(self.sums, dim=1)

    def _restart(self, latents: torch.Tensor, ids: torch.Tensor) -> None:
        """Move rarely used codes to latents that are far from their codes."""
        unused_codes = (self.counts < 0.05 * self.counts.mean()).nonzero()[:, 0]
        if len(unused_codes):
            badness = 1 - (latents * self.codes[ids]).sum(1)
            new_codes = latents[torch.multinomial(badness.clamp_min(1e-6), len(unused_codes))]
            self.counts[unused_codes] = 0.3 * self.counts.mean()
            self.sums[unused_codes] = new_codes * self.counts[unused_codes, None]

    def merge(self) -> None:
        """Drop every code that is nearly equal to a more frequent one. Dropped codes point away from all latents."""
        kept_codes: list[int] = []
        for code in self.counts.argsort(descending=True).tolist():
            if not kept_codes or float((self.codes[kept_codes] @ self.codes[code]).max()) < SAME_COSINE:
                kept_codes.append(code)
        is_dropped = torch.ones(len(self.codes), dtype=torch.bool)
        is_dropped[kept_codes] = False
        self.codes[is_dropped] = -F.normalize(self.codes[kept_codes].mean(0), dim=0)
        self.counts[is_dropped] = 0

    @property
    def perplexity(self) -> float:
        share = self.counts / self.counts.sum()
        return float((-(share * share.clamp_min(1e-9).log()).sum()).exp())


class PatchHead(nn.Module):
    """Predicts a feature's patch of pixels from it and its neighbours, for the first phase only."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.mix, self.out = nn.Conv2d(width, 512, 3, padding=1), nn.Conv2d(512, 3 * stride**2, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.out(F.gelu(self.mix(hidden))), self.stride)


def pixel_loss(output: torch.Tensor, target: torch.Tensor, edges: float = 0.0) -> torch.Tensor:
    """L1 + L2 / 2 in -1..1; object pixels count three times; ``edges``: weight of the error of gradients."""
    ground = target.flatten(2).median(2).values[..., None, None]  # most pixels are background, or nearly
    weights = 1 + 2 * ((target - ground).abs().amax(1, keepdim=True) > 0.02).float()
    error = output - target
    loss = (weights * (error.abs() + 0.5 * error.square())).mean() / weights.mean()
    if edges:
        loss = loss + edges * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    return loss


def start_residuals(vq: JanusVQVAE) -> None:
    """Initialise residual blocks near the identity, those of the upsampling levels exactly, and upsampling near it."""
    for name, parameter in vq.named_parameters():
        if name.endswith("conv2.weight"):
            parameter.data.mul_(0.1)
    for level in list(vq.decoder.up)[1:]:
        for block in level.block:
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
    for level in list(vq.decoder.up)[:-1]:
        weight = level.upsample.conv.weight
        identity = torch.zeros_like(weight)
        nn.init.dirac_(identity)
        weight.data.mul_(0.3).add_(identity)


def narrow(encoder: JanusVQVAEEncoder) -> None:
    """Limit the encoder's view to a cell: its middle block stays the identity, its last convolution is nearly 1x1."""
    for name, parameter in encoder.mid.named_parameters():
        parameter.requires_grad_(False)
        if "conv2" in name or "proj_out" in name:
            nn.init.zeros_(parameter)
    weight = encoder.conv_out.weight.data
    centre = 3 * weight[..., 1, 1]
    weight.mul_(0.1)
    weight[..., 1, 1] = centre


def small_layers(decoder: JanusVQVAEDecoder, latent: torch.Tensor) -> torch.Tensor:
    """The decoder's layers at 8x8."""
    hidden = decoder.mid(decoder.conv_in(latent))
    level = decoder.up[0]
    for block, attention in zip(level.block, level.attn, strict=True):
        hidden = attention(block(hidden))
    return hidden


def decode(decoder: JanusVQVAEDecoder, latent: torch.Tensor, all_layers: bool) -> torch.Tensor:
    """The decoder's forward pass; unless ``all_layers``, without the last level's blocks, which are the identity then."""
    hidden = small_layers(decoder, latent)
    last_level = len(decoder.up) - 1
    for number in range(1, last_level + 1):
        hidden = decoder.up[number - 1].upsample(hidden)
        if number < last_level or all_layers:
            for block in decoder.up[number].block:
                hidden = block(hidden)
    hidden = decoder.norm_out(hidden)
    return decoder.conv_out(hidden * torch.sigmoid(hidden))


def flat_latents(vq: JanusVQVAE, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 3, S, S) in -1..1 -> unit latents (N * P, e); e: size of a code's embedding."""
    return rearrange(F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1), "n e h w -> (n h w) e")


def as_grid(flat: torch.Tensor, like: torch.Tensor, stride: int) -> torch.Tensor:
    """(N * P, e) -> (N, e, S / stride, S / stride)"""
    side = like.shape[-1] // stride
    return rearrange(flat, "(n h w) e -> n e h w", h=side, w=side)


def recompose(pixels: torch.Tensor, latents: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a block of cells of another image into each image, and shift the result cyclically by whole cells.

    Pixels (N, 3, S, S) and their latents (N * P, e) -> the new pixels, and those cells' latents in their new places.
    """
    number, cells = len(pixels), pixels.shape[-1] // stride
    grid = latents.view(number, cells, cells, -1)
    block = torch.zeros(number, cells, cells, dtype=torch.bool)
    for row in block:
        (top, left), (height, width) = torch.randint(cells - 2, (2,)), torch.randint(2, cells, (2,))
        row[top : top + height, left : left + width] = True
    in_pixels = block.repeat_interleave(stride, 1).repeat_interleave(stride, 2)[:, None]
    mixed_pixels = torch.where(in_pixels, pixels.roll(1, 0), pixels)
    target_latents = torch.where(block[..., None], grid.roll(1, 0), grid)
    down, right = (int(n) for n in torch.randint(cells, (2,)))
    return mixed_pixels.roll((down * stride, right * stride), (2, 3)), target_latents.roll(
        (down, right), (1, 2)
    ).flatten(0, 2)


def train_codes(vq: JanusVQVAE, size: int, steps: int) -> Figures:
    """Run the first phase and store the unit-norm codebook in ``vq.quantize``."""
    stride = 2 ** (len(vq.decoder.up) - 1)
    images = Images(size)
    head = PatchHead(vq.decoder.mid.block_2.conv2.out_channels, stride)
    model = nn.ModuleList([vq, head]).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it for modules
    start_residuals(vq)
    narrow(vq.encoder)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.0)
    schedule, progress = Schedule(PEAK, steps), Progress("vq codes", steps)
    book: Codebook | None = None
    free_steps, latent_batches = int(steps * FREE), []
    for step in range(steps):
        schedule.apply(optimizer, step)
        pixels = to_float(images.batch(step, CODES_BATCH))
        latents = flat_latents(vq, pixels)
        quantised_latents, commitment, locality = latents, torch.zeros(()), torch.zeros(())
        if free_steps - 10 <= step < free_steps:
            latent_batches.append(latents.detach())
        if step == free_steps:
            book = Codebook(torch.cat([*latent_batches, latents.detach()]), vq.quantize.num_embeddings)
        if book is not None:
            ids = book.nearest(latents.detach())
            codes = book.codes[ids]
            commitment = (1 - (latents * codes).sum(1)).mean()
            quantised_latents = latents + (codes - latents).detach()  # straight through
            book.update(latents.detach(), ids, restart=step % 20 == 0 and step < RESTARTS * steps)
            mixed_pixels, target_latents = recompose(pixels, latents, stride)
            locality = (1 - (flat_latents(vq, mixed_pixels) * target_latents).sum(1)).mean()
        hidden = small_layers(vq.decoder, vq.post_quant_conv(as_grid(quantised_latents, pixels, stride)))
        loss = pixel_loss(head(hidden), pixels)
        optimizer.zero_grad()
        (loss + 0.25 * commitment + LOCALITY * locality).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        progress(
            step,
            loss=loss.item(),
            commitment=commitment.item(),
            locality=locality.item(),
            codes=book.perplexity if book else 0,
        )
    assert book is not None
    book.merge()
    vq.quantize.embedding.weight.data.copy_(book.codes)
    return {"codes: steps": steps, "codes: seconds": round(progress.seconds), "codebook perplexity": book.perplexity}


def train_images(vq: JanusVQVAE, size: int, steps: int, whole_from: float = 0.8) -> Figures:
    """Run the second phase: the decoder learns; its last level's blocks join after ``whole_from`` of the steps."""
    images = Images(size)
    stride = 2 ** (len(vq.decoder.up) - 1)
    trainable_layers = nn.ModuleList([vq.post_quant_conv, vq.decoder]).train()
    optimizer = torch.optim.AdamW(trainable_layers.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    schedule, progress = Schedule(PEAK, steps), Progress("vq images", steps)
    for step in range(steps):
        schedule.apply(optimizer, step)
        pixels = to_float(images.batch(10**6 + step, IMAGES_BATCH))
        ids = encode_images(vq, pixels).flatten()
        latent = as_grid(vq.quantize.embedding.weight.detach()[ids], pixels, stride)
        output = decode(vq.decoder, vq.post_quant_conv(latent), all_layers=step >= whole_from * steps)
        loss = pixel_loss(output, pixels, edges=0.5)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainable_layers.parameters(), 1.0)
        optimizer.step()
        progress(step, loss=loss.item())
    vq.eval()
    return {"pictures: steps": steps, "pictures: seconds": round(progress.seconds)}


@torch.no_grad()
def evaluate_vq(vq: JanusVQVAE, size: int, count: int = 200) -> Figures:
    """Reconstruction errors on held-out combinations, in 0..255, and the share of the codebook that they use."""
    vq.eval()
    _, pixels = scenes("held_out", 7003, count, size)
    ids = encode_images(vq, to_float(pixels))
    output = rearrange(decode_codes(vq, ids), "n h w c -> n c h w").float()
    error = output - pixels.float()
    ground = pixels.flatten(2).mode(2).values[..., None, None]  # the background's colour
    on_ground = (pixels == ground).all(1, keepdim=True).expand_as(error)
    return {
        "PSNR, dB": 10 * math.log10(255**2 / error.square().mean().item()),
        "mean error of the background, of 255": error[on_ground].abs().mean().item(),
        "mean error of the objects, of 255": error[~on_ground].abs().mean().item(),
        "codes used, of all": len(ids.unique()) / vq.quantize.num_embeddings,
    }
