"""``janus-train assemble``: a stage-1 start from base parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def assemble(
    llm: Annotated[
        str, typer.Option(help="A causal language model that transformers loads (Llama, Qwen, ...): folder or hub id.")
    ],
    vision: Annotated[
        str, typer.Option(help="A SigLIP in transformers' layout, of any size and patch size: folder or hub id.")
    ],
    vq: Annotated[Path, typer.Option(help="LlamaGen's VQ tokenizer: a file such as vq_ds16_t2i.pt.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the weights that start anew.")] = 0,
) -> None:
    """Put a Janus together from a language model, a SigLIP and a VQ tokenizer, ready for stage 1.

    Adaptors and image head start at random, the code embeddings as the L2-normalised codebook. The tokenizer gets those
    of Janus's special tokens that it lacks: begin and end of sequence start as the language model's own, the others at
    the mean of its embeddings plus a little noise. A tied head is untied by copying. Train it with
    accelerate launch train.py +stage=1 model=from_folder init_from=OUT data.recipe=...
    """
    from janus_train.interop.assemble import assemble as run

    made = run(llm, vision, vq, out, seed)
    config, tokens = made.config, made.new_tokens
    print(f"language model: {config.text_config.model_type}, {config.text_config.vocab_size} rows of embeddings")
    print(f"new tokens: {' '.join(tokens) or 'none, the tokenizer had them all'}")
    print(
        f"pictures: {config.vision_config.num_image_tokens} tokens; {config.vision_config.image_size} pixels a side to look "
        f"at, {made.generation_image_size} to draw"
    )
    print(out)
