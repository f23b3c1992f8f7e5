"""``janus-train assemble``: makes a model for stage 1 from base models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.options import NewFolder


def assemble(
    llm: Annotated[
        str, typer.Option(help="Causal language model that transformers loads (Llama, Qwen, ...): folder or hub id.")
    ],
    vision: Annotated[
        str, typer.Option(help="SigLIP in transformers' layout, of any image and patch size: folder or hub id.")
    ],
    vq: Annotated[Path, typer.Option(help="VQ tokenizer of LlamaGen: a file such as vq_ds16_t2i.pt.")],
    out: NewFolder,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights that start at random.")] = 0,
) -> None:
    """Assemble a Janus model for stage 1 from a language model, a SigLIP and a VQ tokenizer.

    The adaptors and the image head start at random, the code embeddings as the L2-normalised codebook. Those of Janus's
    special tokens that the tokenizer lacks are added: begin and end of sequence start as the language model's own, the
    others as the mean of its embeddings with a little noise. A tied head is untied by copying. Train the model with
    accelerate launch train.py +stage=1 model=from_folder init_from=OUT data.recipe=...

    \b
    Example:
      janus-train assemble --llm Qwen/Qwen3-0.6B --vision google/siglip-large-patch16-384 \\
        --vq vq_ds16_t2i.pt --out base
    """
    from janus_train.interop.assemble import assemble as run

    assembled_model = run(llm, vision, vq, out, seed)
    config, tokens = assembled_model.config, assembled_model.new_tokens
    print(f"language model: {config.text_config.model_type}, {config.text_config.vocab_size} rows of embeddings")
    print(f"new tokens: {' '.join(tokens) or 'none, the tokenizer has them all'}")
    print(
        f"images: {config.vision_config.num_image_tokens} tokens; {config.vision_config.image_size} pixels a side to understand, "
        f"{assembled_model.generation_image_size} to generate"
    )
    print(out)
