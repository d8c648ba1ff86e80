"""What a visitor asks for, from whatever the page or its API was sent, and how much of it is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm.errors import UserError
from ldm.generation.pipeline import Pipeline
from ldm.generation.settings import GenerateSettings
from ldm.spacetime.layout import Layout

PLAIN = "plain"  # the choice among the presets that is none


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for, by the page or by its API."""

    side: int = 1024  # pixels
    steps: int = 200
    best_of: int = 8
    objects: int = 20
    text: int = 2000  # characters of a sentence
    upload: int = 20 << 20  # bytes

    def check(self, settings: GenerateSettings, layout: Layout, pipeline: Pipeline) -> None:
        """Raises UserError for more than is allowed, or a size that the model cannot do."""
        multiple = 8 * pipeline.backend.factor
        for name, value in (("height", settings.height), ("width", settings.width)):
            if value is not None and (value > self.side or value < multiple or value % multiple):
                raise UserError(f"the {name} must be a multiple of {multiple} up to {self.side}, not {value}")
        for what, value, most in (
            ("number of steps", settings.steps, self.steps),
            ("best of", settings.samples, self.best_of),
            ("number of objects", len(layout.objects), self.objects),
            ("length of the sentence", len(settings.prompts[0]), self.text),
        ):
            if value > most:
                raise UserError(f"the {what} can be {most} at most here, not {value}")


@dataclass(frozen=True)
class WebSettings(GenerateSettings):
    """The settings of an image on the page."""

    stopped: int | None = None  # after this many of its steps
    regions: str | None = None  # the objects as JSON, where the usual short form does not say all of them

    def more_parameters(self) -> dict[str, str]:
        """What it takes to recall the image from its file, and whether it is finished."""
        fields = {"Stopped after step": self.stopped, "Spacetime regions": self.regions}
        return {name: str(value) for name, value in fields.items() if value is not None}


def wish(prompt: Any, preset: Any, baseline: Any, all_nouns: Any, **given: Any) -> WebSettings:
    """Settings from what was sent; None is left out. Raises UserError for what is of no use.

    Args:
        preset: a name, or "plain".
        given: of `steps`, `seed`, `samples`, `width`, `height`, `scale`, `sampler`.
    """
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "sampler":
            settings[name] = _text(name, value)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name} must be a number, not {value!r:.60}")
        elif name != "scale" and value != int(value):
            raise UserError(f"{name} must be a whole number, not {value!r:.60}")
        else:
            settings[name] = value if name == "scale" else int(value)
    chosen = None if preset == PLAIN else _text("preset", preset)
    return WebSettings(
        (_text("the sentence", prompt),), preset=chosen, baseline=bool(baseline), all_nouns=bool(all_nouns), **settings
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{name} must be a text, not {value!r:.60}")
    return value


def layout_of(content: Any, prompt: str, negative_prompt: Any = None) -> Layout:
    """The layout on the canvas, or as a layout file has it. Raises UserError where it is none."""
    objects = content.get("objects", []) if isinstance(content, Mapping) else content
    return Layout.from_json({"objects": objects or [], "prompt": prompt, "negative_prompt": negative_prompt or None})
