"""What programs call: the page's functions with plain values, for `gradio_client`. Gradio reads their annotations."""

from functools import partial
from typing import Any

import gradio as gr

from ldm.web.asked import layout_of, wish
from ldm.web.studio import Drawn, Studio, telling

ERROR = partial(gr.Error, print_exception=False)


class Api:
    """The functions of a studio's page."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def layout(self, sentence: str, all_nouns: bool = False) -> dict[str, Any]:
        """The layout of a sentence, as a layout file has it."""
        with telling(ERROR):
            return self.studio.layout(sentence, all_nouns)[0].to_json()

    def draw(
        self,
        request: gr.Request,
        sentence: str,
        layout: dict[str, Any] | None = None,
        preset: str = "per-step",
        steps: int = 50,
        guidance: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = 42,
        negative_prompt: str | None = None,
        sampler: str = "plms",
        best_of: int = 1,
        model: str | None = None,
        baseline: bool = False,
        all_nouns: bool = False,
    ) -> dict[str, Any]:
        """An image of a sentence, with its layout and the plain image of the same noise where that was asked for.

        Args:
            layout: as a layout file has it; predicted where there is none.
            preset: as the scripts know it, or "plain".
            model: one of the page's; the first where there is none.
        """
        with telling(ERROR):
            session = self.studio.session(str(request.session_hash))
            session.stop.clear()
            settings = wish(
                sentence,
                preset,
                baseline,
                all_nouns,
                steps=steps,
                scale=guidance,
                width=width,
                height=height,
                seed=seed,
                sampler=sampler,
                samples=best_of,
            )
            if layout is None and settings.preset is not None:
                layout = self.studio.layout(sentence, all_nouns)[0].to_json()
            given = layout_of(layout, sentence, negative_prompt)
            for update in self.studio.draw(session, model or next(iter(self.studio.models)), settings, given):
                last = update
            assert isinstance(last, Drawn)
            files = {
                kind: gr.FileData(path=str(last.files[kind])) for kind in ("image", "baseline") if kind in last.files
            }
            return {
                **{kind: file.model_dump() for kind, file in files.items()},
                "layout": last.layout.to_json(),
                "facts": dict(last.facts),
            }
