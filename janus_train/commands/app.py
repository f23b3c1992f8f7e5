"""``janus-train app``: a model in the browser."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from janus_train.commands.model_options import Device, Model, Precision, load
from janus_train.errors import UserError


def app(
    model: Model,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The page's port.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to serve at. 0.0.0.0 lets everyone in who reaches this machine.")
    ] = "127.0.0.1",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Ask and draw in a browser. Needs the extra gradio; nothing is shared, and no network is needed."""
    if find_spec("gradio") is None:
        raise UserError("the app needs gradio: pip install -c constraints.txt -e '.[gradio]'")
    loaded = load(model, device, precision)
    from janus_train.infer.app import serve

    serve(loaded, model, host, port)
