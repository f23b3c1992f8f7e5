"""``janus-train serve``: a model for programs, by OpenAI's API."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from janus_train.commands.options import Adapters, Device, Model, Precision, load, name_of
from janus_train.commands.terminal import note
from janus_train.errors import UserError


def serve(
    model: Model,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to serve at; 0.0.0.0 lets in everyone who can reach this machine: set JANUS_TRAIN_API_KEY."
        ),
    ] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option(help="Name of the model in requests. Default: MODEL as given, with its adapters.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Answers or images to generate at once; fewer need less memory.")
    ] = 16,
    max_waiting: Annotated[
        int, typer.Option(min=16, help="Answers and images that may wait; further requests are refused (429).")
    ] = 64,
    time_limit: Annotated[int, typer.Option(min=1, help="Seconds that a request may take, once it is its turn.")] = 300,
    max_body: Annotated[int, typer.Option(min=1, max=512, help="Largest body of a request, in MB.")] = 32,
    adapter: Adapters = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve a model by OpenAI's API: chat with images, and image generation.

    Needs the extra serve. Requests that wait at the same time are worked on together. If the environment variable
    JANUS_TRAIN_API_KEY is set, clients must send it. Images come inside the requests: nothing is fetched.

    \b
    Example:
      janus-train serve outputs/demo/stage3/final --name janus --port 8000
    """
    if any(find_spec(package) is None for package in ("fastapi", "uvicorn", "python_multipart")):
        raise UserError("the server needs fastapi: pip install -c constraints.txt -e '.[serve]'")
    from janus_train.infer.address import bind, is_loopback, url
    from janus_train.serve.server import key_of_environment

    key = key_of_environment()
    name = name or name_of(model, adapter)
    with bind(host, port) as bound:  # before the model is loaded, which may take minutes
        loaded_model = load(model, adapter, device, precision)
        from janus_train.infer.engine import Engine
        from janus_train.serve.app import create_app
        from janus_train.serve.server import run

        if key is None and not is_loopback(host):
            note(f"warning: whoever reaches {host} can use the model: set JANUS_TRAIN_API_KEY, or leave out --host")
        with Engine(loaded_model, batch_size=batch_size, max_waiting=max_waiting, time_limit_s=time_limit) as engine:
            app = create_app(engine, name, api_key=key, max_body_bytes=max_body << 20)
            run(app, engine, bound, f"{name} at {url(host, port)}/v1 (Ctrl-C ends it)")
