"""import and export: every byte comes back, in both directions, and what is written loads where it is said to load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import save_file

from janus_train.errors import UserError
from janus_train.interop import tensors
from janus_train.interop.convert import export_model, import_official
from janus_train.interop.model_folder import open_folder
from janus_train.interop.official_fit import check_fits_layout
from janus_train.interop.processor import SYSTEM_PROMPT
from janus_train.paths import ROOT
from tests.helpers import NO_DRAWING, TRANSFORMERS_DRAWS
from tests.interop.conftest import same, small_model, stored

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture(scope="module")
def imported(make_official, tmp_path_factory):
    """(official folder, its tensors, the imported folder)"""
    folder, held = make_official("safetensors")
    out = tmp_path_factory.mktemp("imported") / "hf"
    import_official(str(folder), out)
    return folder, held, out


FORMS = [
    *product(("bin", "safetensors"), (FP32, BF16), (1, 3), (None, 60_000)),
    *product(("legacy",), (FP32, BF16), (1,), (None, 60_000)),
]
"""On the hub there are all of them; torch's old format has no shards."""
PAIRWISE = {
    ("bin", FP32, 1, None),
    ("bin", BF16, 3, 60_000),
    ("safetensors", FP32, 3, None),
    ("safetensors", BF16, 1, 60_000),
    ("legacy", FP32, 1, 60_000),
    ("legacy", BF16, 1, None),
}


@pytest.mark.parametrize(
    ("form", "dtype", "shards", "shard_bytes"),
    [pytest.param(*case, marks=() if case in PAIRWISE else pytest.mark.slow) for case in FORMS],
)
def test_official_to_hf_to_official(make_official, tmp_path, monkeypatch, form, dtype, shards, shard_bytes) -> None:
    monkeypatch.setattr(tensors, "SHARD_BYTES", shard_bytes or tensors.SHARD_BYTES)
    folder, held = make_official(form, dtype, shards)
    import_official(str(folder), tmp_path / "hf")
    assert (tmp_path / "hf/model.safetensors.index.json").is_file() == bool(shard_bytes)
    assert export_model(str(tmp_path / "hf"), tmp_path / "back", "official")  # a note: no official shape
    assert same(stored(tmp_path / "back"), held)
    config = json.loads((tmp_path / "back/config.json").read_text())
    official_values = {"system_prompt": SYSTEM_PROMPT, "guidance": 5.0, "temperature": 1.0}
    assert config.pop("janus_train") == official_values
    assert config == json.loads((folder / "config.json").read_text())


def with_settings(folder: Path, target: Path, system_prompt: str, guidance: float, temperature: float) -> Path:
    """A copy of a folder in transformers' layout with other settings."""
    shutil.copytree(folder, target)
    for name, values in (
        ("processor_config.json", {"system_prompt": system_prompt}),
        ("generation_config.json", {"guidance_scale": guidance, "temperature": temperature}),
    ):
        path = target / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return target


@pytest.mark.parametrize("system_prompt", ["", "Look well.\n"])
def test_the_official_layout_keeps_system_prompt_guidance_and_temperature(imported, tmp_path, system_prompt) -> None:
    from janus_train.infer.load import load_model
    from janus_train.interop.from_folder import model_values

    start = with_settings(imported[2], tmp_path / "start", system_prompt, 2.0, 0.7)
    export_model(str(start), tmp_path / "official", "official")
    import_official(str(tmp_path / "official"), tmp_path / "back")
    assert not list((tmp_path / "official").glob("generation_config.json")), "the official code has no such file"
    for name in ("official", "back"):
        folder = open_folder(tmp_path / name)
        assert folder.system_prompt == system_prompt
        assert folder.generation_settings == {"guidance": 2.0, "temperature": 0.7}
        loaded = load_model(tmp_path / name)
        assert (loaded.encoder.system_prompt, loaded.guidance, loaded.temperature) == (system_prompt, 2.0, 0.7)
        values = model_values({}, str(tmp_path / name))
        assert (values["system_prompt"], values["guidance"], values["temperature"]) == (system_prompt, 2.0, 0.7)
    same_files = ("processor_config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json")
    hf = tmp_path / "hf"
    export_model(str(start), hf, "hf")
    assert all((tmp_path / "back" / name).read_bytes() == (hf / name).read_bytes() for name in same_files)


