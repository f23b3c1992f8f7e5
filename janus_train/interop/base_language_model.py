"""Loads a causal language model as the base of a Janus model, adds Janus's tokens and checks it on packed rows."""

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
from janus_train.files import refuse_lfs_pointer
from janus_train.interop.model_folder import read_config
from janus_train.interop.tensors import WRAPPERS
from janus_train.interop.write import silence_transformers
from janus_train.model import attention

ROW_MULTIPLE = 64
"""Embedding tables that grow do so to a multiple of this, which matrix kernels prefer."""

_PLAIN_NAMES = {rf"(?<![^.]){wrapper}\.": "" for wrapper in WRAPPERS}

NOISE = 0.1
"""Noise of a new row, in units of the old rows' spread: enough to tell new tokens apart while embeddings are frozen (stage 1)."""


@dataclass(frozen=True)
class BaseLanguageModel:
    """A language model for Janus: embeddings and head are untied and have rows for every token."""

    config: Any
    tensors: dict[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerFast
    new_tokens: list[str]


def load_base_language_model(folder: Path, generator: torch.Generator) -> BaseLanguageModel:
    """Loads the model into memory, in its own type. Raises `UserError` if it cannot be the base of a Janus model."""
    model, tokenizer = _load(folder)
    check_packs(model, folder)
    config = model.config.get_text_config()
    own_ids = {
        BOS: _first_id(tokenizer.bos_token_id, config.bos_token_id),
        EOS: _first_id(tokenizer.eos_token_id, config.eos_token_id),
    }
    new_tokens, num_used = extend_tokenizer(tokenizer), len(tokenizer)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    num_rows = len(embedding) if num_used <= len(embedding) else -(-num_used // ROW_MULTIPLE) * ROW_MULTIPLE
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in new_tokens}
    num_old = num_used - len(new_tokens)
    tables = {
        n: extend_rows(t, num_rows, num_old, ids, own_ids, generator) for n, t in (("in", embedding), ("out", head))
    }
    tensors = {f"model.language_model.{name}": t for name, t in model.base_model.state_dict().items()}
    tensors["model.language_model.embed_tokens.weight"] = tables["in"]
    tensors["lm_head.weight"] = tables["out"]
    _adapt_config(config, num_rows)
    return BaseLanguageModel(config, tensors, tokenizer, new_tokens)


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if (folder / "config.json").is_file():
        read_config(folder)  # refuses what nobody can build
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with silence_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", output_loading_info=True, key_mapping=_PLAIN_NAMES
            )
    except Exception as error:  # transformers, tokenizers and safetensors each have their own exceptions
        refuse_lfs_pointer(*sorted(path for path in folder.iterdir() if path.is_file()))
        raise UserError(f"{folder} cannot be loaded as a causal language model: {one_line(error, 200)}") from None
    if missing_names := sorted(info["missing_keys"]):
        raise UserError(
            f"{folder} is not complete: {len(missing_names)} tensors are missing, the first is {missing_names[0]}"
        )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"{folder}: its tokenizer has no tokenizer.json form, which training needs")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise UserError(f"{folder}: its text head has a bias, which Janus's does not have")
    if not hasattr(model.base_model, "embed_tokens"):
        raise UserError(
            f"{folder}: {model.config.model_type} names its embeddings in a way that Janus does not support"
        )
    return model, tokenizer


def _first_id(*ids: int | list[int] | None) -> int | None:
    """Returns the first id that is set; if it is a list of end-of-sequence ids, the first of them."""
    token_id = next((i for i in ids if i is not None), None)
    return token_id[0] if isinstance(token_id, list) else token_id


def extend_tokenizer(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Adds the missing ones of Janus's special tokens in their order, and returns them."""
    vocabulary = tokenizer.get_vocab()
    new_tokens = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in new_tokens])
    return new_tokens


@torch.no_grad()
def extend_rows(
    table: torch.Tensor,
    num_rows: int,
    num_old: int,
    new_ids: dict[str, int],
    own_ids: dict[str, int | None],
    generator: torch.Generator,
) -> torch.Tensor:
    """Copies an embedding or head (V, D) to ``num_rows`` rows, and initialises those of ``new_ids`` (token -> id).

    Janus's begin and end of sequence start as the model's ``own_ids``, which keeps what it knows of them. Other new rows
    start at the mean of the ``num_old`` first rows, plus noise: at the mean a token takes hardly any probability from the
    old tokens, whatever the text (Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021).
    """
    old_rows = table[:num_old].float()
    mean, spread = old_rows.mean(dim=0), old_rows.std(dim=0)
    extended_table = torch.empty(num_rows, table.shape[1], dtype=table.dtype)
    num_copied = min(num_rows, len(table))
    extended_table[:num_copied] = table[:num_copied]
    random_ids = [*range(len(table), num_rows), *(i for i in new_ids.values() if i < len(table))]
    for i in sorted(random_ids):
        noise = torch.randn(table.shape[1], generator=generator)
        extended_table[i] = (mean + NOISE * spread * noise).to(table.dtype)
    for token, i in new_ids.items():
        source = own_ids.get(token)
        if source is not None:
            extended_table[i] = table[source]
    return extended_table


def _adapt_config(config: Any, num_rows: int) -> None:
    """Adapts ``config`` in place: text head and embeddings are untied, and every layer attends to the whole document.

    Layers with a sliding window attend to everything in rows that are no longer than the window: limited to a context of
    the window's length, the model is the same without it.
    """
    config.vocab_size = num_rows
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
    """Runs the model on documents packed into a row and on each alone; raises `UserError` if the states differ.

    Alone with its eager attention, which is the definition: transformers' SDPA drops what it does not support (in 5.17
    Gemma 2's cap on logits), and packed attention would drop the same.
    """
    base, vocabulary = model.base_model, model.get_input_embeddings().weight.shape[0]
    lengths = (5, 3, 6)
    ids = (torch.arange(1, sum(lengths) + 1) * 37 % vocabulary)[None]
    position_ids = torch.cat([torch.arange(n) for n in lengths])[None]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    model.eval()
    try:
        model.set_attn_implementation("eager")
        separate_states = [
            base(input_ids=part, use_cache=False).last_hidden_state for part in ids.split(lengths, dim=1)
        ]
        model.set_attn_implementation(attention.NAME)
        packed_states = base(
            inputs_embeds=model.get_input_embeddings()(ids),
            position_ids=position_ids,
            attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool),
            use_cache=False,
            documents=attention.Documents(bounds, max(lengths)),
        ).last_hidden_state
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{folder}: {model.config.model_type} does not run on packed rows ({one_line(error, 200)})"
        ) from None
    expected_states = torch.cat(separate_states, dim=1).float()
    deviation = float((packed_states.float() - expected_states).abs().max() / expected_states.abs().max())
    if not deviation < (1e-3 if base.dtype == torch.float32 else 0.05):
        raise UserError(
            f"{folder}: {model.config.model_type} gives other states for packed documents than for each alone (off by "
            f"{deviation:.0%}): its attention or positions work in a way that packed training cannot follow"
        )
