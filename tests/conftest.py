"""What all tests share: a small Janus tokenizer, a random base of the tiny model, and the demo's shards."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from janus_train import cli, plugins
from janus_train.data.encode import Encoder
from janus_train.data.sources import registry as sources
from janus_train.data.special_tokens import BOS, EOS, PAD, SPECIAL_TOKENS, SpecialTokens
from janus_train.data.templates import registry as templates
from janus_train.evaluate import registry as evaluations
from janus_train.evaluate.benchmarks import registry as benchmarks
from janus_train.model.build import build
from janus_train.paths import ROOT
from tests.helpers import Run, config_of
from tests.time_budget import pytest_addoption, pytest_configure, pytest_runtest_setup  # noqa: F401  (an option)

torch.set_num_threads(1)  # two test processes share two cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else all that a test starts would ignore its Ctrl-C

# The same examples each time, so that what passed once passes again, also on a busy machine; HYPOTHESIS_PROFILE=default
# looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

TEXTS = (
    "A red apple on the left and a dog on the right, on a blue background.",
    "What colour is the background? Blue. How many objects are there? Two. 苹果是红色的。",
    "You are a helpful language and vision assistant. Describe the image in detail.",
)


WHOLE_RUNS = ("train", "launch", "integration", "examples")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: of two processes that share the tests by file neither then ends long before the other."""
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in WHOLE_RUNS)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with Janus's special tokens, trained on three sentences."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD)


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer, tokens_per_image=64, image_size=64, system_prompt="")


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A whole tiny Janus with random weights, in transformers' layout."""
    folder = tmp_path_factory.mktemp("random_base")
    torch.manual_seed(0)
    build(config_of("+stage=1").model, **vars(SpecialTokens.of(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def object_shards() -> list[Path]:
    return sorted((ROOT / "data_recipes/demo/shards").glob("*.tar"))


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it, and so are the modules that it imports as plug-ins."""
    for module in ("janus_train.demo.plugin", "janus_train.evaluate.choice"):
        importlib.import_module(module)  # later they would register in the copies alone
    benchmarks.get_tasks("pope")  # and so would these
    for registry in (templates._TEMPLATES, sources._TYPES, evaluations._EVALUATIONS, benchmarks._TASKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_imported_modules", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith("janus_train"):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls ``janus-train`` in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["janus-train", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, captured.out, captured.err

    return call
