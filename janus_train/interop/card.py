"""The model card: README.md from the model's configuration and its run's records (`run_record`), by templates/card.md.jinja.

Only what is recorded is said. A fact that is not recorded is called so: a licence above all is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import JanusConfig

from janus_train.config import peft_method
from janus_train.errors import UserError
from janus_train.interop.run_record import LAST_STEPS, RunRecord
from janus_train.text import printable_line

CardLayout = Literal["hf", "official"]
NOT_RECORDED = "not recorded"

_LOAD = {
    "hf": """from transformers import JanusForConditionalGeneration, JanusProcessor

model = JanusForConditionalGeneration.from_pretrained(FOLDER)
processor = JanusProcessor.from_pretrained(FOLDER)""",
    "official": """from janus.models import MultiModalityCausalLM, VLChatProcessor  # the official code, deepseek-ai/Janus

model = MultiModalityCausalLM.from_pretrained(FOLDER)
processor = VLChatProcessor.from_pretrained(FOLDER)""",
}
_HUB_DATASETS = "huggingface.co/datasets/"
"""How a source's ``home`` begins if the hub publishes it."""


def _cell(value: Any) -> str:
    """Makes data a text of one line that ends no cell of a table and no code."""
    return printable_line(str(value)).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


_environment = Environment(  # Markdown, not HTML: values are escaped by `_cell`
    loader=PackageLoader("janus_train.interop"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def model_card(config: JanusConfig, run: RunRecord | None, layout: CardLayout, license_id: str | None = None) -> str:
    """Returns the README.md; ``run``: of the run that trained the model, None if it is not known.

    ``license_id``: the model's licence by the hub's names, such as ``mit``. Raises `UserError` if the run's manifest
    lacks what every run records.
    """
    values: dict[str, Any] = {
        "front_matter": _front_matter(run, layout, license_id),
        "title": "Janus model",
        "origin": "Converted by janus_train; what it was trained on is not recorded here.",
        "load": _LOAD[layout],
        "parts": list(_parts(config)),
        "licence": _licence(run, license_id),
        "run": run is not None,
    }
    if run is not None:
        try:
            values |= _run_values(run)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(f"{run.folder / 'manifest.json'} does not say what was trained") from None
    return _environment.get_template("card.md.jinja").render(values) + "\n"


def _front_matter(run: RunRecord | None, layout: CardLayout, license_id: str | None) -> str:
    """What the hub reads of a card, as YAML."""
    values: dict[str, Any] = {"license": license_id} if license_id else {}
    values |= {"library_name": "transformers"} if layout == "hf" else {}
    values |= {"pipeline_tag": "any-to-any", "tags": ["janus", "multimodal", "text-to-image", "image-to-text"]}
    if run is not None:
        values |= {"base_model": base} if (base := run.base_model) else {}
        values |= {"datasets": names} if (names := _hub_datasets(run)) else {}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _hub_datasets(run: RunRecord) -> list[str]:
    """The hub ids of the data sets that were trained on, as far as the sources say where they come from."""
    homes = [str(source.get("home") or "") for source in _trained_sources(run)]
    homes = [home.removeprefix("https://") for home in homes]
    ids = [home.removeprefix(_HUB_DATASETS).strip("/") for home in homes if home.startswith(_HUB_DATASETS)]
    return list(dict.fromkeys(ids))


def _trained_sources(run: RunRecord) -> list[dict[str, Any]]:
    sources = run.manifest.get("recipe", {}).get("sources", [])
    return [source for source in sources if source["share"] is not None]


def _parts(config: JanusConfig) -> Iterator[tuple[str, str]]:
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    yield (
        "language model",
        f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}, vocabulary {text.vocab_size}, "
        f"context {text.max_position_embeddings}",
    )
    yield (
        "understanding encoder",
        f"SigLIP, {vision.num_hidden_layers} layers, width {vision.hidden_size}, images of {vision.image_size}, "
        f"patches of {vision.patch_size}",
    )
    yield "generation encoder", f"VQ, {vq.num_embeddings} codes of dimension {vq.embed_dim}"
    yield "tokens per image", str(vision.num_image_tokens)


def _run_values(run: RunRecord) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "title": _cell(f"{manifest['config']['model']['name']}, stage {manifest['stage']}"),
        "origin": "Trained and exported with janus_train.",
        "settings": [(name, _cell(text)) for name, text in _settings(run)],
        "recipe_line": _recipe_line(run),
        "unit": manifest["config"]["ratio"].get("unit", "samples"),
        "sources": [_source(source) for source in _trained_sources(run)],
        "digests": [(_cell(name), _cell(digest)) for name, digest in manifest["data"].items()],
        "losses": list(_losses(run)),
        "figures": [
            {"what": _cell(what), "value": value, "samples": "" if samples is None else f"{samples:,}"}
            for what, value, samples in run.figures
        ],
    }