def test_what_only_this_project_reads_is_checked(imported, tmp_path) -> None:
    export_model(str(imported[2]), tmp_path / "official", "official")
    path = tmp_path / "official/config.json"
    config = json.loads(path.read_text())
    assert config["transformers_version"] == "4.38.2"
    for own, message in (
        ([], r"official: janus_train in its config\.json is not an object"),
        ({"system_prompt": 3}, r"config\.json: janus_train\.system_prompt must be a string"),
        ({"guidance": "much"}, r"config\.json: guidance and temperature of janus_train must be numbers"),
    ):
        path.write_text(json.dumps(config | {"janus_train": own}))
        with pytest.raises(UserError, match=message) as error:
            export_model(str(tmp_path / "official"), tmp_path / "out", "hf")
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "janus_train"}))
    assert open_folder(tmp_path / "official").system_prompt == SYSTEM_PROMPT


def test_a_system_prompt_that_is_no_text_is_one_line(imported, tmp_path) -> None:
    folder = with_settings(imported[2], tmp_path / "hf", 3, 2.0, 0.7)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"processor_config\.json: system_prompt must be a string"):
        export_model(str(folder), tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


REFUSED = {
    "text_config": {"hidden_act": "gelu", "attention_dropout": 0.1},
    "vision_config": {"layer_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh", "use_qk_norm": True},
    "vq_config": {"hidden_act": "relu", "double_latent": True},
    "": {"tie_word_embeddings": True},
}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in REFUSED.items() for key in keys])
def test_a_value_without_a_place_in_the_official_layout_is_refused(imported, section, key) -> None:
    config = open_folder(imported[2]).config
    check_fits_layout(config)
    setattr(getattr(config, section) if section else config, key, REFUSED[section][key])
    name = f"{section}.{key}" if section else key
    with pytest.raises(UserError, match=rf"cannot say that {name} is .*with the official code.*--format hf") as error:
        check_fits_layout(config)
    assert "\n" not in str(error.value)


def test_what_is_no_matter_of_a_trained_model_is_not_refused(imported) -> None:
    config = open_folder(imported[2]).config
    config.text_config.initializer_range, config.text_config.use_cache = 0.5, False
    config.text_config.bos_token_id = None
    config.text_config.rope_parameters = {"type": "linear", "rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}
    check_fits_layout(config)


def test_a_refused_export_leaves_nothing(imported, tmp_path) -> None:
    folder = Path(shutil.copytree(imported[2], tmp_path / "hf"))
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["layer_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"vision_config\.layer_norm_eps is 0\.001"):
        export_model(str(folder), tmp_path / "official", "official")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_transformers_4_finds_what_it_reads_elsewhere(imported, tmp_path) -> None:
    """tests/interop/test_transformers_4.py has it read them."""
    folder = Path(shutil.copytree(imported[2], tmp_path / "hf"))
    values = json.loads((folder / "config.json").read_text())
    scaled = {"rope_type": "linear", "factor": 2.0}
    values["text_config"]["rope_parameters"] = {"rope_theta": 5e4, **scaled}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "torch_dtype"}))
    export_model(str(folder), tmp_path / "out", "hf")
    written = json.loads((tmp_path / "out/config.json").read_text())
    text = written["text_config"]
    assert (text["rope_theta"], text["rope_scaling"]) == (5e4, scaled)
    assert text["rope_parameters"] == {"rope_theta": 5e4, **scaled}
    assert written["dtype"] == written["torch_dtype"] == "float32"
    assert text["tie_word_embeddings"] is written["tie_word_embeddings"] is False
    assert open_folder(tmp_path / "out").config.to_dict() == open_folder(folder).config.to_dict() | {
        "architectures": ["JanusForConditionalGeneration"],
        "dtype": "float32",
    }


@pytest.mark.parametrize("layout", ["hf", "official"])
def test_tokenizers_put_bos_before_a_text_once_and_so_do_we(imported, tmp_path, layout) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from janus_train.infer.load import load_model

    export_model(str(imported[2]), tmp_path / "out", layout)
    encoder = load_model(tmp_path / "out").encoder
    bos, plain = encoder.special.bos, encoder.ids("A red apple")
    assert bos not in plain
    assert Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")).encode("A red apple").ids == [bos, *plain]
    kinds = [AutoTokenizer, PreTrainedTokenizerFast]
    if layout == "official" and Version(version("transformers")) < Version(
        "5.18"
    ):  # 5.17 gives the class that is named there Llama's own pieces
        kinds.remove(AutoTokenizer)
    for kind in kinds:
        assert kind.from_pretrained(tmp_path / "out")("A red apple").input_ids == [bos, *plain]
    assert encoder.generation_prompt_ids("A red apple").count(bos) == 1
    export_model(str(tmp_path / "out"), tmp_path / "again", layout)
    assert (tmp_path / "again/tokenizer.json").read_bytes() == (tmp_path / "out/tokenizer.json").read_bytes()


