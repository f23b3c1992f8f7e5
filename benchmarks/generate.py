"""Measures image generation: ours, ours with transformers' static cache, a plain loop, and transformers' ``generate``.

    python benchmarks/generate.py [--model small] [--batch 16] [--prompt-tokens 40] [--repeats 3] [--device cpu]

All modes use the same random model, prompts, guidance and temperature, in one process. All generate codes; decoding them to
pixels is the same for all and left out. With greedy sampling all must give the same codes, or the benchmark stops. On a CPU,
with one thread, it measures the process's CPU time, so that other load on the machine matters little; on a GPU the clock.
Modes take turns, ``--repeats`` times; the table has each mode's median. On a GPU it also prints the share of the
memory-bandwidth floor: reading the language model's weights once per step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import DynamicCache, JanusForConditionalGeneration, set_seed

from janus_train.compose import compose_config
from janus_train.infer import decoding
from janus_train.infer.generate import apply_guidance, generate_codes, tokens_per_image, unconditional_prompt
from janus_train.model.build import build

PAD, PLACEHOLDER, BOS, EOS, BOI, EOI = 2, 3, 0, 1, 4, 5
GUIDANCE = 5.0
SMALL = (
    "model=tiny",
    "model.name=small",
    "model.image_size=128",
    "model.text={hidden_size: 384, num_hidden_layers: 6, num_attention_heads: 6, num_key_value_heads: 6, "
    "intermediate_size: 1056, vocab_size: 1024, max_position_embeddings: 1024}",
    "model.vq={num_embeddings: 2048}",
)
"""About 11 M parameters in the language model; images of 256 codes."""


def make(model: str, device: str, dtype: torch.dtype) -> JanusForConditionalGeneration:
    overrides = SMALL if model == "small" else (f"model={model}",)
    config = compose_config(["+stage=1", *overrides]).model
    torch.manual_seed(0)
    janus = build(config, bos=BOS, eos=EOS, pad=PAD, placeholder=PLACEHOLDER, begin_of_image=BOI, end_of_image=EOI)
    with torch.no_grad():  # so far apart that rounding does not decide the most likely code
        for parameter in janus.model.generation_head.parameters():
            parameter.normal_(std=0.3)
    return janus.to(device, dtype).eval()


@torch.no_grad()
def plain_loop(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
    """Generates as the official example does, with a growing cache and ``torch.multinomial``; prompts have one length."""
    unconditional = torch.tensor([unconditional_prompt(row, PAD) for row in ids.tolist()], device=ids.device)
    embeds = janus.get_input_embeddings()(torch.cat([ids, unconditional]))
    cache, codes = DynamicCache(config=janus.config.text_config), []
    for _ in range(tokens_per_image(janus)):
        out = janus.model.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        logits = apply_guidance(janus.model.generation_head(out.last_hidden_state[:, -1]), GUIDANCE)
        code = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1)[:, 0]
        codes.append(code)
        embeds = janus.prepare_embeddings_for_image_generation(code)[:, None].repeat(2, 1, 1)
    return torch.stack(codes, 1)


def transformers_generate(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
    """Generates with transformers' own method, called as in its documentation."""
    return janus.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="image",
        guidance_scale=GUIDANCE,
        do_sample=not greedy,
        temperature=1.0,
        top_k=None,
        use_cache=True,
        max_length=ids.shape[1] + tokens_per_image(janus),
    )


def our_loop(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
    return generate_codes(
        janus,
        ids.tolist(),
        pad_id=PAD,
        guidance=GUIDANCE,
        temperature=1.0,
        seeds=range(len(ids)),
        greedy=greedy,
    )


def other_cache(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
    """Runs `our_loop` with the other device's cache: transformers' static one on a CPU, the preallocated one on a GPU."""
    decoder_class = decoding.Decoder

    class OtherDecoder(decoder_class):
        def __init__(self, janus: JanusForConditionalGeneration, room: int):
            super().__init__(janus, room, fixed=ids.device.type == "cpu")

    from janus_train.infer import generate as module

    module.Decoder = OtherDecoder
    try:
        return our_loop(janus, ids, greedy)
    finally:
        module.Decoder = decoder_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=["small", "tiny", "janus_pro_1b", "janus_pro_7b"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--bandwidth", type=float, help="memory bandwidth of the GPU in GB/s (an H100: 3350), for the floor"
    )
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    janus = make(options.model, options.device, torch.float32 if options.device == "cpu" else torch.bfloat16)
    middle = torch.randint(6, 1000, (options.batch, options.prompt_tokens - 2))
    ends = torch.tensor([BOS, BOI]).expand(options.batch, 2)
    ids = torch.cat([ends[:, :1], middle, ends[:, 1:]], 1).to(options.device)
    modes: dict[str, Callable[[JanusForConditionalGeneration, torch.Tensor, bool], torch.Tensor]] = {
        "ours": our_loop,
        "ours, the other device's cache": other_cache,
        "plain loop, growing cache": plain_loop,
        "transformers' generate": transformers_generate,
    }
    check(janus, ids[:2], modes)
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(options.repeats):
        for name, mode in modes.items():
            seconds[name].append(time_call(lambda mode=mode: mode(janus, ids, False), options.device))
    report(seconds, options, janus)


def check(
    janus: JanusForConditionalGeneration, ids: torch.Tensor, modes: dict[str, Callable[..., torch.Tensor]]
) -> None:
    """Stops if a mode gives other codes than ours; on a GPU, bf16 rounding may change codes after the first."""
    attention = janus.config.text_config._attn_implementation
    janus.set_attn_implementation({"text_config": "sdpa"})  # the packed one is for training
    codes_by_mode = {name: mode(janus, ids, True) for name, mode in modes.items()}
    num_compared = 1 if attention and ids.device.type == "cuda" else None
    for name, codes in codes_by_mode.items():
        if not torch.equal(codes[:, :num_compared], codes_by_mode["ours"][:, :num_compared]):
            sys.exit(f"error: {name} generates other codes: not the same work")


def time_call(call: Callable[[], object], device: str) -> float:
    set_seed(0)
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def report(seconds: dict[str, list[float]], options: argparse.Namespace, janus: JanusForConditionalGeneration) -> None:
    fastest = statistics.median(seconds["ours"])
    print("| mode | images/s | s per batch (least to most) | of ours' time |\n|---|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"| {name} | {options.batch / median:.3f} | {median:.2f} ({min(times):.2f} to {max(times):.2f}) "
            f"| {median / fastest:.2f} |"
        )
    if options.device == "cuda" and options.bandwidth:
        size = sum(p.numel() * p.element_size() for p in janus.model.language_model.layers.parameters())
        floor = size / (options.bandwidth * 1e9) * tokens_per_image(janus)
        print(f"ours: {100 * floor / fastest:.0f} % of the memory-bandwidth floor ({floor:.2f} s per batch)")


if __name__ == "__main__":
    main()
