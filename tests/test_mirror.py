"""Each module of the package has its test module at the mirrored place, or it is said here which one tests it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from janus_train.paths import ROOT

PACKAGE, TESTS = ROOT / "janus_train", ROOT / "tests"

TESTED_BY = {
    "test_cli.py": "commands.chat commands.evaluate commands.generate commands.report commands.terminal "
    "infer.generate_folder infer.image_grid infer.prompts targets",
    "commands/test_index.py": "datatools.index",
    "data/test_encode.py": "data.special_tokens",
    "data/test_recipe.py": "data.sources.registry",
    "data/sources/test_hf_dataset.py": "data.sources.rows",
    "data/sources/test_parquet.py": "data.sources.parquet_files",
    "data/storage/test_remote.py": "data.storage.file_states",
    "data/test_streams.py": "data.loader",
    "data/shards/test_index.py": "data.shards.string_array",
    "test_hostile_files.py": "data.shards.tars",
    "datatools/inspect/test_page.py": "datatools.inspect.strips pages.images",
    "datatools/inspect/test_run.py": "commands.inspect datatools.inspect.drawn datatools.inspect.samples",
    "datatools/prepare/formats/test_captions.py": "datatools.prepare.formats datatools.prepare.formats.listed",
    "datatools/prepare/formats/test_interleaved.py": "datatools.prepare.layouts",
    "datatools/prepare/formats/test_imagefolder.py": "datatools.prepare.classes",
    "datatools/prepare/test_fields.py": "datatools.prepare.options datatools.prepare.samples",
    "datatools/prepare/test_output.py": "commands.prepare datatools.prepare.progress datatools.prepare.run "
    "datatools.prepare.tars datatools.prepare.workers",
    "datatools/prepare/test_records.py": "datatools.prepare.items",
    "datatools/prepare/test_tables.py": "datatools.prepare.formats.hf datatools.prepare.formats.parquet "
    "datatools.prepare.formats.rows",
    "datatools/tokenize/test_tokenize.py": "commands.tokenize data.cached_codes",
    "datatools/verify/test_verify.py": "commands.verify data.data_args",
    "demo/test_evaluation.py": "demo.generation demo.grid demo.options demo.table demo.understanding",
    "demo/test_scenes.py": "demo.objects demo.words",
    "evaluate/test_registry.py": "demo.plugin evaluate.options",
    "evaluate/benchmarks/tasks/test_geneval.py": "evaluate.benchmarks.rescore",
    "evaluate/benchmarks/test_run.py": "commands.benchmark",
    "infer/test_app.py": "commands.app infer.app_page",
    "infer/test_engine.py": "infer.batches infer.rows",
    "integration/test_commands.py": "train.entry",
    "integration/test_installed.py": "train.__main__",
    "interop/test_assemble.py": "commands.assemble interop.base_encoders interop.base_language_model",
    "evaluate/benchmarks/drawing/test_owlv2.py": "evaluate.benchmarks.drawing.instance",
    "interop/test_card.py": "interop.run_record",
    "interop/test_convert.py": "commands.convert interop.from_folder interop.model_folder "
    "interop.official_config interop.official_fit interop.processor interop.tensors interop.write",
    "model/test_golden_model.py": "model.build model.janus",
    "official/models/test_modeling_vlm.py": "official.models.clip_encoder",
    "official/models/test_processing_vlm.py": "official.models.processing_outputs",
    "planning/test_memory.py": "model.precision planning.activations planning.state",
    "planning/test_plan.py": "planning.communication planning.measured planning.run_plan",
    "commands/test_plan.py": "planning.page planning.text",
    "planning/test_flops.py": "planning.trained planning.workload",
    "serve/test_app.py": "serve.bodies serve.errors serve.service",
    "serve/test_chat.py": "serve.images serve.schema",
    "serve/test_server.py": "commands.serve",
    "train/test_peft.py": "model.lora model.lora_weights",
    "train/test_run.py": "train.final_model train.initial_weights train.run_dir train.trainable train.trainer "
    "train.monitor.log train.monitor.previews",
    "train/test_step.py": "model.loss_totals train.optim",
    "train/checkpoint/test_saver.py": "train.checkpoint.format",
    "train/distributed/test_process_group.py": "train.distributed.context",
    "train/test_faults.py": "train.distributed.signals",
}
"""Test module: the modules that it tests beside its own."""

_BASE = "made the demonstration's base once, by `make base`"
UNTESTED = {
    "demo.run_demo": "six minutes of training, by `make demo`; the commands that it calls are tested",
    "demo.build.base": _BASE,
    "demo.build.common": _BASE,
    "demo.build.language_model": _BASE,
    "demo.build.tokenizer": _BASE,
    "demo.build.vision": _BASE,
}
"""Module: why no test module tests it."""


def modules() -> Iterator[str]:
    """Dotted names inside the package. What an ``__init__.py`` holds counts as its package, without any code not at all."""
    for path in PACKAGE.rglob("*.py"):
        inner = path.relative_to(PACKAGE)
        if path.name != "__init__.py":
            yield ".".join(inner.with_suffix("").parts)
        elif len(inner.parts) > 1 and "\ndef " in path.read_text(encoding="utf-8"):
            yield ".".join(inner.parent.parts)


def mirrored(module: str) -> list[Path]:
    """Where a module's test module may stand: in its own place, or named for its package."""
    *above, own = module.split(".")
    package = TESTS.joinpath(*above)
    found = [package / f"test_{own}.py", package / own / f"test_{own}.py"]
    if above:
        found.append(package / f"test_{above[-1]}.py")
    return found


def listed() -> dict[str, Path]:
    return {module: TESTS / file for file, names in TESTED_BY.items() for module in names.split()}


def test_each_module_has_a_test_module() -> None:
    known = listed().keys() | UNTESTED.keys()
    alone = [m for m in modules() if m not in known and not any(path.is_file() for path in mirrored(m))]
    assert not alone, f"{alone}: write tests/.../test_NAME.py, or name the test module here"


def test_the_lists_name_what_is_there_and_nothing_that_needs_no_place_in_them() -> None:
    there = set(modules())
    for module in [*listed(), *UNTESTED]:
        assert module in there, f"there is no module {module}"
        assert not any(path.is_file() for path in mirrored(module)), f"{module} has its test module"
    assert not [file for file in TESTED_BY if not (TESTS / file).is_file()]
    assert not listed().keys() & UNTESTED.keys()


def test_each_folder_of_tests_is_named_for_a_package() -> None:
    of_more_than_a_package = {"benchmarks", "docs", "examples", "hostile", "integration", "launch"}
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        if not of_more_than_a_package.intersection(folder.parts):
            assert (PACKAGE / folder).is_dir(), f"{path}: there is no package janus_train/{folder}"
