"""Hugging Face's hub: what is not kept here is asked for only where the hub answers.

The libraries' own attempts take minutes and warn in dozens of lines, and `transformers` may then make an empty
tokenizer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
from pathlib import Path

from ldm.boundary import reason
from ldm.errors import UserError

PROXIES = ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")  # a way to it of the user's own


def fetch(repository: str, file: str, advice: str) -> Path:
    """A file of the hub, kept here or fetched now.

    Raises:
        UserError: it can't be had; `advice` says what to do.
    """
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(Exception):
        return Path(hf_hub_download(repository, file, local_files_only=True))
    why = "the hub does not answer"
    if not unreachable():
        try:
            return Path(hf_hub_download(repository, file))
        except Exception as error:  # the hub has many of its own
            why = reason(error)
    raise UserError(f"{file} of {repository} is not here and cannot be fetched ({why}); {advice}")


def local_only(source: str | Path) -> bool:
    """Whether a model is to be read from files that are here: a path, or any name where the hub does not answer."""
    return Path(source).expanduser().exists() or unreachable()


@functools.cache
def unreachable(seconds: float = 3.0) -> bool:
    """Whether there is no answer within `seconds`."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # whoever asks says what concerns the user
    if any(os.environ.get(name) for name in PROXIES):
        return False
    answers: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(OSError), socket.create_connection(("huggingface.co", 443), timeout=seconds):
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(seconds)
    return not answers
