"""Every backend filled from a folder one tensor at a time: two real processes over gloo that never build the model in memory."""

from __future__ import annotations

import logging
import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.config import Config, Part
from janus_train.data.encode import Encoder
from janus_train.data.templates import get_template
from janus_train.interop.model_folder import open_folder
from janus_train.model.build import build, init_generation_embeddings
from janus_train.model.parts import part_of, set_trainable
from janus_train.train import monitor
from janus_train.train.backends import Backend, make_backend
from janus_train.train.distributed.context import Distributed
from janus_train.train.initial_weights import Start, load_start
from tests.helpers import config_of
from tests.processes import serving
from tests.train.backend_worker import choose
from tests.train.conftest import SMALL

BACKENDS = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
MISSING: tuple[Part, ...] = ("generation_adaptor", "generation_embedding", "image_head", "understanding_adaptor")


@pytest.fixture(scope="module")
def bare_base(random_base: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without the parts that a Janus model has beside its base models."""
    folder = tmp_path_factory.mktemp("bare_base")
    weights = load_file(random_base / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if part_of(name) not in MISSING}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((random_base / "config.json").read_bytes())
    tokenizer.save_pretrained(folder)
    return folder


def in_memory(config: Config, base: Path) -> JanusForConditionalGeneration:
    """The model as one process builds it: random weights of the run's seed, and over them the folder's."""
    folder = open_folder(base)
    torch.manual_seed(config.seed)
    janus = build(config.model, **vars(folder.special))
    state, stored = janus.state_dict(), dict(folder.tensors())
    for name, tensor in stored.items():
        state[name].copy_(tensor)
    if "model.generation_embeddings.weight" not in stored:
        init_generation_embeddings(janus)
    return janus


def overrides(base: Path, folder: Path, stage: int) -> list[str]:
    rows = ("batch.rows_per_step=2", "batch.micro_rows=1", f"output_dir={folder}")
    return [f"+stage={stage}", f"init_from={base}", *SMALL, *rows, "seed=5"]


def filled(config: Config, base: Path) -> tuple[Backend, list[Part]]:
    janus, weights, _, new_parts = load_start(config, Start(base, ""))
    assert all(parameter.is_meta for parameter in janus.parameters())
    set_trainable(janus, config.train_parts)
    return make_backend(janus, config, Distributed(config), weights), new_parts


def differences(backend: Backend, expected: JanusForConditionalGeneration) -> list[str]:
    """Names of tensors of the backend, buffers included, that are not the model's to the bit."""
    state, wanted = backend.full_state_dict(), expected.state_dict()
    if state is None:
        return []
    assert state.keys() == wanted.keys()
    buffers = dict(backend.janus.named_buffers(remove_duplicate=False))
    wanted_buffers = dict(expected.named_buffers(remove_duplicate=False))
    assert buffers.keys() == wanted_buffers.keys()
    different = [name for name in wanted if not torch.equal(state[name], wanted[name])]
    return different + [name for name in buffers if not torch.equal(buffers[name], wanted_buffers[name])]


def fill_all(connection: Connection, base: Path, bare_base: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    rank = os.environ["RANK"]
    for backend_name in BACKENDS:
        choose(backend_name)
        try:
            config = config_of(*overrides(bare_base, folder, 1))
            backend, new_parts = filled(config, bare_base)
            results[backend_name] = {"new": new_parts, "bare": differences(backend, in_memory(config, bare_base))}
            config = config_of(*overrides(base, folder, 2), "precision=bf16")
            backend, new_parts = filled(config, base)
            results[backend_name] |= {"old": new_parts, "whole": differences(backend, in_memory(config, base))}
            results[backend_name]["copy"] = copied(backend, in_memory(config, base))
            results[backend_name]["previews"] = previews_without_room(
                backend, config, base, folder / backend_name / str(rank)
            )
        except Exception:
            results[backend_name] = {"error": traceback.format_exc()}
            break
    connection.send(results)


def copied(backend: Backend, expected: JanusForConditionalGeneration) -> dict[str, Any]:
    """Of the model that rank 0 generates with: what is not the expected value, rounded or not; its types by part."""
    model = backend.full_model()
    if model is None:
        return {}
    encoder = {f"model.vqmodel.{name}": tensor for name, tensor in model.model.vqmodel.state_dict().items()}
    state, wanted = model.state_dict() | encoder, expected.state_dict()
    different = [name for name in wanted if not torch.equal(state[name], wanted[name].to(state[name].dtype))]
    buffers, wanted_buffers = dict(model.named_buffers()), dict(expected.named_buffers())
    different += [name for name in wanted_buffers if not torch.equal(buffers[name], wanted_buffers[name])]
    types: dict[str, set[str]] = {}
    for name, tensor in state.items():
        types.setdefault(part_of(name), set()).add(str(tensor.dtype))
    return {"different": different, "types": types}


def previews_without_room(backend: Backend, config: Config, base: Path, folder: Path) -> dict[str, Any]:
    """Previews while rank 0 has no room for the copy, then none to generate, then room: files, warnings, no hang."""
    folder.mkdir(parents=True)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("janus_train").addHandler(handler)
    kept_copy, kept_write = getattr(backend, "_empty_model", None), monitor.write_previews

    def no_room(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    group = backend.distributed
    watched = monitor.Monitor.__new__(monitor.Monitor)
    watched._config, watched._run_dir, watched._backend, watched._group = config, _Folder(folder), backend, group  # type: ignore[assignment]
    watched._prompts, watched._template = ("a red circle",), get_template("request_to_image")
    watched._questions, watched._metrics = (), None
    encoder = Encoder(open_folder(base).tokenizer, config.model.tokens_per_image, config.model.image_size, "")
    try:
        for step in (1, 2, 3):
            if kept_copy is not None:
                backend._empty_model = no_room if step == 1 and group.is_main else kept_copy  # type: ignore[attr-defined]
            monitor.write_previews = no_room if step == 2 else kept_write  # type: ignore[assignment]
            watched.preview(step, encoder)
            assert group.sum([1.0]) == [float(group.world_size)]  # all ranks go on together
    finally:
        monitor.write_previews = kept_write  # type: ignore[assignment]
        logging.getLogger("janus_train").removeHandler(handler)
    return {"messages": messages, "files": sorted(path.name for path in folder.glob("samples/*.png"))}


class _Folder:
    def __init__(self, path: Path):
        self.path = path


@pytest.fixture(scope="module")
def results(
    random_base: Path, bare_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, Any]]]:
    """By rank and backend."""
    folder = tmp_path_factory.mktemp("loading")
    log = folder / "log"
    with serving(fill_all, random_base, bare_base, folder, world_size=2, log=log, OMP_NUM_THREADS="1") as ranks:
        found = []
        for rank, connection in enumerate(ranks):
            said = log.with_name(f"log-{rank}.log")
            assert connection.poll(300), said.read_text(errors="replace")[-4000:]
            found.append(connection.recv())
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_weights_are_those_of_a_model_built_in_memory(results: list[dict[str, Any]], backend: str) -> None:
    for result in results:
        assert "error" not in result[backend], result[backend]["error"]
        assert result[backend]["new"] == sorted(MISSING) and result[backend]["old"] == []
        assert result[backend]["bare"] == [] and result[backend]["whole"] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_rank_0_generates_with_a_copy_in_bf16_of_what_is_sharded(results: list[dict[str, Any]], backend: str) -> None:
    """ZeRO 1 and 2 keep bf16 weights themselves, of the trained linear layers and convolutions."""
    trained = {"understanding_adaptor", "generation_adaptor", "language_model", "text_head", "image_head"}
    assert results[1][backend]["copy"] == {}
    copy = results[0][backend]["copy"]
    assert copy["different"] == []
    for part, types in copy["types"].items():
        if backend in ("zero1", "zero2"):
            assert ("torch.bfloat16" in types) == (part in trained), part
            continue
        is_narrow = backend != "ddp" and part != "generation_encoder"
        assert types == {"torch.bfloat16" if is_narrow else "torch.float32"}, part


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_room_skips_a_preview_and_all_ranks_go_on(results: list[dict[str, Any]], backend: str) -> None:
    is_sharded = backend in ("zero3", "zero3_offload", "fsdp2")
    previews = results[0][backend]["previews"]
    skipped = [1, 2] if is_sharded else [2]
    assert [message.split(":")[0] for message in previews["messages"]] == [f"step {step}" for step in skipped]
    assert all(
        "is skipped: it has no room in the memory of cpu" in m and "training continues" in m
        for m in previews["messages"]
    )
    assert previews["files"] == [f"step-{step:06d}.png" for step in (1, 2, 3) if step not in skipped]
    assert results[1][backend]["previews"] == {"messages": [], "files": []}
