"""The attention kernel by what its caller says of the documents, and against plain attention; codes against a CPU's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.gpu.measure import device, has_gpu, say, seconds
from benchmarks.rows import full_rows
from benchmarks.train import config_of
from janus_train.interop.vq_encoder import load_code_encoder
from janus_train.model.vq import decode_codes, encode_images
from janus_train.paths import ROOT

ROWS, HEADS, HEAD_DIM = 4, 16, 128
"""Four of the paper's rows, and the 1B's heads."""


def main() -> None:
    if has_gpu():
        _attention()
    else:
        say(what="variable-length attention", skipped="it runs on a GPU only")
    _codes()


def _attention() -> None:
    from torch.nn.attention.varlen import varlen_attn

    row_tokens = 4096
    samples, _ = full_rows(config_of("janus_pro_1b", 2), ROWS)
    lengths = [len(sample) for sample in samples]
    length = ROWS * row_tokens
    lengths.append(length - sum(lengths))
    shape = (length, HEADS, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device(), dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    slope = torch.randn_like(q)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)

    def attend(bounds: torch.Tensor, longest: int) -> torch.Tensor:
        return varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=HEAD_DIM**-0.5, window_size=(-1, 0))

    def both_ways(bounds: torch.Tensor, longest: int) -> None:
        torch.autograd.grad(attend(bounds, longest), (q, k, v), slope)

    for num_bounds in (len(ends), 49, 97, 257):
        bounds = torch.cat([ends, ends[-1:].expand(max(0, num_bounds - len(ends)))]).to(device())
        for longest in (max(lengths), 2048, row_tokens):
            time_s = seconds(lambda bounds=bounds, longest=longest: both_ways(bounds, longest))
            say(
                what="variable-length attention, forward and backward",
                documents=len(lengths),
                bounds=len(bounds),
                longest=longest,
                ms=1e3 * time_s,
            )
    output = attend(ends.to(device()), max(lengths)).float()
    expected = torch.empty(shape, device=device())
    for start, end in zip(ends.tolist(), ends.tolist()[1:], strict=False):
        parts = (t[start:end].detach().float().transpose(0, 1)[None] for t in (q, k, v))
        expected[start:end] = F.scaled_dot_product_attention(*parts, is_causal=True)[0].transpose(0, 1)
    say(what="variable-length attention against fp32", relative=float((output - expected).norm() / expected.norm()))


def _codes() -> None:
    """The shipped VQ tokenizer on this device and on the CPU: the same codes, the same pixels."""
    vq = load_code_encoder(ROOT / "data_recipes/demo/base", torch.device("cpu")).vqmodel
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(32, 3, 8, 8, generator=generator) * 2 - 1
    pixels = F.interpolate(coarse, size=96, mode="bicubic").clamp(-1, 1)
    on_cpu = encode_images(vq, pixels)
    images = decode_codes(vq, on_cpu[:8]).int()
    vq.to(device())
    on_device = encode_images(vq, pixels.to(device())).cpu()
    levels = (decode_codes(vq, on_cpu[:8].to(device())).cpu().int() - images).abs().max()
    share = float((on_cpu == on_device).float().mean())
    say(what="codes as on a CPU", share=share, largest_pixel_difference=int(levels))


if __name__ == "__main__":
    main()