def test_another_models_bos_gives_way_to_ours(tokenizer, tmp_path) -> None:
    """A Llama 3 as the language model brings a post-processor with its own."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from janus_train.interop.processor import save_processor

    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.add_special_tokens(["<|begin_of_text|>"])
    other = core.token_to_id("<|begin_of_text|>")
    core.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", other)]
    )
    tokens = PreTrainedTokenizerFast(tokenizer_object=core)
    save_processor(tokens, small_model(tokenizer).config, "", tmp_path)
    written = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = core.encode("dog", add_special_tokens=False).ids
    assert written.encode("dog").ids == [core.token_to_id("<｜begin▁of▁sentence｜>"), *plain]


WRAPPED = {
    "_orig_mod first": lambda name: f"_orig_mod.{name}",
    "module first": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "in the middle": lambda name: name.replace("language_model.", "language_model._orig_mod.").replace(
        ".mlp.", "._checkpoint_wrapped_module.mlp."
    ),
}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_names_of_a_compiled_or_wrapped_model_are_read(imported, make_official, tmp_path, wrapped, form) -> None:
    _, _, plain = imported
    official, held = make_official(form)
    folder = Path(shutil.copytree(official, tmp_path / "official"))
    renamed = {WRAPPED[wrapped](name): tensor for name, tensor in held.items()}
    assert renamed.keys() != held.keys()
    if form == "bin":
        torch.save(renamed, folder / "pytorch_model.bin")
    else:
        save_file(renamed, folder / "model.safetensors")
    import_official(str(folder), tmp_path / "hf")
    assert same(stored(tmp_path / "hf"), stored(plain))
    layout = {WRAPPED[wrapped](name): tensor for name, tensor in stored(plain).items()}
    save_file(layout, tmp_path / "hf/model.safetensors", {"format": "pt"})
    opened = open_folder(tmp_path / "hf")
    opened.check_complete()
    assert same(dict(opened.tensors()), stored(plain))


@pytest.mark.parametrize(("dtype", "shard_bytes"), [(FP32, 60_000), (BF16, None)])
def test_hf_to_official_to_hf(tokenizer, tmp_path, monkeypatch, dtype, shard_bytes) -> None:
    monkeypatch.setattr(tensors, "SHARD_BYTES", shard_bytes or tensors.SHARD_BYTES)
    torch.manual_seed(2)
    janus = small_model(tokenizer).to(dtype)
    janus.model.vqmodel.float()  # as after training: each part keeps its own type
    janus.save_pretrained(tmp_path / "hf", max_shard_size=shard_bytes or "1GB")
    tokenizer.save_pretrained(tmp_path / "hf")
    export_model(str(tmp_path / "hf"), tmp_path / "official", "official")
    import_official(str(tmp_path / "official"), tmp_path / "back")
    assert same(stored(tmp_path / "back"), janus.state_dict())


@pytest.mark.parametrize(("form", "shards"), [("bin", 1), ("legacy", 1), ("safetensors", 3)])
def test_each_tensor_is_read_by_itself(make_official, form, shards) -> None:
    folder, _ = make_official(form, torch.bfloat16, shards)
    model = open_folder(folder)
    expected = {name: tensor.clone() for name, tensor in model.tensors()}
    assert expected.keys() == model.shapes.keys()
    for name in reversed(list(expected)):
        tensor = model.tensor(name)
        assert torch.equal(tensor, expected[name]) and tensor.dtype == torch.bfloat16, name


def test_each_tensor_of_an_import_is_read_by_itself(imported) -> None:
    model = open_folder(imported[2])
    assert all(torch.equal(model.tensor(name), tensor) for name, tensor in model.tensors())


def test_the_import_loads_with_transformers_alone(imported) -> None:
    from transformers import GenerationConfig, JanusForConditionalGeneration

    _, held, out = imported
    janus, info = JanusForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert not janus.config.tie_word_embeddings and janus.dtype == FP32
    assert torch.equal(janus.lm_head.weight, held["language_model.lm_head.weight"])
    special = open_folder(out).special
    assert janus.config.image_token_id == special.placeholder
    drawing = GenerationConfig.from_pretrained(out)
    assert (drawing.guidance_scale, drawing.pad_token_id) == (5.0, special.pad)
    assert drawing.generation_kwargs["boi_token_id"] == special.begin_of_image


@pytest.mark.skipif(not TRANSFORMERS_DRAWS, reason=NO_DRAWING)
def test_the_import_draws_with_transformers_alone(imported) -> None:
    from transformers import JanusForConditionalGeneration, JanusProcessor

    out = imported[2]
    janus = JanusForConditionalGeneration.from_pretrained(out)
    processor = JanusProcessor.from_pretrained(out)
    made = processor(text=["<|User|>: a red\n\n<|Assistant|>:"], generation_mode="image", return_tensors="pt")
    drawn = janus.generate(**made, generation_mode="image", do_sample=False, max_new_tokens=16)
    assert drawn.shape == (1, 16) and int(drawn.max()) < 53


def test_transformers_processor_makes_the_ids_that_training_does(imported) -> None:
    from transformers import JanusProcessor

    from janus_train.infer.load import load_model

    _, _, out = imported
    encoder = load_model(out).encoder
    processor = JanusProcessor.from_pretrained(out)
    image = Image.new("RGB", (40, 30), (200, 10, 10))
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": "And the background?"},
    ]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    made = processor(text=prompt, images=[image], return_tensors="pt")
    ours = [
        {"role": "user", "content": "<image_placeholder>\nWhat is this?"},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "And the background?"},
        {"role": "assistant", "content": ""},
    ]
    assert made.input_ids[0].tolist() == encoder.chat_prompt_ids(ours, 1)
    assert made.pixel_values.shape == (1, 3, 32, 32) and made.pixel_values.min() >= -1
    text = processor.apply_chat_template([{"role": "user", "content": "a red dog"}], add_generation_prompt=True)
    made = processor(text=[text], generation_mode="image", return_tensors="pt")
    assert made.input_ids[0].tolist() == encoder.generation_prompt_ids("a red dog")


def test_janus_1_3b_keeps_its_words_for_the_speakers(make_official, tmp_path) -> None:
    """Janus-1.3B says `User` and `Assistant`, for which its tokenizer has no tokens."""
    from transformers import JanusProcessor

    from janus_train.infer.load import load_model

    folder, _ = make_official("bin")
    values = json.loads((folder / "tokenizer.json").read_text())
    speakers = ("<|User|>", "<|Assistant|>")
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in speakers]
    vocabulary = values["model"]["vocab"]
    vocabulary |= {f"unused {token}": vocabulary.pop(token) for token in speakers}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((folder / name).read_text())
        settings["additional_special_tokens"] = [t for t in settings["additional_special_tokens"] if t not in speakers]
        (folder / name).write_text(json.dumps(settings))
    import_official(str(folder), tmp_path / "hf")
    asked = [{"role": "user", "content": "Hello"}]
    prompt = JanusProcessor.from_pretrained(tmp_path / "hf").apply_chat_template(asked, add_generation_prompt=True)
    assert prompt == "User: Hello\n\nAssistant:"
    for path in (folder, tmp_path / "hf"):
        encoder = load_model(path).encoder
        ids = encoder.chat_prompt_ids([*asked, {"role": "assistant", "content": ""}], 0)
        assert encoder.tokenizer.decode(ids[1:]) == prompt


def test_the_same_answers_from_every_layout(imported, tmp_path) -> None:
    from janus_train.infer.generate import generate_codes
    from janus_train.infer.load import load_model

    folder, _, out = imported
    export_model(str(out), tmp_path / "back", "official")
    drawn = []
    for path in (folder, out, tmp_path / "back"):
        loaded = load_model(path)
        assert loaded.guidance == 5.0 and loaded.encoder.system_prompt.startswith("You are a helpful")
        ids = [loaded.encoder.generation_prompt_ids("a red apple")]
        options = {"pad_id": loaded.encoder.special.pad, "guidance": 5.0, "temperature": 1.0, "seeds": [3]}
        drawn.append(generate_codes(loaded.janus, ids, **options))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_the_official_tokenizer_is_written_as_old_tokenizers_read_it(tokenizer, tmp_path) -> None:
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from janus_train.data.special_tokens import SPECIAL_TOKENS
    from janus_train.interop.processor import load_tokenizer, save_official_processor

    def saved(tokens: PreTrainedTokenizerFast) -> list:
        save_official_processor(tokens, small_model(tokenizer).config, tmp_path)
        return json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]

    merges = saved(tokenizer)
    assert merges and all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
    text = "A red apple, 苹果, on the left."
    bos = tokenizer.get_vocab()["<｜begin▁of▁sentence｜>"]
    assert load_tokenizer(tmp_path).encode(text) == [bos, *tokenizer.encode(text)]

    core = Tokenizer(models.BPE({"a": 0, " ": 1, "a ": 2, "a a": 3}, [("a", " "), ("a ", "a")]))
    core.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    spaces = PreTrainedTokenizerFast(tokenizer_object=core)
    assert saved(spaces) == [["a", " "], ["a ", "a"]]
    assert load_tokenizer(tmp_path).encode("a a", add_special_tokens=False) == [3]


def test_what_no_forward_pass_uses_is_made_up_where_a_model_never_had_it(tokenizer, tmp_path) -> None:
    janus = small_model(tokenizer)
    janus.save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")
    export_model(str(tmp_path / "hf"), tmp_path / "official", "official")
    made = stored(tmp_path / "official")
    assert made["gen_vision_model.quantize.codebook_used"].shape == (65536,)
    assert made["vision_model.vision_tower.attn_pool.kv.weight"].shape == (48, 24)
    assert made["vision_model.vision_tower.attn_pool.norm.weight"].eq(1).all()


def test_memory_stays_within_about_two_shards(make_official, tmp_path) -> None:
    """A checkpoint of 8 shards in a process of its own: what it adds at its peak, mapped files included."""
    from safetensors.torch import save_file

    folder, held = make_official("safetensors")
    config = json.loads((folder / "config.json").read_text())
    vocabulary, width = 32768, 48  # fp32: 6 MiB a table
    config["language_config"] |= {"vocab_size": vocabulary, "num_hidden_layers": 14, "intermediate_size": vocabulary}
    layer = {n: t for n, t in held.items() if n.startswith("language_model.model.layers.0.")}
    big = {n: t for n, t in held.items() if not n.startswith("language_model.")}
    big["language_model.model.norm.weight"] = held["language_model.model.norm.weight"]
    for name in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"):
        big[name] = torch.zeros(vocabulary, width)
    for number in range(14):
        for name, tensor in layer.items():
            target = name.replace("layers.0.", f"layers.{number}.")
            big[target] = tensor
            if ".mlp." in name:
                big[target] = torch.zeros((width, vocabulary) if "down_proj" in name else (vocabulary, width))
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    shard, size, weight_map, files = {}, 0, {}, 0
    for name in [*big, None]:
        if name is None or (shard and size + big[name].nbytes > 32 * 2**20):
            files += 1
            save_file({n: t.clone() for n, t in shard.items()}, folder / f"part-{files}.safetensors")
            weight_map |= dict.fromkeys(shard, f"part-{files}.safetensors")
            shard, size = {}, 0
        if name is not None:
            shard[name] = big[name]
            size += big[name].nbytes
    assert files >= 8
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    code = (
        "import sys, pathlib\n"
        "from janus_train.interop import tensors, convert, write, processor\n"
        "from transformers import JanusForConditionalGeneration\n"
        "tensors.SHARD_BYTES = 32 * 2**20\n"
        "status = lambda key: int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1])\n"
        "convert.open_folder(pathlib.Path(sys.argv[1])).check_complete()\n"  # what it imports and builds counts before
        "before = status('VmRSS')\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "convert.import_official(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "print((status('VmHWM') - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "hf")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = sum(path.stat().st_size for path in (tmp_path / "hf").glob("model-*.safetensors"))
    assert written > 250 * 2**20
    assert int(done.stdout) < 2 * 32 + 32, "MiB over what the process had before"
    shutil.rmtree(tmp_path / "hf")


def test_export_of_a_run_says_what_was_trained(random_base, tmp_path) -> None:
    from janus_train.train.run import run
    from tests.helpers import config_of
    from tests.train.conftest import SMALL

    folder = run(
        config_of("+stage=1", f"init_from={random_base}", f"output_dir={tmp_path / 'run'}", "run.steps=1", *SMALL)
    )
    export_model(str(folder), tmp_path / "out", "hf")
    assert same(stored(tmp_path / "out"), stored(folder / "final"))
    card = (tmp_path / "out/README.md").read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "# tiny, stage 1" in card and "| steps | 1 |" in card and "data_recipes/demo/stage1.yaml" in card
    assert manifest["data"] and all(digest in card for digest in manifest["data"].values())
    for text, message in (
        ("{", "manifest.json is not a JSON object"),
        ('{"stage": 1}', "does not say what was trained"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=message) as error:
            export_model(str(folder), tmp_path / "none", "hf")
        assert "\n" not in str(error.value) and not (tmp_path / "none").exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (folder / "final").iterdir()} - {"training.json"} | {"README.md"}
    assert manifest["recipe"]["sources"] and "| class_to_image | generation | " in card
    assert "| training, loss/generation, mean of the last 20 steps at most | " in card
    assert {"chat_template.jinja", "processor_config.json", "generation_config.json", "tokenizer.json"} <= names


def test_training_keeps_what_only_the_official_layout_has(make_official, tmp_path) -> None:
    """official -> a stage on the official folder as it is -> export official: extras and frozen parts byte for byte."""
    from janus_train.train.run import run
    from tests.helpers import config_of
    from tests.train.conftest import SMALL

    folder, held = make_official("bin", BF16)
    config = config_of(
        "+stage=1", "model=from_folder", f"init_from={folder}", f"output_dir={tmp_path / 'run'}", "run.steps=1",
        "data=demo", "precision=fp32", *SMALL,
    )  # fmt: skip
    run(config)
    export_model(str(tmp_path / "run"), tmp_path / "back", "official")
    back = stored(tmp_path / "back")
    assert back.keys() == held.keys()
    frozen = [n for n in held if not n.startswith(("aligner.", "gen_aligner.", "gen_head."))]
    assert all(torch.equal(back[n].to(BF16), held[n]) for n in frozen)
    assert all(back[n].dtype == held[n].dtype for n in held if "attn_pool" in n)
    assert not torch.equal(back["gen_head.vision_head.weight"].to(BF16), held["gen_head.vision_head.weight"])


def test_config_of_the_hub_1b_is_read_to_the_letter() -> None:
    """The fields of deepseek-ai/Janus-Pro-1B's config.json, without any tensor: they give the paper's model."""
    from janus_train.interop.from_folder import describe
    from janus_train.interop.official_config import from_official, to_official
    from janus_train.interop.official_fit import not_buildable
    from tests.model.model_configs import model_config

    projector = {"depth": 2, "n_embed": 2048, "projector_type": "mlp_gelu"}
    values = {
        "model_type": "multi_modality",
        "aligner_config": {"cls": "MlpProjector", "params": {**projector, "input_dim": 1024}},
        "gen_aligner_config": {"cls": "MlpProjector", "params": {**projector, "input_dim": 8}},
        "gen_head_config": {
            "cls": "vision_head",
            "params": {"image_token_embed": 2048, "image_token_size": 16384, "n_embed": 2048},
        },
        "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": 16384, "n_embed": 8}},
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {"image_size": 384, "model_name": "siglip_large_patch16_384", "select_layer": -1},
        },
        "language_config": {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "max_position_embeddings": 16384,
            "model_type": "llama",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "num_key_value_heads": 16,
            "torch_dtype": "bfloat16",
            "vocab_size": 102400,
            "_attn_implementation": "flash_attention_2",
            "_attn_implementation_autoset": True,  # of transformers 4.4x
        },
    }
    config = from_official(values, None, None)
    assert not_buildable(config) == [] and "_attn_implementation_autoset" not in config.text_config.to_dict()
    wanted = model_config("janus_pro_1b")
    read = describe(config)
    assert read["text"] == wanted.text.model_dump() | {"max_position_embeddings": 16384}
    assert read["vision"] == wanted.vision.model_dump()
    assert read["vq"] == wanted.vq.model_dump() | {"channel_multiplier": [1, 1, 2, 2, 4]}
    assert (read["image_size"], read["generation_image_size"], read["adaptor_depth"]) == (384, 384, 2)
    again = to_official(config, "bfloat16")
    for section in ("aligner_config", "gen_aligner_config", "gen_head_config", "gen_vision_config", "vision_config"):
        assert again[section]["cls"] == values[section]["cls"]
        assert values[section]["params"].items() <= again[section]["params"].items()


def test_the_command_says_where_and_what_official_code_cannot_build(imported, tmp_path) -> None:
    _, _, out = imported
    command = [sys.executable, "-m", "janus_train.cli", "export", str(out), "--format", "official"]
    done = subprocess.run([*command, "--out", str(tmp_path / "o")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [str(tmp_path / "o")], done.stderr
    assert "cannot build its vision encoder" in done.stderr and Path(tmp_path / "o/README.md").is_file()
