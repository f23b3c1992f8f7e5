"""A causal language model as the base of a Janus model: loaded, extended by Janus's tokens, and checked on packed rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from janus_train.data.special_tokens import BOS, EOS, SPECIAL_TOKENS
from janus_train.errors import UserError, one_line
from janus_train.interop.model_folder import read_config
from janus_train.interop.write import quiet
from janus_train.model import attention

ROW_MULTIPLE = 64
"""Embedding tables that grow do so to a multiple of this: matrix kernels want it."""

NOISE = 0.1
"""Noise of a new row, in units of the old rows' spread: enough to tell new tokens apart while embeddings are frozen (stage 1)."""


@dataclass(frozen=True)
class BaseLanguageModel:
    """``config`` and ``tensors`` as Janus takes them: untied, with rows for every token."""

    config: Any
    tensors: dict[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerFast
    new_tokens: list[str]


def load_base_language_model(folder: Path, generator: torch.Generator) -> BaseLanguageModel:
    """The whole model is held in memory, in its own type. Raises `UserError` if it cannot be the base of a Janus."""
    model, tokenizer = _load(folder)
    check_packs(model, folder)
    config = model.config.get_text_config()
    own = {
        BOS: _own(tokenizer.bos_token_id, config.bos_token_id),
        EOS: _own(tokenizer.eos_token_id, config.eos_token_id),
    }
    new, used = extend_tokenizer(tokenizer), len(tokenizer)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    rows = len(embedding) if used <= len(embedding) else -(-used // ROW_MULTIPLE) * ROW_MULTIPLE
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in new}
    known = used - len(new)
    wide = {n: extend_rows(t, rows, known, ids, own, generator) for n, t in (("in", embedding), ("out", head))}
    tensors = {f"model.language_model.{name}": t for name, t in model.base_model.state_dict().items()}
    tensors["model.language_model.embed_tokens.weight"] = wide["in"]
    tensors["lm_head.weight"] = wide["out"]
    _as_janus(config, rows)
    return BaseLanguageModel(config, tensors, tokenizer, new)


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if (folder / "config.json").is_file():
        read_config(folder)  # refuses what nobody can build
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except Exception as error:  # transformers, tokenizers and safetensors each have their own
        raise UserError(f"{folder} cannot be loaded as a causal language model: {one_line(error, 200)}") from None
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{folder} is not complete: {len(missing)} tensors are missing, the first is {missing[0]}")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"{folder}: its tokenizer has no tokenizer.json form, which training needs")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise UserError(f"{folder}: its text head has a bias, which Janus has no place for")
    if not hasattr(model.base_model, "embed_tokens"):
        raise UserError(f"{folder}: {model.config.model_type} names its embeddings in another way than Janus can take")
    return model, tokenizer


def _own(*ids: int | list[int] | None) -> int | None:
    """The first that there is; of several ends of sequence, the first."""
    first = next((i for i in ids if i is not None), None)
    return first[0] if isinstance(first, list) else first


def extend_tokenizer(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Adds those of Janus's special tokens that are missing, in their order; returns them."""
    vocabulary = tokenizer.get_vocab()
    new = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in new])
    return new


@torch.no_grad()
def extend_rows(
    table: torch.Tensor,
    rows: int,
    known: int,
    new: dict[str, int],
    own: dict[str, int | None],
    generator: torch.Generator,
) -> torch.Tensor:
    """A copy of an embedding or head (V, D) with ``rows`` rows, of which ``new`` (token -> id) start anew.

    Janus's begin and end of sequence start as the model's ``own``, which keeps what it knows of them. The other new ones
    start at the mean of the ``known`` first rows, plus noise: at the mean a token takes hardly any probability from the
    old ones, whatever the text (Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021).
    """
    old = table[:known].float()
    mean, spread = old.mean(dim=0), old.std(dim=0)
    wide = torch.empty(rows, table.shape[1], dtype=table.dtype)
    kept = min(rows, len(table))
    wide[:kept] = table[:kept]
    fresh = [*range(len(table), rows), *(i for i in new.values() if i < len(table))]
    for i in sorted(fresh):
        noise = torch.randn(table.shape[1], generator=generator)
        wide[i] = (mean + NOISE * spread * noise).to(table.dtype)
    for token, i in new.items():
        source = own.get(token)
        if source is not None:
            wide[i] = table[source]
    return wide


def _as_janus(config: Any, rows: int) -> None:
    """In place: text head and embeddings untied, as Janus has them, and every layer attends to the whole document.

    Layers that attend within a window see all of a row that is no longer than the window: such a model gets a context of
    the window's length, and is then the same model.
    """
    config.vocab_size = rows
    config.tie_word_embeddings = False
    window = attention.sliding_window(config)
    if window is not None:
        config.max_position_embeddings = min(config.max_position_embeddings, window)
    for key, value in (("use_sliding_window", False), ("sliding_window", None)):
        if hasattr(config, key):
            setattr(config, key, value)
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * config.num_hidden_layers


@torch.no_grad()
def check_packs(model: PreTrainedModel, folder: Path) -> None:
    """Raises `UserError` unless documents packed into a row give what each gives alone: the proof on the model itself."""
    base, vocabulary = model.base_model, model.get_input_embeddings().weight.shape[0]
    lengths = (5, 3, 6)
    ids = (torch.arange(1, sum(lengths) + 1) * 37 % vocabulary)[None]
    where = torch.cat([torch.arange(n) for n in lengths])[None]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    model.eval()
    try:
        alone = [base(input_ids=part, use_cache=False).last_hidden_state for part in ids.split(lengths, dim=1)]
        model.set_attn_implementation(attention.NAME)
        packed = base(
            inputs_embeds=model.get_input_embeddings()(ids),
            position_ids=where,
            attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool),
            use_cache=False,
            documents=attention.Documents(bounds, max(lengths)),
        ).last_hidden_state
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{folder}: {model.config.model_type} does not run on packed rows ({one_line(error, 200)})"
        ) from None
    wanted = torch.cat(alone, dim=1).float()
    off = float((packed.float() - wanted).abs().max() / wanted.abs().max())
    if not off < (1e-3 if base.dtype == torch.float32 else 0.05):
        raise UserError(
            f"{folder}: {model.config.model_type} gives other states for packed documents than for each alone (off by "
            f"{off:.0%}): its attention or positions work in a way that packed training cannot follow"
        )
