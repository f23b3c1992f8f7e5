"""Training and fine-tuning of Janus-Pro-like models.

The public Python interface is what `__all__` lists. Everything else is internal and may change.

    from janus_train import load_model

    model = load_model("outputs/demo/stage3/final")
    image, = model.generate(["A red apple on a blue background."], seeds=[0])
    question = {"role": "user", "content": "<image_placeholder>\\nWhat is this?"}
    print("".join(model.chat([question], [image])))

- ``load_model(model, adapters=(), device="cpu", dtype=None)`` loads a run's ``final/``, a model's folder in transformers' or
  the official layout, or a model of the hub, with folders of LoRA adapters added to it. It returns a `LoadedModel`.
- ``LoadedModel.generate`` makes images from prompts, ``LoadedModel.chat`` answers in pieces of text; its attribute ``janus`` is
  transformers' ``JanusForConditionalGeneration``.
- ``compose_config(overrides)`` gives the `Config` of a training run, as ``train.py`` composes it from the same overrides.
- ``UserError`` is raised for what a user can mend; its message is one line that says how.

Names are imported on first use, so ``import janus_train`` alone is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from janus_train.compose import compose_config
    from janus_train.config import Config
    from janus_train.errors import UserError
    from janus_train.infer.load import LoadedModel, load_model

__version__ = "0.1.0"

__all__ = ["Config", "LoadedModel", "UserError", "__version__", "compose_config", "load_model"]

_HOMES = {
    "Config": "janus_train.config",
    "LoadedModel": "janus_train.infer.load",
    "UserError": "janus_train.errors",
    "compose_config": "janus_train.compose",
    "load_model": "janus_train.infer.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
