"""``janus-train app``: serves a model to the browser."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from janus_train.commands.options import Adapters, Device, Model, Precision, load, name_of
from janus_train.errors import UserError


def app(
    model: Model,
    adapter: Adapters = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
    host: Annotated[
        str,
        typer.Option(help="Address to serve the page at; 0.0.0.0 lets in everyone who can reach this machine."),
    ] = "127.0.0.1",
    time_limit: Annotated[
        int, typer.Option(min=1, help="Seconds that one question or drawing may take, once it is its turn.")
    ] = 300,
    max_upload: Annotated[int, typer.Option(min=1, max=400, help="Largest image to upload, in MB.")] = 20,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Chat and generate images in a browser.

    Needs the extra gradio. Nothing is shared, and no network is needed. What is asked at the same time is worked on
    together, the rest waits in a queue. Uploads are kept for an hour at most, and go when the app ends.

    \b
    Example:
      janus-train app outputs/demo/stage3/final --port 8000
    """
    if find_spec("gradio") is None:
        raise UserError("the app needs gradio: pip install -c constraints.txt -e '.[gradio]'")
    loaded_model = load(model, adapter, device, precision)
    from janus_train.infer.app import serve
    from janus_train.infer.app_limits import AppLimits
    from janus_train.infer.engine import BATCH_SIZE, Engine
    from janus_train.infer.limits import MAX_IMAGES

    # gradio's queue is the one that is full first
    with Engine(loaded_model, max_waiting=BATCH_SIZE * MAX_IMAGES, time_limit_s=time_limit) as engine:
        serve(engine, name_of(model, adapter), host, port, AppLimits(time_limit_s=time_limit, max_upload_mb=max_upload))
