"""Generation with the 1B: 16 images at a time and one, ours against transformers' and a plain loop, and the VQ tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import JanusForConditionalGeneration, set_seed

from benchmarks.generate import BOI, BOS, make, our_loop, plain_loop, transformers_generate
from benchmarks.gpu.measure import device, has_gpu, one_line, peak_gb, say, seconds, wall_seconds
from janus_train.infer.generate import tokens_per_image
from janus_train.model.vq import decode_codes, encode_images, generation_image_size

Mode = Callable[[JanusForConditionalGeneration, torch.Tensor, bool], torch.Tensor]
MODES: dict[str, Mode] = {
    "ours": our_loop,
    "transformers' generate": transformers_generate,
    "plain loop": plain_loop,
}
PROMPT_TOKENS = 40


def main() -> None:
    modes = _equal_modes()
    janus = make("janus_pro_1b" if has_gpu() else "tiny", str(device()), torch.bfloat16 if has_gpu() else torch.float32)
    janus.set_attn_implementation({"text_config": "sdpa"})
    bandwidth = _bandwidth()
    weights = sum(p.numel() * p.element_size() for p in janus.model.language_model.layers.parameters())
    floor_s = weights / bandwidth * tokens_per_image(janus)
    for batch in (16, 1) if has_gpu() else (2,):
        ids = _prompts(batch)
        for name, mode in modes.items():
            times = []
            for _ in range(2 if name == "ours" else 1):  # the first one captures the graphs
                set_seed(0)
                times.append(wall_seconds(lambda mode=mode, ids=ids: mode(janus, ids, False)))
            fastest = min(times)
            say(
                mode=name,
                batch=batch,
                seconds=fastest,
                first_s=times[0],
                images_per_s=batch / fastest,
                share_of_bandwidth=floor_s / fastest,
                **peak_gb(),
            )
    _vq(janus)


def _prompts(batch: int) -> torch.Tensor:
    words = torch.randint(6, 1000, (batch, PROMPT_TOKENS - 2), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([BOS, BOI]).expand(batch, 2)
    return torch.cat([ends[:, :1], words, ends[:, 1:]], 1).to(device())


def _equal_modes() -> dict[str, Mode]:
    """The modes that work here; in fp32 with a small model all must draw the same codes greedily."""
    small = make("small" if has_gpu() else "tiny", str(device()), torch.float32)
    small.set_attn_implementation({"text_config": "sdpa"})
    codes: dict[str, torch.Tensor] = {}
    for name, mode in MODES.items():
        try:
            codes[name] = mode(small, _prompts(2), True)
        except Exception as error:
            say(mode=name, error=one_line(error))
    equal = {name: bool(torch.equal(values, codes["ours"])) for name, values in codes.items()}
    say(what="the most likely codes are equal in fp32", **equal)
    return {name: MODES[name] for name in codes}


def _bandwidth() -> float:
    """Bytes per second of a copy on the device, read and write together."""
    count = 1 << 28 if has_gpu() else 1 << 20
    source, target = (torch.empty(count, device=device()) for _ in range(2))
    return 8 * count / seconds(lambda: target.copy_(source), 5)


def _vq(janus: JanusForConditionalGeneration) -> None:
    vq, P = janus.model.vqmodel.float(), tokens_per_image(janus)
    side = generation_image_size(janus.config)
    ids = torch.randint(0, janus.config.vq_config.num_embeddings, (8, P), device=device())
    pixels = torch.rand(8, 3, side, side, device=device()) * 2 - 1
    say(
        what="VQ tokenizer",
        side=side,
        decode_1_ms=1e3 * seconds(lambda: decode_codes(vq, ids[:1]), 3, 1),
        decode_8_ms=1e3 * seconds(lambda: decode_codes(vq, ids), 2, 1),
        encode_8_ms=1e3 * seconds(lambda: encode_images(vq, pixels), 2, 1),
    )


if __name__ == "__main__":
    main()
