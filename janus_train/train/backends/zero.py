"""DeepSpeed ZeRO: optimiser state (1), gradients too (2) and weights too (3) are sharded, optionally in CPU memory.

Stage and offloading come from the launch file through Accelerate; everything else is set here. The loss is already
divided by the step's tokens: DeepSpeed's own division by its accumulation steps is switched off, because it would make
the update depend on the size of the micro-batches. The optimiser is torch's AdamW, as in the other backends.

In bf16 runs stages 1 and 2 keep what autocast rounds (`model.precision`) in bf16: weights, and gradients until they are
added up in fp32, which stage 1 does on every rank and stage 2 in the shards. The fp32 values that AdamW updates, the
masters, exist in shards only. Norms and embeddings stay in fp32, and with them the residual stream. So this is not
DeepSpeed's ``bf16`` option, which casts all weights, but its optimiser on two parameter groups: losses and gradients are
those of fp32 weights under autocast, bit by bit. Gradients of bf16 weights are sent in bf16, others in fp32. Stage 3
keeps its shards of the weights in fp32 and gathers in bf16 those that autocast rounds.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Collection, Iterator
from typing import Any

os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")

import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import GatheredParameters
from torch import nn
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.model.janus import PackedJanus
from janus_train.model.meta_init import fill
from janus_train.model.precision import cast_trained_to_bf16
from janus_train.planning.state import BUCKET_ELEMENTS
from janus_train.train.backends.base import MOMENTS, ParameterShard, Sharded, Weights
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import make_optimizer

warnings.filterwarnings(
    "ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning
)  # raised by each of DeepSpeed's calls

GATHERED_ELEMENTS = 1 << 28
"""Of the masters, on rank 0's device at a time."""


_VQ = "model.vqmodel"


