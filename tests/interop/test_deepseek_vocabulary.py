"""The real DeepSeek-LLM vocabulary, on which Janus is built: 102,400 entries, with test vectors of another tokenizer.

Both come out of the source package of llama-cpp-python, which the package registry has; nothing of it is shipped here.
It is fetched once and kept in pytest's cache. The tokenizer is rebuilt from its parts: entries and merges from the GGUF,
the pre-tokenizer's expressions from the source that reads it.
"""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from janus_train.data.encode import Encoder
from janus_train.data.prompt_format import chat_prompt
from janus_train.data.special_tokens import BOS, EOS, PAD, SPECIAL_TOKENS
from janus_train.interop.base_language_model import extend_tokenizer
from janus_train.interop.processor import load_tokenizer, save_official_processor, save_processor
from janus_train.paths import ROOT

pytestmark = pytest.mark.registry

PACKAGE, VERSION = "llama-cpp-python", "0.2.90"
VOCABULARY = "ggml-vocab-deepseek-llm.gguf"
WANTED = {
    f"vendor/llama.cpp/models/{VOCABULARY}": VOCABULARY,
    f"vendor/llama.cpp/models/{VOCABULARY}.inp": "texts",
    f"vendor/llama.cpp/models/{VOCABULARY}.out": "ids",
    "vendor/llama.cpp/src/llama.cpp": "source.txt",
    "vendor/llama.cpp/src/llama-vocab.cpp": "source.txt",
}
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
CONTROL, USER_DEFINED = 3, 4
LETTERS = set("øöúÿõ÷ûýÀùÁþü")
"""Tokens of their own in this vocabulary, which the byte-level decoder takes for bytes: they do not come back."""


@pytest.fixture(scope="module")
def fetched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wanted files."""
    kept = Path(request.config.cache.mkdir(f"{PACKAGE}-{VERSION}"))
    if set(WANTED.values()) - {path.name for path in kept.iterdir()}:
        _fetch(kept, tmp_path_factory.mktemp("fetched"))
    return kept


def _fetch(kept: Path, here: Path) -> None:
    """By pip, so that its own settings say where from."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--no-deps"]
    try:
        done = subprocess.run(
            [*command, "--no-binary", PACKAGE, "--dest", str(here), f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            timeout=240,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the source package of {PACKAGE} {VERSION} did not come within four minutes")
    archives = list(here.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"the source package of {PACKAGE} {VERSION} cannot be had: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as tar:
        for member in tar:
            name = WANTED.get(member.name.partition("/")[2])
            file = tar.extractfile(member) if name else None
            if name and file is not None:
                data = file.read()
                if name != "source.txt" or b"LLAMA_VOCAB_PRE_TYPE_DEEPSEEK_LLM:" in data:
                    (kept / name).write_bytes(data)


def _string(file: BinaryIO) -> str:
    return file.read(struct.unpack("<Q", file.read(8))[0]).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind == ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        return [_value(file, inner) for _ in range(count)]
    return struct.unpack(SCALARS[kind], file.read(struct.calcsize(SCALARS[kind])))[0]


def read_gguf(path: Path) -> dict[str, Any]:
    """The keys and values at the head of a GGUF file (version 3; the format is documented with ggml)."""
    with path.open("rb") as file:
        magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
        assert magic == b"GGUF" and version == 3
        return {_string(file): _value(file, struct.unpack("<I", file.read(4))[0]) for _ in range(count)}


def expressions(source: str) -> list[str]:
    """The regular expressions that stand beside the pre-tokenizer's name in the source."""
    found = re.search(r"case LLAMA_VOCAB_PRE_TYPE_DEEPSEEK_LLM:\s*regex_exprs = \{(.*?)\};", source, re.DOTALL)
    assert found
    return [ast.literal_eval(f'"{literal}"') for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', found[1])]


@pytest.fixture(scope="module")
def tokenizer(fetched: Path) -> PreTrainedTokenizerFast:
    values = read_gguf(fetched / VOCABULARY)
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert len(tokens) == 102_400 and values["tokenizer.ggml.pre"] == "deepseek-llm"
    spare = next(i for i, token in enumerate(tokens) if token == f"[PAD{i}]")  # rows of the model, no tokens
    assert tokens[spare:] == [f"[PAD{i}]" for i in range(spare, len(tokens))]
    tokens, kinds = tokens[:spare], kinds[:spare]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    pieces = [
        pre_tokenizers.Split(Regex(expression), "isolated")
        for expression in expressions((fetched / "source.txt").read_text(encoding="utf-8"))
    ]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([*pieces, byte_level])
    core.decoder = decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):  # of the latter, a few letters with accents
        added = [token for token, its in zip(tokens, kinds, strict=True) if its == kind]
        core.add_tokens([AddedToken(token, special=special, normalized=False) for token in added])
    assert core.get_vocab_size() == spare == 100_015
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS)


@pytest.fixture(scope="module")
def janus_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With Janus's tokens, as `assemble` adds them."""
    copy = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    added = extend_tokenizer(copy)
    assert BOS not in added and EOS not in added, "DeepSeek's own begin and end are Janus's"
    assert copy.convert_tokens_to_ids(PAD) == 100_015, "as in Janus-Pro-7B"
    return copy


def vectors(fetched: Path) -> list[tuple[str, list[int]]]:
    texts = (fetched / "texts").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (fetched / "ids").read_text(encoding="utf-8").split("\n")[: len(texts)]
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=True)]


def test_it_gives_the_ids_of_the_vectors(fetched: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    cases = vectors(fetched)
    assert len(cases) > 30
    core = tokenizer.backend_tokenizer
    wrong = [text for text, ids in cases if core.encode(text, add_special_tokens=False).ids != ids]
    assert not wrong
    for text, ids in cases:
        if not set(text) & LETTERS:
            assert core.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_have_the_published_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids([BOS, EOS]) == [100_000, 100_001]


def test_prompts_of_the_official_template_survive(janus_tokenizer: PreTrainedTokenizerFast) -> None:
    """Tokenised and back to the letter; every special token in them is one id."""
    encoder = Encoder(janus_tokenizer, 576, 384, "")
    for case in json.loads((ROOT / "tests/golden/official_prompts.json").read_text(encoding="utf-8")):
        prompt = chat_prompt(case["messages"], case["system"])
        ids = encoder.ids(prompt)
        assert janus_tokenizer.decode(ids, skip_special_tokens=False) == prompt
        for token in SPECIAL_TOKENS:
            assert ids.count(janus_tokenizer.convert_tokens_to_ids(token)) == prompt.count(token)


@pytest.mark.parametrize("text", ["Ein Bild: 123 Äpfel, 苹果和🍎!\n\n\ttabs  and spaces ", "한국어 ελληνικά 3.14", ""])
def test_round_trip(janus_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert janus_tokenizer.decode(janus_tokenizer.backend_tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("layout", ["hf", "official"])
def test_both_layouts_bring_the_same_ids_back(
    fetched: Path, janus_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, layout: str
) -> None:
    """The official files name LlamaTokenizerFast, whose own rules would split this vocabulary's text in another way."""
    from janus_train.model.build import transformers_config
    from tests.model.model_configs import model_config

    config = transformers_config(model_config("janus_pro_1b"), None, None, None, None)
    if layout == "hf":
        save_processor(janus_tokenizer, config, "", tmp_path)
    else:
        save_official_processor(janus_tokenizer, config, tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text, ids in vectors(fetched):
        assert loaded.backend_tokenizer.encode(text, add_special_tokens=False).ids == ids
