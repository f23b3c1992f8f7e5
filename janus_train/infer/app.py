"""Both directions in a browser, as in the official demo: ask about images, generate one from a prompt."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from starlette.middleware import Middleware

from janus_train.infer.address import check_address, url
from janus_train.infer.app_limits import AppLimits, RequestLimits, upload_folder
from janus_train.infer.app_page import STYLE, build, gradio
from janus_train.infer.engine import Engine


def serve(engine: Engine, name: str, host: str, port: int, limits: AppLimits) -> None:
    """Serves the page until Ctrl-C or SIGTERM; nothing of the uploads is left then.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    signal.signal(signal.SIGTERM, _exit)
    with serving(engine, name, host, port, limits) as page:
        print(f"{url(host, port)} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def _exit(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@contextmanager
def serving(engine: Engine, name: str, host: str, port: int, limits: AppLimits) -> Iterator[gradio.Blocks]:
    """The page, served in threads of its own while the block runs. No sharing, no accounts, and fonts that the browser has.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    check_address(host, port)  # gradio's server would log it, and gradio guess at the reason
    with upload_folder() as folder:
        page = build(engine, name, limits)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                show_error=False,
                ssr_mode=False,
                enable_monitoring=False,
                run_history=False,
                max_file_size=limits.max_upload_bytes,
                app_kwargs={"middleware": [Middleware(RequestLimits, folder=folder, limits=limits)]},
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=STYLE,
                footer_links=[],
                prevent_thread_lock=True,
            )
            yield page
        finally:
            page.close()