class DeepSpeedZeRO(Sharded):
    """A DeepSpeed engine, driven step by step."""

    def __init__(
        self,
        janus: JanusForConditionalGeneration,
        config: Config,
        distributed: Distributed,
        weights: Weights | None = None,
    ):
        super().__init__(janus, config, distributed)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        options = zero_options(distributed)
        self.stage = options["stage"]
        rows_per_rank = config.batch.rows_per_step // distributed.world_size
        bf16_weights = config.precision == "bf16" and self.stage < 3
        fp32_values = cast_trained_to_bf16(janus) if bf16_weights else {}
        if self.stage < 3:
            num_trained = sum(math.prod(shape) for shape in self.shapes.values())
            options = {"overlap_comm": True, "reduce_bucket_size": min(BUCKET_ELEMENTS, num_trained)} | options
        model = PackedJanus(janus)
        self._code_encoder = _take_out_code_encoder(janus)
        deepspeed_config = {
            "train_micro_batch_size_per_gpu": config.batch.micro_rows,
            "gradient_accumulation_steps": rows_per_rank // config.batch.micro_rows,
            "gradient_clipping": config.optim.gradient_clip,
            "zero_optimization": options,
            # torch's AdamW is as fast on CPU memory as DeepSpeed's, and needs no compiler
            "zero_force_ds_cpu_optimizer": False,
            "torch_autocast": {"enabled": config.precision == "bf16", "dtype": "bfloat16"},
            "steps_per_print": 1 << 60,
        }
        if weights is not None:
            self._fill(weights, deepspeed_config)
        self._code_encoder.to(distributed.device)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=make_optimizer(model, config.optim), config=deepspeed_config
        )
        self.model = engine
        self._engine: Any = engine
        self._zero: Any = engine.optimizer
        self.optimizer = self._zero.optimizer
        if self.stage < 3:
            _make_safe(self._zero)
        self._fill_masters(fp32_values.keys(), fp32_values if weights is None else weights)

    def _fill_masters(self, names: Collection[str], weights: Weights) -> None:
        """Replace the masters of bf16 weights, which DeepSpeed has made from these, by the values before the rounding."""
        for shard in self.local_shards() if names else ():
            if shard.name in names:
                shard.weight.copy_(weights[shard.name].reshape(-1)[shard.start : shard.stop])

    def _fill(self, weights: Weights, deepspeed_config: dict[str, Any]) -> None:
        """Give the model its memory and values; in stage 3 each tensor is sharded before the next is read."""
        device = self.distributed.device
        fill(self._code_encoder, {name: weights[f"{_VQ}.{name}"] for name in self._code_encoder.state_dict()}, device)
        if self.stage < 3:
            fill(self.janus, weights, device)
            return
        # One piece of memory for all tensors, one after the other: freed pieces of many sizes would fragment the CPU's.
        largest = max(parameter.numel() for parameter in self.janus.parameters())
        room = torch.empty(largest, dtype=torch.float32, device=device)
        sharded: Any = None
        for module_name, module in list(self.janus.named_modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                value = room[: parameter.numel()].view(parameter.shape).copy_(weights[f"{module_name}.{name}"])
                filled: Any = nn.Parameter(value, parameter.requires_grad)
                module.register_parameter(name, filled)
                if sharded is not None:  # DeepSpeed reads its configuration once, for the first tensor
                    sharded.convert_to_zero_parameters(param_list=[filled])
                    continue
                holder = nn.ParameterList([filled])
                deepspeed.zero.Init(module=holder, config_dict_or_path=deepspeed_config, dtype=torch.float32)
                sharded = filled

    def zero_grad(self) -> None:
        """Does nothing: DeepSpeed clears the gradients after its step."""

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    def update(self, gradient_clip: float) -> tuple[float, bool]:
        assert gradient_clip == self._engine.gradient_clipping()
        self._engine.step()  # DeepSpeed skips the step if the norm is not finite
        applied = self._engine.was_step_applied()
        if not applied and self.stage < 3:
            # With the optimiser in CPU memory DeepSpeed would add the next step's gradients to what is not finite.
            self._zero.averaged_gradients = dict.fromkeys(self._zero.averaged_gradients)
        return float(self._zero._global_grad_norm), applied

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def _shards(self) -> list[ParameterShard]:
        return list(self._partitioned_shards() if self.stage == 3 else self._flat_shards())

    def _flat_shards(self) -> Iterator[ParameterShard]:
        """ZeRO 1, 2: all parameters form one flat vector, and this rank keeps a stretch of it."""
        for name in self.shapes:
            mapping = self.janus.get_parameter(name)._hp_mapping
            if mapping is not None:
                flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
                address = mapping.get_hp_fragment_address()
                yield self._shard(name, mapping.lp_fragment_address.start, flat, address.start, address.numel)

    def _partitioned_shards(self) -> Iterator[ParameterShard]:
        """ZeRO 3: each parameter is cut into equal stretches, the last ones padded."""
        for name, shape in self.shapes.items():
            parameter: Any = self.janus.get_parameter(name)
            group, offset, padded_size = self._zero.grad_position[self._zero.get_param_id(parameter)]
            start = self.distributed.rank * padded_size
            count = min(padded_size, math.prod(shape) - start)
            if count > 0:
                yield self._shard(name, start, self._zero.fp32_partitioned_groups_flat[group], offset, count)

    def _shard(self, name: str, start: int, flat: torch.Tensor, offset: int, count: int) -> ParameterShard:
        state = self.optimizer.state.get(flat, {})
        moments = {key: state[key].narrow(0, offset, count) for key in MOMENTS if key in state}
        return ParameterShard(name, start, flat.detach().narrow(0, offset, count), moments)

    def init_optimizer_state(self) -> None:
        flat_groups = (
            self._zero.fp32_partitioned_groups_flat if self.stage == 3 else self._zero.single_partition_of_fp32_groups
        )
        for flat in flat_groups:
            self.optimizer.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }

    def sync_model_weights(self) -> None:
        zero = self._zero
        if self.stage < 3:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    # ------------------------------------------------------------------------------------------------------ full model

    def _gather_masters(self) -> dict[str, torch.Tensor]:
        """The fp32 values of the trained weights that are bf16: on rank 0's CPU, none on the others. All ranks call it."""
        names = {id(parameter): name for name, parameter in self.janus.named_parameters()}
        values = {}
        for group, master in enumerate(self._zero.single_partition_of_fp32_groups):
            if self._zero.bit16_groups_flat[group].dtype == torch.float32:
                continue
            flat = self._gather(master.detach())
            if flat is not None:
                offsets = self._zero.round_robin_bit16_offsets[group]
                for parameter, offset in zip(self._zero.round_robin_bit16_groups[group], offsets, strict=True):
                    value = flat.narrow(0, offset, parameter.numel()).view(parameter.shape)
                    values[names[id(parameter)]] = value
        return values

    def _gather(self, shard: torch.Tensor) -> torch.Tensor | None:
        """The shards (n,) of all ranks, one after the other: on rank 0's CPU, None on the others."""
        num_ranks, n = self.distributed.world_size, shard.numel()
        flat = torch.empty(num_ranks, n, dtype=shard.dtype) if self.distributed.is_main else None
        step = max(1, GATHERED_ELEMENTS // num_ranks)
        for start in range(0, n, step):
            piece = shard[start : start + step].to(self.distributed.device)
            pieces = [torch.empty_like(piece) for _ in range(num_ranks)] if flat is not None else None
            torch.distributed.gather(piece, pieces, dst=0)
            for rank, rank_piece in enumerate(pieces or ()):
                assert flat is not None
                flat[rank, start : start + step] = rank_piece
        return None if flat is None else flat.view(-1)

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        weights = super().full_state_dict()
        masters = self._gather_masters() if self.stage < 3 else {}
        return None if weights is None else weights | masters

    def full_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.janus.state_dict(keep_vars=True).items():
            partitioned_tensors = [tensor] if hasattr(tensor, "ds_id") else []
            with GatheredParameters(partitioned_tensors, enabled=bool(partitioned_tensors)):
                yield name, tensor.detach()
        yield from ((f"{_VQ}.{name}", tensor) for name, tensor in self._code_encoder.state_dict().items())

    def full_model(self) -> JanusForConditionalGeneration | None:
        if self.stage == 3:
            return super().full_model()
        return self.janus if self.distributed.is_main else None


def _make_safe(zero: Any) -> None:
    """Mend what DeepSpeed's optimiser of stages 1 and 2 leaves open with its ``bf16`` option off."""
    zero.check_grad_overflow = True  # else it applies a step that is not finite if the first group's weights are bf16
    if zero.partition_gradients:
        _use_typed_buckets(zero)
    if zero.overlap_comm and zero.reduction_stream is not None:
        # A gradient larger than a bucket is freed while it may still be read by the stream that sends it.
        zero._record_gradient_stream = lambda tensor, stream: tensor.record_stream(stream)


def _use_typed_buckets(zero: Any) -> None:
    """Have each bucket keep gradients in the type in which it sends them; DeepSpeed rounds all to the first group's."""
    setup_buckets = zero.setup_buckets

    def setup_typed_buckets() -> None:
        is_first = not zero.ready_for_gradients
        setup_buckets()
        for dtype, bucket in zero.ipg_buckets.items() if is_first else ():
            bucket.buffer = [b if b.dtype == dtype else torch.empty_like(b, dtype=dtype) for b in bucket.buffer]

    zero.setup_buckets = setup_typed_buckets


def _take_out_code_encoder(janus: JanusForConditionalGeneration) -> nn.Module:
    """Turn the VQ tokenizer from a submodule into a plain attribute, so that DeepSpeed does not shard it."""
    encoder = janus.model._modules.pop("vqmodel")
    assert encoder is not None
    janus.model.__dict__["vqmodel"] = encoder
    return encoder


def zero_options(distributed: Distributed) -> dict[str, Any]:
    """DeepSpeed's ``zero_optimization`` section from the launch file. Raises `UserError` for unsupported options."""
    launch_options = distributed.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    options = {key: value for key, value in launch_options.items() if value != "auto"}
    for part in ("offload_optimizer", "offload_param"):
        device = (options.get(part) or {}).get("device", "none")
        if device == "nvme":
            raise UserError(f"{part}_device: nvme is not supported: choose cpu or none")
        if device == "none":
            options.pop(part, None)
        else:
            options[part] = {"device": device, "pin_memory": distributed.device.type == "cuda"}
    if options.get("stage") not in (1, 2, 3):
        raise UserError(
            f"zero_stage: {options.get('stage')} is not supported: choose 1, 2 or 3, or launch/accelerate/ddp.yaml"
        )
    if "offload_param" in options and options["stage"] != 3:
        raise UserError(f"offload_param_device: cpu needs zero_stage: 3, not {options['stage']}")
    return options
