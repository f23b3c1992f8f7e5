"""Composes a validated `Config` from the command line's ``key=value`` overrides.

    overrides -> Hydra composes configs/ -> values -> model=from_folder: the folder's own shape -> Config -> its plug-ins

With a ``config_dir`` (``--config-dir``) Hydra also finds the groups and files in that folder of the user's. A mistake is
a `UserError` with one line that names the key, the problem and the fix.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from janus_train.config import Config
from janus_train.errors import UserError, first_line, one_line
from janus_train.paths import CONFIGS
from janus_train.plugins import import_plugins

_STAGE = re.compile(r"^\+{0,2}stage=['\"]?(?P<stage>[^'\"]*)['\"]?$")


def quote_stage(arguments: list[str]) -> list[str]:
    """Quotes the number in ``+stage=2`` and ``stage=2``, because Hydra requires a string for the choice of a group."""
    matches = [(_STAGE.match(argument), argument) for argument in arguments]
    return [f"stage='{match['stage']}'" if match and match["stage"] else argument for match, argument in matches]


def compose_config(overrides: list[str], config_dir: Path | None = None) -> Config:
    """Composes and validates a configuration. Raises `UserError` with one line for a mistake."""
    values = compose_values(overrides, config_dir)
    if config_dir is not None:
        _refuse_group_as_key(values, config_dir)
    return validate(values)


def compose_values(overrides: list[str], config_dir: Path | None = None) -> dict[str, Any]:
    """Composes a configuration as plain values. Raises `UserError` with one line for what Hydra refuses."""
    search_path = [] if config_dir is None else [_search_path(config_dir)]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            values = compose("train", overrides=[*quote_stage(overrides), *search_path])
            return OmegaConf.to_container(values, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group with a value
        raise UserError(_explain(error, overrides)) from None
    except yaml.YAMLError as error:
        raise UserError(f"--config-dir {config_dir}: a file is not valid YAML ({one_line(error, 200)})") from None
    except RecursionError:
        raise UserError("an option's value is nested too deeply") from None


def _search_path(config_dir: Path) -> str:
    """The override by which Hydra also searches ``config_dir``.

    Raises `UserError` if there is no such folder, or if it has a file that would be ignored because configs/ has it too.
    """
    if not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    for path in sorted(config_dir.rglob("*.yaml")):
        name = path.relative_to(config_dir)
        if (CONFIGS / name).is_file():
            raise UserError(
                f"--config-dir {config_dir}: {name} is also in configs/, which comes first: give it another name"
            )
    quoted = str(config_dir.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.searchpath=['file://{quoted}']"


def _refuse_group_as_key(values: dict[str, Any], config_dir: Path) -> None:
    """Raises `UserError` if a group of ``config_dir`` became a key of its own instead of changing options."""
    for key in values.keys() - Config.model_fields.keys():
        if (config_dir / key).is_dir():
            raise UserError(
                f"{config_dir / key}: a file that sets options of training begins with the line '# @package _global_'"
            )


def validate(values: dict[str, Any]) -> Config:
    """Validates composed ``values`` and imports the plug-ins that they name.

    Raises `UserError` with one line that names the first wrong key.
    """
    if values.get("stage") is None:
        raise UserError(
            "no stage given: add +stage=1 (adaptors and image head), +stage=2 (unified pretraining) or +stage=3 (fine-tuning)"
        )
    if (values.get("model") or {}).get("name") == "from_folder":
        from janus_train.interop.from_folder import model_values  # imports transformers, which only this model needs

        values = values | {"model": model_values(values["model"], values.get("init_from"))}
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        first_error = error.errors()[0]
        key = ".".join(str(p) for p in first_error["loc"]) or "configuration"
        if first_error["type"] == "extra_forbidden":
            raise UserError(f"{key}: no such option; --cfg job prints every key") from None
        problem = first_error["msg"].removeprefix("Value error, ")
        value = "" if isinstance(first_error["input"], dict) else f", got {first_error['input']!r}"
        raise UserError(f"{key}: {problem}{value}") from None
    import_plugins(config.plugins)
    return config


def check_overrides(arguments: list[str]) -> None:
    """Composes and validates the command line's overrides; flags such as ``--cfg job`` and ``--help`` are left to Hydra."""
    if set(arguments) & _LEFT_TO_HYDRA:
        return
    for argument in arguments:
        if argument.startswith("-"):
            _refuse_flag(argument, arguments)
    flag_values = {i + 1 for i, argument in enumerate(arguments) if argument in _WITH_VALUE}
    overrides = [a for i, a in enumerate(arguments) if not a.startswith("-") and i not in flag_values]
    compose_config(overrides, _config_dir(arguments))


