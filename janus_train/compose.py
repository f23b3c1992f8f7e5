"""From the command line's ``key=value`` overrides to a validated `Config`.

    overrides -> Hydra composes configs/ -> values -> model=from_folder: the folder's own shape -> Config -> its plug-ins

A mistake is a `UserError` with one line that names the key, what is wrong with it and what would be right.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.paths import CONFIGS
from janus_train.plugins import import_plugins

_STAGE = re.compile(r"^\+{0,2}stage=['\"]?(?P<stage>[^'\"]*)['\"]?$")


def quote_stage(arguments: list[str]) -> list[str]:
    """``+stage=2`` and ``stage=2`` as Hydra takes them: the choice of a group must be a string, and 2 alone is a number."""
    matches = [(_STAGE.match(argument), argument) for argument in arguments]
    return [f"stage='{match['stage']}'" if match and match["stage"] else argument for match, argument in matches]


def compose_config(overrides: list[str]) -> Config:
    """The configuration of a run with these overrides. Raises `UserError` with one line for what is wrong."""
    return validate(compose_values(overrides))


def compose_values(overrides: list[str]) -> dict[str, Any]:
    """The composed configuration as plain values. Raises `UserError` with one line for what Hydra refuses."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            values = compose("train", overrides=quote_stage(overrides))
            return OmegaConf.to_container(values, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group with a value
        raise UserError(_explained(error, overrides)) from None
    except RecursionError:
        raise UserError("an option's value is nested too deeply") from None


def validate(values: dict[str, Any]) -> Config:
    """The configuration that composed ``values`` describe, with its plug-ins imported.

    Raises `UserError` with one line that names the first wrong key.
    """
    if values.get("stage") is None:
        raise UserError(
            "no stage given: add +stage=1 (adaptors and image head), +stage=2 (unified pretraining) or +stage=3 (fine-tuning)"
        )
    if (values.get("model") or {}).get("name") == "from_folder":
        from janus_train.interop.from_folder import model_values  # loads transformers, which no other model needs here

        values = values | {"model": model_values(values["model"], values.get("init_from"))}
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "configuration"
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: no such option; --cfg job prints every key") from None
        what = first["msg"].removeprefix("Value error, ")
        value = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise UserError(f"{where}: {what}{value}") from None
    import_plugins(config.plugins)
    return config


def check_overrides(arguments: list[str]) -> None:
    """Compose and validate what the command line asks for; flags such as ``--cfg job`` and ``--help`` are Hydra's own."""
    if set(arguments) & {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}:
        return
    taken_by_flag = {i + 1 for i, argument in enumerate(arguments) if argument in ("--cfg", "-c", "--package", "-p")}
    compose_config([a for i, a in enumerate(arguments) if not a.startswith("-") and i not in taken_by_flag])


def _explained(error: Exception, overrides: list[str]) -> str:
    """What is wrong, where, and what would be right, from Hydra's many lines."""
    message = str(error)
    group = re.search(r"Could not find '(?P<group>[^']+)/(?P<choice>[^']*)'", message)
    if group:
        choices = sorted(path.stem for path in (CONFIGS / group["group"]).glob("*.yaml"))
        return f"{group['group']}={group['choice']}: no such {group['group']}, choose {', '.join(choices)}"
    key = re.search(r"Could not override '(?P<key>[^']+)'|Key '(?P<other>[^']+)' is not in struct", message)
    if key:
        wrong = key["key"] or key["other"]
        if wrong.split(".")[0] == "peft":
            return f"{wrong}: there is no LoRA to set up yet; did you mean +peft=lora?"
        near = difflib.get_close_matches(wrong, _known_keys(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "; --cfg job prints every key"
        return f"{wrong}: no such option{hint}"
    parsing = re.search(r"Error parsing override '(?P<override>.*)'", message)
    if parsing:
        return f"{parsing['override']}: cannot be read, options are written key=value (quote values with special characters)"
    first = next(line.strip() for line in message.splitlines() if line.strip())
    return f"{first} (in: {' '.join(overrides)})"


def _known_keys() -> list[str]:
    def walk(node: dict[str, Any], prefix: str) -> list[str]:
        keys = []
        for name, value in node.items():
            keys.append(prefix + name)
            if isinstance(value, dict):
                keys += walk(value, f"{prefix}{name}.")
        return keys

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", overrides=["stage='1'"]))
    return walk(values, "")  # type: ignore[arg-type]
