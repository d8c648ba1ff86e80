"""The page at an address, until somebody ends it."""

from __future__ import annotations

import hmac
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ldm.boundary import reason
from ldm.errors import UserError
from ldm.generation.pipeline import ModelChoice, choose_model
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.web.studio import Studio

# Before Gradio is imported: it asks nobody for anything, and nobody is shown its own pages.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_SHARE": "False"}
os.environ.setdefault("GRADIO_HEARTBEAT_INTERVAL", "3")  # seconds after which a closed page is noticed
QUEUE = 32  # images that wait; who comes then is told so


def named(given: Sequence[ModelChoice]) -> dict[str, ModelChoice]:
    """The models to choose from by name: those given, the one that the scripts would take, the embedded one."""
    models: dict[str, ModelChoice] = {}
    for choice in (*given, choose_model(), choose_model(project_file(EMOJI_CONFIG))):
        path = choice.ckpt
        short = path.stem if choice.diffusers is None else path.name
        name = "emoji scenes (embedded)" if choice.embedded else short if short not in models else str(path)
        if choice not in models.values() and not (choice.embedded and name in models):
            models[name] = choice
    return models


@contextmanager
def served(studio: Studio, host: str = "127.0.0.1", port: int = 0, password: str | None = None) -> Iterator[str]:
    """Serve the page of a studio inside the block; yields its address.

    Args:
        port: 0 takes a free one.
        password: that visitors are asked for, beside any name.

    Raises:
        UserError: the address cannot be had.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(studio.folder)  # uploads go with everything else
    import gradio as gr

    from ldm.web.page import CSS, THEME, build

    def admits(_: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), str(password).encode())

    page = build(studio)
    page.queue(max_size=QUEUE)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port or None,
            auth=admits if password else None,
            auth_message="Any name, and the password of this page." if password else None,
            max_file_size=studio.limits.upload,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            share=False,
            theme=THEME,
            css_paths=CSS,
        )
    except (OSError, gr.exceptions.Error) as error:
        raise UserError(f"the page cannot listen at {host}:{port} ({reason(error)}); choose another --port") from error
    try:
        yield url
    finally:
        page.close(verbose=False)


def serve(make: Callable[[], Studio], host: str, port: int, password: str | None) -> Iterator[str]:
    """Serve until Ctrl-C; yields the line that says where."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left behind then, either
    studio = make()
    try:
        with served(studio, host, port, password) as url:
            yield f"The page is at {url} (Ctrl-C ends it)"
            studio.warm()
            while True:
                time.sleep(3600)
    finally:
        studio.close()