def _settings(run: RunRecord) -> Iterator[tuple[str, str]]:
    manifest, config = run.manifest, run.manifest["config"]
    ratio, optim, batch = config["ratio"], config["optim"], config["batch"]
    yield "stage", manifest["stage"]
    yield "steps", f"{run.steps}{_of_which(run)}"
    yield "started from", manifest["start"]
    yield "trained parts", ", ".join(_trained_parts(manifest))
    yield (
        "understanding : text : generation",
        f"{ratio['understanding']} : {ratio['text']} : {ratio['generation']} of the {ratio.get('unit', 'samples')}",
    )
    yield (
        "learning rate",
        f"{optim['learning_rate']}, {optim['schedule']}, {optim['warmup_steps']} steps of warm-up",
    )
    yield (
        "batch per step",
        f"{batch['rows_per_step']} {batch.get('unit', 'rows')} of {'at most ' if batch.get('unit') == 'samples' else ''}"
        f"{batch['row_tokens']} tokens",
    )
    yield "seed", config["seed"]
    yield "code", f"commit {manifest['commit']}" if manifest.get("commit") else f"commit {NOT_RECORDED}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())


def _of_which(run: RunRecord) -> str:
    """Which model of the run it is, if not simply its last."""
    texts = []
    if not run.manifest.get("finished"):
        texts.append("the run is not finished")
    is_average = run.model.get("ema") is not None
    if is_average:
        texts.append(f"average of the weights with decay {run.model['ema']}")
    best = run.model.get("best")
    if best and best["step"] == run.steps and best["metric"].startswith("validation_ema/") == is_average:
        texts.append(f"the best {best['metric']} of the run, {best['value']:.4f}")
    return f" ({'; '.join(texts)})" if texts else ""


def _trained_parts(manifest: dict[str, Any]) -> Iterator[str]:
    for name, part in manifest["parts"].items():
        if part["trains"]:
            yield f"{name} ({', '.join(part['pieces'])})" if part.get("pieces") else name
    if names := [name for name, part in manifest["parts"].items() if part.get("adapter")]:
        peft = manifest["config"]["peft"]
        method = peft_method(peft.get("use_rslora", False), peft.get("use_dora", False))
        yield f"{', '.join(names)} by {method} of rank {peft['rank']}, merged"


def _recipe_line(run: RunRecord) -> str:
    path = _cell(run.manifest["config"]["data"]["recipe"])
    recipe = run.manifest.get("recipe")
    if recipe is None:
        return f"Recipe {path}. Its sources are {NOT_RECORDED}."
    held_out = any(source.get("held_out") for source in recipe["sources"]) or recipe["validation"]
    end = " Some samples were held out for validation." if held_out else ""
    return f"Recipe {_cell(recipe['name'])} ({path}). Licence: {_cell(recipe['licence'])}.{end}"


def _source(source: dict[str, Any]) -> dict[str, str]:
    texts = {key: _cell(source[key]) for key in ("name", "kind", "template")}
    texts |= {
        "licence": _cell(source.get("licence") or "the recipe's"),
        "home": _cell(source.get("home") or NOT_RECORDED),
    }
    return texts | {"share": f"{100 * source['share']:.1f} %", "samples": f"{source['samples']:,}"}


def _losses(run: RunRecord) -> Iterator[tuple[str, str]]:
    for name, value in run.training_losses():
        yield f"training, {_cell(name)}, mean of the last {LAST_STEPS} steps at most", f"{value:.4f}"
    line = run.validation()
    prefix = "validation_ema/" if run.model.get("ema") is not None else "validation/"
    for name, value in line.items():
        if name.startswith((f"{prefix}loss/", f"{prefix}source/")) or name == f"{prefix}loss":
            text = NOT_RECORDED if value is None else f"{value:.4f}"
            yield f"{_cell(name)} at step {line['step']}, {line['validation/samples']:,} samples", text


def _licence(run: RunRecord | None, license_id: str | None) -> str:
    own = (
        f"The licence of this model is {license_id}." if license_id else f"The licence of this model is {NOT_RECORDED}."
    )
    if run is None:
        return own
    base = f" It was trained from {run.base_model}, whose licence applies too." if run.base_model else ""
    return f"{own}{base} The licences of the data are named above, as far as they are recorded."
