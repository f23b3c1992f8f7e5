"""Drawing speed: ours, ours with transformers' static cache, a plain loop with a growing cache, and transformers' ``generate``.

    python benchmarks/generate.py [--model small] [--batch 16] [--prompt-tokens 40] [--repeats 3] [--device cpu]

The same random model, prompts, guidance and temperature for all, in one process. All draw codes; decoding them to pixels is
the same for all and left out. With the likeliest code each time all must come to the same codes, or the benchmark
stops. On a CPU, one thread, the process's own CPU time is taken, so that what else the machine does counts little; on a GPU
the clock. Modes take turns, ``--repeats`` times; the table has each mode's median. On a GPU also the share of the
memory-bandwidth floor: reading the language model's weights once a step.
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
    with torch.no_grad():  # far enough apart that rounding does not choose the likeliest code
        for parameter in janus.model.generation_head.parameters():
            parameter.normal_(std=0.3)
    return janus.to(device, dtype).eval()


@torch.no_grad()
def plain(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
    """What the official example does: a growing cache, ``torch.multinomial``; prompts of one length."""
    without = torch.tensor([unconditional_prompt(row, PAD) for row in ids.tolist()], device=ids.device)
    embeds = janus.get_input_embeddings()(torch.cat([ids, without]))
    cache, codes = DynamicCache(config=janus.config.text_config), []
    for _ in range(tokens_per_image(janus)):
        out = janus.model.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        logits = apply_guidance(janus.model.generation_head(out.last_hidden_state[:, -1]), GUIDANCE)
        picked = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1)[:, 0]
        codes.append(picked)
        embeds = janus.prepare_embeddings_for_image_generation(picked)[:, None].repeat(2, 1, 1)
    return torch.stack(codes, 1)


def official(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
    """transformers' own, as its documentation calls it."""
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


def ours(janus: JanusForConditionalGeneration, ids: torch.Tensor, greedy: bool) -> torch.Tensor:
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
    """`ours` with the cache of the other device: transformers' static one on a CPU, the roomy one without graphs on a GPU."""
    kept = decoding.Decoder

    class Other(kept):
        def __init__(self, janus: JanusForConditionalGeneration, room: int):
            super().__init__(janus, room, fixed=ids.device.type == "cpu")

    from janus_train.infer import generate as module

    module.Decoder = Other
    try:
        return ours(janus, ids, greedy)
    finally:
        module.Decoder = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=["small", "tiny", "janus_pro_1b", "janus_pro_7b"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bandwidth", type=float, help="Of the GPU's memory, GB/s (an H100: 3350): for the floor.")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    janus = make(given.model, given.device, torch.float32 if given.device == "cpu" else torch.bfloat16)
    inside = torch.randint(6, 1000, (given.batch, given.prompt_tokens - 2))
    ends = torch.tensor([BOS, BOI]).expand(given.batch, 2)
    ids = torch.cat([ends[:, :1], inside, ends[:, 1:]], 1).to(given.device)
    modes: dict[str, Callable[[JanusForConditionalGeneration, torch.Tensor, bool], torch.Tensor]] = {
        "ours": ours,
        "ours, the other device's cache": other_cache,
        "plain loop, growing cache": plain,
        "transformers' generate": official,
    }
    check(janus, ids[:2], modes)
    taken: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(given.repeats):
        for name, mode in modes.items():
            taken[name].append(timed(lambda mode=mode: mode(janus, ids, False), given.device))
    report(taken, given, janus)


def check(
    janus: JanusForConditionalGeneration, ids: torch.Tensor, modes: dict[str, Callable[..., torch.Tensor]]
) -> None:
    """Stops if a mode does other work than ours; on a GPU rounding in bf16 may choose another code after a while."""
    attention = janus.config.text_config._attn_implementation
    janus.set_attn_implementation({"text_config": "sdpa"})  # the packed one is for training
    drawn = {name: mode(janus, ids, True) for name, mode in modes.items()}
    first = 1 if attention and ids.device.type == "cuda" else None
    for name, codes in drawn.items():
        if not torch.equal(codes[:, :first], drawn["ours"][:, :first]):
            sys.exit(f"error: {name} draws other codes: not the same work")


def timed(call: Callable[[], object], device: str) -> float:
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


def report(taken: dict[str, list[float]], given: argparse.Namespace, janus: JanusForConditionalGeneration) -> None:
    fastest = statistics.median(taken["ours"])
    print("| mode | pictures/s | s a batch (least to most) | of ours' time |\n|---|---|---|---|")
    for name, times in taken.items():
        median = statistics.median(times)
        print(
            f"| {name} | {given.batch / median:.3f} | {median:.2f} ({min(times):.2f} to {max(times):.2f}) "
            f"| {median / fastest:.2f} |"
        )
    if given.device == "cuda" and given.bandwidth:
        size = sum(p.numel() * p.element_size() for p in janus.model.language_model.layers.parameters())
        floor = size / (given.bandwidth * 1e9) * tokens_per_image(janus)
        print(f"ours: {100 * floor / fastest:.0f} % of the memory-bandwidth floor ({floor:.2f} s a batch)")


if __name__ == "__main__":
    main()
