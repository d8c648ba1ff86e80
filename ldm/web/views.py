"""Pieces of the page as HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from ldm.generation.images import ImageArray


def notes_list(notes: Sequence[str], alert: bool = False) -> str:
    """What is to be said, where screen readers hear it."""
    lines = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f'<div role="{"alert" if alert else "status"}" class="{"alert" if alert else "note"}">{lines}</div>'
        if lines
        else ""
    )


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and values in a line."""
    pairs = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items()
    )
    return f"<dl>{pairs}</dl>"


def data_url(image: ImageArray | Image.Image) -> str:
    """An image small enough to be sent at every look: no file is left of it."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def stage(what: str = "", done: int = 0, total: int = 0, loss: float | None = None, image: str = "") -> str:
    """Where the image will be: how far it is and what it looks like by now, or what to do."""
    if not what:
        return '<div class="stage empty"><p>Your image appears here.</p></div>'
    percent = round(100 * done / total) if total else 0
    steps = f"step {done} of {total}" if total else ""
    more = "" if loss is None else f"loss {loss:.3f}"
    shown = f'<img src="{image}" alt="what is predicted by now">' if image else "<p></p>"
    shares = f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"'
    return f"""<div class="stage"><div class="look">{shown}</div>
<div class="bar" role="progressbar" aria-label="{html.escape(what)}" {shares}><div style="width:{percent}%"></div></div>
<div class="line"><span>{html.escape(what)}</span><span>{steps}</span><span>{more}</span></div></div>"""
