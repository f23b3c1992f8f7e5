"""The interface of DeepSeek's package ``janus`` over transformers' Janus model, for scripts that were written for it.

    from janus_train.official.models import MultiModalityCausalLM, VLChatProcessor   # was: from janus.models import ...
    from janus_train.official.utils.io import load_pil_images                         # was: from janus.utils.io import ...

Names, signatures and what comes back are those of ``deepseek-ai/Janus`` at 1daa72f, and modules have the same names. The
model is the one that the rest of this project trains and loads: nothing of it is written a second time here. Folders in
either layout, a run's ``final/`` and LoRA adapters are read.

Importing this package registers its classes with transformers, so that ``AutoModelForCausalLM.from_pretrained(folder)``
returns a `models.MultiModalityCausalLM`.
"""

from __future__ import annotations

from janus_train.official import models, utils

__all__ = ["models", "utils"]
