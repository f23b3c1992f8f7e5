"""Janus over packed rows: a `Batch` goes in, the sums of both losses come out.

    input_ids --- text embedding ------------------------------------.
    understanding_pixels --- encoder --- adaptor --- features --------+--- language model --- hidden states (L, D)
    codes (cached or VQ encoder) --- embedding --- adaptor -----------'            |
                                                    at text losses: text head      |  at image losses: image head

The model is transformers' ``JanusForConditionalGeneration``, in training and at inference. This module adds the packed
forward; `build` and `prepare` correct defaults that are silently wrong for training.

Every trainable module runs exactly once per micro-batch, whatever the batch contains, because DDP, ZeRO and FSDP wait for
its gradients or weights on all ranks: a module without inputs gets a single dummy input, whose output is not used, so that
its gradients are zeros and not missing. Only the frozen VQ encoder runs only when codes are missing: frameworks that shard
parameters must not shard it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import nn
from transformers import JanusForConditionalGeneration

from janus_train.data.batch import Batch
from janus_train.model import attention
from janus_train.model.build import prepare
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.losses import LossSums, cross_entropies, loss_sums
from janus_train.model.vq import encode_images


class PackedJanus(nn.Module):
    """The packed forward of ``janus``. ``requires_grad`` decides what trains (`parts.set_trainable`)."""

    def __init__(self, janus: JanusForConditionalGeneration) -> None:
        super().__init__()
        self.janus = prepare(janus)

    def forward(self, batch: Batch) -> LossSums:
        """Computes the loss sums of one micro-batch of L tokens. Shapes: the legend in `data.types`."""
        codes_NP = self.codes(batch)
        hidden_LD = self.hidden_states(self.embeddings(batch, codes_NP), batch)
        text_total, text_losses = self.text_loss(hidden_LD, batch)
        image_logits = _run(
            self.janus.model.generation_head,
            hidden_LD.index_select(0, batch.image_loss_positions),
            spare=hidden_LD[:1],
        )
        return loss_sums(
            text_total,
            text_losses,
            batch.text_target_is_understanding,
            batch.num_understanding_targets,
            cross_entropies(image_logits, codes_NP[batch.image_loss_images].flatten()),
        )

    def text_loss(self, hidden_LD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sum over the text's loss positions, with gradient, and each cross-entropy (Nt,)."""
        head, hidden_ND = self.janus.lm_head, hidden_LD.index_select(0, batch.text_positions)
        if text_head(self.janus).chunked:
            return head(hidden_ND, batch.text_targets)  # also without any position: the gradients are then zeros
        losses = cross_entropies(_run(head, hidden_ND, spare=hidden_LD[:1]), batch.text_targets)
        return losses.sum(), losses

    def codes(self, batch: Batch) -> torch.Tensor:
        """Returns code ids (Ng, P): cached ones, and the VQ encoder's for images without."""
        if not len(batch.uncached_images):
            return batch.cached_codes
        new_codes = encode_images(self.janus.model.vqmodel, batch.generation_pixels)  # (Nv, P)
        return batch.cached_codes.index_copy(0, batch.uncached_images, new_codes)

    def embeddings(self, batch: Batch, codes_NP: torch.Tensor) -> torch.Tensor:
        """Returns the language model's input (L, D): text embeddings, with features and codes in their places."""
        embeds_LD = self.janus.get_input_embeddings()(batch.input_ids)[0]
        embeds_LD = _put(embeds_LD, batch.feature_positions, self.features(batch.understanding_pixels), "features")
        return _put(embeds_LD, batch.code_positions, self.code_embeddings(codes_NP), "codes")

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Understanding images (Nu, 3, S, S) -> adapted features (Nu * P, D).

        An encoder whose parameters are frozen leaves no graph: neither they nor the pixels require gradients.
        """

        def encode_and_adapt(pixels: torch.Tensor) -> torch.Tensor:
            features = self.janus.model.vision_model(pixels).last_hidden_state  # (Nu, P, vision width)
            return self.janus.model.aligner(features)  # (Nu, P, D)

        features_NPD = _run(encode_and_adapt, pixels, spare=pixels.new_zeros(1, *pixels.shape[1:]))
        return rearrange(features_NPD, "Nu P D -> (Nu P) D")

    def code_embeddings(self, codes_NP: torch.Tensor) -> torch.Tensor:
        """Codes (Ng, P) -> (Ng * P, D), by their own embedding and adaptor; the text embedding would take them for words."""
        codes = rearrange(codes_NP, "Ng P -> (Ng P)")
        return _run(self.janus.prepare_embeddings_for_image_generation, codes, spare=codes.new_zeros(1))

    def hidden_states(self, embeds_LD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The language model over the flat row, attention inside documents only: (L, D), after the final norm."""
        # A mask with four dimensions is passed on unchanged: without one transformers would build L x L from the
        # positions. Packed attention ignores it.
        no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=embeds_LD.device)
        output = self.janus.model.language_model(
            inputs_embeds=embeds_LD[None],
            position_ids=batch.position_ids,
            attention_mask=no_mask,
            use_cache=False,  # a cache would make transformers build its own mask, without the documents
            documents=attention.Documents(batch.cu_seqlens, batch.max_seqlen),
        )
        return output.last_hidden_state[0]


def _run(module: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """Runs ``module(inputs)``; without inputs (n = 0) it runs on ``spare`` and returns n = 0 outputs.

    The empty slice keeps the module and ``spare`` in the graph, so that parameters get zeros for gradients, not None.
    """
    return module(inputs) if len(inputs) else module(spare)[:0]


def _put(embeds_LD: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor, name: str) -> torch.Tensor:
    """Returns a copy of ``embeds_LD`` with ``rows`` (n, D) at ``positions`` (n,)."""
    if len(positions) != len(rows):
        raise ValueError(
            f"{len(rows)} {name} for {len(positions)} places in the sequence: batch and model differ in image size"
        )
    return embeds_LD.index_copy(0, positions, rows.to(embeds_LD.dtype))