def _config_dir(arguments: list[str]) -> Path | None:
    """The value of ``--config-dir``, in any form that Hydra takes. Raises `UserError` if it is missing."""
    for i, argument in enumerate(arguments):
        flag, is_joined, value = argument.partition("=")
        if flag in _CONFIG_DIR:
            if not is_joined:
                value = arguments[i + 1] if i + 1 < len(arguments) else ""
            if not value:
                raise UserError(f"{flag} needs a folder: {flag} FOLDER")
            return Path(value)
    return None


_LEFT_TO_HYDRA = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
_CONFIG_DIR = {"--config-dir", "-cd"}
_WITH_VALUE = {"--cfg", "-c", "--package", "-p", *_CONFIG_DIR}
_WITHOUT_VALUE = {"--resolve", "--run", "-r"}
_MULTIRUN = {"--multirun", "-m"}
_NOT_SUPPORTED = {
    **dict.fromkeys(
        ("--config-name", "-cn", "--config-path", "-cp"),
        "put the options into FOLDER/exp/mine.yaml and add --config-dir FOLDER +exp=mine",
    ),
    "--experimental-rerun": "run the same command again to resume",
}
"""Hydra's flags that would start something other than the one run of this project's configuration."""


def _refuse_flag(argument: str, arguments: list[str]) -> None:
    """Raises `UserError` for a flag that is not Hydra's, or that is not supported here."""
    flag, _, value = argument.partition("=")
    if flag in _MULTIRUN:
        sweep = next((a for a in arguments if re.fullmatch(r"[\w.]+=[^=\[\]{}'\"]*,[^=\[\]{}'\"]*", a)), "seed=0,1")
        raise UserError(f"{flag} is not supported: {_run_each(sweep)}")
    if flag in _NOT_SUPPORTED:
        raise UserError(f"{flag} is not supported: {_NOT_SUPPORTED[flag]}")
    if flag not in _WITH_VALUE | _WITHOUT_VALUE:
        option = _nearest_key(flag.lstrip("-").replace("-", "_")) or "key"
        raise UserError(f"{argument}: options are written without dashes, {option}={value or 'value'}")


def _run_each(sweep: str) -> str:
    """How to start a run for each value of ``key=1,2``."""
    key, _, values = sweep.partition("=")
    words = " ".join(value.strip() for value in values.split(","))
    return f"start a run for each value, for v in {words}; do accelerate launch train.py ... {key}=$v output_dir=outputs/$v; done"


def _explain(error: Exception, overrides: list[str]) -> str:
    """Reduces Hydra's message to one line with the option, the problem and the fix."""
    message = str(error)
    group = re.search(r"Could not find '(?P<group>[^']+)/(?P<choice>[^']*)'", message)
    if group:
        choices = re.findall(r"^\t(\S+)$", message.partition("Config search path:")[0], re.MULTILINE)
        return f"{group['group']}={group['choice']}: no such {group['group']}, choose {', '.join(choices)}"
    key = re.search(r"Could not override '(?P<key>[^']+)'|Key '(?P<other>[^']+)' is not in struct", message)
    if key:
        option = key["key"] or key["other"]
        if option.split(".")[0] == "peft":
            return f"{option}: LoRA is not enabled; did you mean +peft=lora?"
        if option.startswith("optim.parts."):
            return f"{option}: a part's own option is added with a plus, +{option}=VALUE"
        nearest = _nearest_key(option)
        hint = f"; did you mean {nearest}?" if nearest else "; --cfg job prints every key"
        return f"{option}: no such option{hint}"
    ambiguous = re.search(r"Ambiguous value for argument '(?P<override>[^']*)'", message)
    if ambiguous:
        key_of_list, _, values_of_list = ambiguous["override"].partition("=")
        return f"{ambiguous['override']}: a list is {key_of_list}=[{values_of_list}]; or {_run_each(ambiguous['override'])}"
    parsing = re.search(r"Error parsing override '(?P<override>.*)'", message)
    if parsing:
        name, _, value = parsing["override"].partition("=")
        quoted = f"{name}='{value}'".replace('"', '\\"')
        return f'{parsing["override"]}: cannot be parsed, options are written key=value; quote special characters: "{quoted}"'
    return f"{first_line(error)} (in: {' '.join(overrides)})"


def _nearest_key(option: str) -> str | None:
    """The key that ``option`` probably means: an abbreviation (``optim.lr``), a key of another section, a misspelling."""
    section, _, name = option.rpartition(".")
    keys = [key for key in _known_keys() if "." in key or not section]
    in_section = [key for key in keys if key.rpartition(".")[0] == section]
    for candidates in (in_section, keys):
        for key in candidates:
            words = key.rpartition(".")[2].split("_")
            if len(words) > 1 and name in ("".join(word[0] for word in words), "".join(words)):
                return key
    same_name = [key for key in keys if key.rpartition(".")[2] == name]
    if same_name:
        return same_name[0]
    close_matches = difflib.get_close_matches(option, [*in_section, *keys], n=1, cutoff=0.6)
    return close_matches[0] if close_matches else None


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
