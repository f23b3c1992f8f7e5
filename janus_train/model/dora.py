"""DoRA's layer of the peft library with its weights' norms by one operator (`lora_weights.row_norms`).

peft multiplies the adapters with an identity matrix in each forward, in autocast's bf16, and adds the result to a copy of
the weight: at 7 B hundreds of megabytes a layer, which ``selective`` checkpointing would keep for all layers. The
outputs are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn

from janus_train.model.lora_weights import row_norms


class DoraLayer(DoraLinearLayer):
    """The magnitudes of a linear layer's rows."""

    def forward(
        self,
        x: torch.Tensor,
        *,
        lora_A: nn.Linear,
        lora_B: nn.Linear,
        scaling: float,
        base_layer: nn.Linear,
        base_result: torch.Tensor | None = None,
        adapter_name: str = "default",
    ) -> torch.Tensor:
        """What is added to the output of the base layer for ``x`` (..., in), of which ``base_result`` is a copy.

        Without it ``x`` is after dropout, and the base layer runs again. Norms carry no gradient (DoRA, section 4.3).
        """
        weight = base_layer.weight
        norms = row_norms(weight.detach(), lora_A.weight.detach(), lora_B.weight.detach(), scaling)
        factors = self.weight / norms
        if base_result is None:
            base_result = nn.functional.linear(x, weight)
        elif base_layer.bias is not None:
            base_result = base_result - base_layer.bias
        return (factors - 1) * base_result + factors * lora_B(lora_A(x)) * scaling


def use_dora_layers(model: nn.Module) -> None:
    """Makes peft's layers of magnitudes in ``model`` to `DoraLayer`."""
    for module in model.modules():
        if type(module) is DoraLinearLayer:
            dora_layer: Any = module
            dora_layer.__class__ = DoraLayer
