"""The page itself, in Gradio: what is on it, and what happens when something is pressed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ldm.errors import UserError
from ldm.generation.images import COLORS
from ldm.generation.pipeline import Pipeline
from ldm.generation.settings import SAMPLERS
from ldm.pixels import read_image
from ldm.spacetime.layout import RADIUS, Layout
from ldm.web.api import Api
from ldm.web.asked import PLAIN, layout_of, wish
from ldm.web.recall import recall
from ldm.web.studio import Drawn, Progress, Session, Studio, telling
from ldm.web.views import data_url, facts_list, notes_list, stage

HERE = Path(__file__).parent
CSS = HERE / "page.css"
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # no font comes from elsewhere
THEME = gr.themes.Base(
    primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "Consolas", "monospace"]
)
PRESETS = {  # what people choose, and what it costs (docs/performance.md)
    "per-step": "per-step: weights follow CLIP in the first steps; 2.2× a plain image",
    "fixed": "fixed: one weight for all steps; as fast as a plain image",
    "iccv-2023": "iccv-2023: three passes through the chain, which lose objects; 14×",
    "april-2023": "april-2023: twenty passes, for comparison; 95×",
    PLAIN: "plain model, without the layout",
}
DEFAULT = "per-step"


def build(studio: Studio) -> gr.Blocks:
    """The page of a studio, to be launched."""
    with gr.Blocks(title="Draw", analytics_enabled=False, fill_width=True, delete_cache=(3600, 24 * 3600)) as page:
        _Page(studio, page)
    return page


class _Page:
    """The components, and the handlers that share them."""

    def __init__(self, studio: Studio, page: gr.Blocks) -> None:
        self.studio = studio
        self.first = next(iter(studio.models))
        pipeline, notes = None, list[str]()
        try:
            with telling(UserError):
                pipeline = studio.choose(self.first)
        except UserError as error:
            notes = [f"The model can't be loaded: {error}"]
        gr.HTML((HERE / "title.html").read_text(encoding="utf-8"))
        with gr.Row(elem_id="work"):
            with gr.Column(elem_id="ask"):
                self._ask(pipeline, notes)
            with gr.Column(elem_id="show"):
                self._show()
            with gr.Column(elem_id="set"):
                self._set(pipeline)
        self._wire(page)

    # ------------------------------------------------------------------------------------- what is there

    def _ask(self, pipeline: Pipeline | None, notes: Sequence[str]) -> None:
        size = self._sizes(pipeline)
        self.sentence = gr.Textbox(
            label="Sentence",
            lines=2,
            max_length=self.studio.limits.text,
            elem_id="sentence",
            placeholder="The motorcycle is parking to the right of a bus.",
        )
        with gr.Row(elem_classes="buttons"):
            self.layout_button = gr.Button("Layout", elem_id="layout", min_width=100)
            self.draw_button = gr.Button("Draw", variant="primary", elem_id="draw", scale=2, min_width=140)
            self.stop_button = gr.Button("Stop", variant="stop", visible=False, elem_id="stop", scale=2, min_width=140)
        self.notes = gr.HTML(notes_list(notes, alert=True), elem_id="notes")
        self.canvas = gr.HTML(
            {"objects": [], "width": size["value"], "height": size["value"]},
            html_template=(HERE / "canvas.html").read_text(encoding="utf-8"),
            js_on_load=(HERE / "canvas.js").read_text(encoding="utf-8"),
            elem_id="canvas",
            apply_default_css=False,
            colors=COLORS,
            radius=RADIUS,
            most=self.studio.limits.objects,
            image=None,
        )

    def _set(self, pipeline: Pipeline | None) -> None:
        limits, size = self.studio.limits, self._sizes(pipeline)
        choices = [(text, name) for name, text in PRESETS.items()]
        self.preset = gr.Radio(choices, value=DEFAULT, label="How the objects are held, and its cost", elem_id="preset")
        with gr.Accordion("More settings", open=False, elem_id="more"):
            with gr.Row():
                self.steps = gr.Slider(1, limits.steps, value=50, step=1, label="Steps", elem_id="steps", min_width=200)
                scale = pipeline.backend.guidance_scale if pipeline else 7.5
                self.scale = gr.Slider(0, 20, value=scale, step=0.1, label="Guidance", min_width=200)
            with gr.Row():
                self.width = gr.Slider(label="Width", elem_id="width", **size)
                self.height = gr.Slider(label="Height", elem_id="height", **size)
            with gr.Row(elem_classes="seeds"):
                self.seed = gr.Number(42, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=120)
                self.new_seed = gr.Button("New seed", size="sm", elem_id="new-seed", min_width=90)
                self.best_of = gr.Slider(
                    1, limits.best_of, value=1, step=1, label="Best of so many seeds", min_width=200
                )
            self.negative = gr.Textbox(label="Negative prompt", max_length=limits.text, elem_id="negative")
            with gr.Row():
                samplers = [(name, key) for key, name in SAMPLERS.items()]
                self.sampler = gr.Dropdown(samplers, value="plms", label="Sampler", min_width=120)
                self.model = gr.Dropdown(list(self.studio.models), label="Model", elem_id="model", min_width=160)
            self.all_nouns = gr.Checkbox(label="Every noun is an object, not only what COCO knows")
            self.baseline = gr.Checkbox(True, label="Also the plain image of the same noise, to compare with")

    def _show(self) -> None:
        self.stage = gr.HTML(stage(), elem_id="stage")
        with gr.Column(visible=False, elem_id="result") as self.result:
            self.slider = gr.ImageSlider(
                label="Plain | with the layout", elem_id="slider", interactive=False, buttons=["fullscreen"]
            )
            self.single = gr.Image(label="Image", elem_id="single", interactive=False, buttons=["fullscreen"])
            with gr.Row(elem_classes="buttons"):
                self.discs = gr.Checkbox(label="Show the layout on it", elem_id="discs", min_width=230)
                self.get_image = gr.DownloadButton("Save image", size="sm", elem_id="get-image", min_width=100)
                self.get_layout = gr.DownloadButton("Save layout", size="sm", elem_id="get-layout", min_width=100)
            self.facts = gr.HTML(elem_id="facts")
            with gr.Accordion("Weights and losses", open=False, elem_id="plots") as self.plots:
                self.weights = gr.Image(label="Weights", show_label=False, interactive=False, buttons=[])
                self.losses = gr.Image(label="Losses", show_label=False, interactive=False, buttons=[])
        self.gallery = gr.Gallery(
            label="Your images: a click recalls everything",
            elem_id="gallery",
            columns=4,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            object_fit="contain",
            visible=False,
        )
        self.file = gr.File(
            label="Drop an image or a layout here to recall its settings",
            file_types=[".png", ".jpg", ".jpeg", ".webp", ".json"],
            elem_id="file",
            height=120,
        )

    def _sizes(self, pipeline: Pipeline | None) -> dict[str, Any]:
        """Range and value of a slider for a side of the image."""
        step = 8 * pipeline.backend.factor if pipeline else 64
        most = self.studio.limits.side // step * step
        return {
            "min_width": 200,
            "minimum": step,
            "maximum": most,
            "step": step,
            "value": pipeline.backend.image_size if pipeline else 512,
        }

    # ---------------------------------------------------------------------------------- what leads to what

    def _wire(self, page: gr.Blocks) -> None:
        settings = {
            "steps": self.steps,
            "scale": self.scale,
            "width": self.width,
            "height": self.height,
            "seed": self.seed,
            "samples": self.best_of,
            "sampler": self.sampler,
        }
        texts = {"prompt": self.sentence, "negative_prompt": self.negative}
        self.settings = {**texts, "preset": self.preset, **settings, "model": self.model}
        asked = [
            self.canvas,
            self.model,
            *texts.values(),
            self.preset,
            self.baseline,
            self.all_nouns,
            *settings.values(),
        ]
        self.names = list(settings)
        recalled = [*self.settings.values(), self.canvas, self.notes]
        shown = [
            *(self.stage, self.result, self.slider, self.single, self.discs, self.get_image, self.get_layout),
            *(self.facts, self.plots, self.weights, self.losses),
        ]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        at_once: dict[str, Any] = {**hidden, "queue": False}
        reading: dict[str, Any] = {"concurrency_id": "read", "concurrency_limit": 4}
        drawing: dict[str, Any] = {"concurrency_id": "draw", "concurrency_limit": 1}
        waiting: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", **drawing}
        buttons = [self.draw_button, self.stop_button, self.stage]
        ended = [*buttons, self.result]

        gr.on(
            [self.layout_button.click, self.sentence.submit],
            self.on_layout,
            [self.sentence, self.canvas, self.all_nouns],
            [self.canvas, self.notes],
            **hidden,
            **reading,
        )
        start = self.draw_button.click(self.on_start, None, [*buttons, self.notes], **at_once)
        run = start.then(
            self.on_draw, asked, [*shown, self.gallery, self.canvas, self.notes], show_progress_on=self.stage, **waiting
        )
        run.then(self.on_end, None, ended, **at_once)
        self.stop_button.click(self.on_stop, None, self.notes, **at_once)
        sizes = [self.width, self.height, self.scale, self.canvas, self.notes]
        self.model.input(self.on_model, [self.model, self.canvas], sizes, show_progress_on=self.model, **waiting)
        self.gallery.select(self.on_pick, self.canvas, [*recalled, *shown], **hidden, **reading)
        self.discs.input(self.on_discs, self.discs, [self.slider, self.single], **hidden, **reading)
        self.file.upload(self.on_file, [self.file, self.canvas], [*recalled, self.file], **hidden, **reading)
        gr.on(
            [self.width.change, self.height.change],
            None,
            [self.canvas, self.width, self.height],
            self.canvas,
            js="(value, width, height) => ({...value, width, height})",
            **at_once,
        )
        self.new_seed.click(None, None, self.seed, js="() => Math.floor(Math.random() * 2 ** 31)", **at_once)
        page.unload(self.on_leave)
        api = Api(self.studio)
        gr.api(api.layout, api_name="layout", **reading)
        gr.api(api.draw, api_name="draw", **drawing)

    # ---------------------------------------------------------------------------------------- what happens

    def on_layout(self, prompt: str, canvas: Any, all_nouns: bool) -> dict[Any, Any]:
        """Predict a layout."""
        try:
            with telling(UserError):
                layout, notes = self.studio.layout(prompt, all_nouns)
        except UserError as error:
            return self._refused(error)
        return {self.canvas: self._sheet(canvas, layout), self.notes: notes_list(notes)}

    def on_start(self, request: gr.Request) -> tuple[Any, ...]:
        """Somebody pressed Draw; others may come first."""
        self._session(request).stop.clear()
        return gr.Button(visible=False), gr.Button(visible=True), stage("waiting for its turn"), notes_list([])

    def on_stop(self, request: gr.Request) -> str:
        """Stop at the next step."""
        self._session(request).stop.set()
        return notes_list(["Stopping at the next step."])

    def on_draw(
        self,
        request: gr.Request,
        canvas: Any,
        model: str,
        prompt: str,
        negative_prompt: str,
        preset: str,
        baseline: bool,
        all_nouns: bool,
        *values: Any,
    ) -> Iterator[dict[Any, Any]]:
        """Draw, and show how far it is; an empty canvas takes the predicted layout."""
        try:
            with telling(UserError):
                session, notes = self._session(request), list[str]()
                settings = wish(prompt, preset, baseline, all_nouns, **dict(zip(self.names, values, strict=True)))
                layout = layout_of(canvas, prompt, negative_prompt)
                if not layout.objects and preset != PLAIN:
                    predicted, notes = self.studio.layout(prompt, all_nouns)
                    layout = replace(layout, objects=predicted.objects)
                    yield {self.canvas: self._sheet(canvas, layout), self.notes: notes_list(notes)}
                image = ""
                for update in self.studio.draw(session, model, settings, layout):
                    if isinstance(update, Progress):
                        image = image if update.preview is None else data_url(update.preview)
                        yield {
                            self.stage: stage(update.what, update.done, update.total, update.loss, image),
                            self.result: gr.Column(visible=False),
                        }
                    else:
                        notes += self.studio.strangers(layout)
                        files = [str(drawn.files["image"]) for drawn in reversed(session.drawn)]
                        gallery = gr.Gallery(files, visible=True)
                        yield {**self._shown(update), self.gallery: gallery, self.notes: notes_list(notes)}
        except UserError as error:
            yield self._refused(error)

    def on_end(self, request: gr.Request) -> tuple[Any, ...]:
        """However it ended, one can draw again."""
        shown = self._session(request).shown is not None
        return gr.Button(visible=True), gr.Button(visible=False), "" if shown else stage(), gr.Column(visible=shown)

    def on_pick(self, request: gr.Request, canvas: Any, event: gr.SelectData) -> dict[Any, Any]:
        """Recall an image of the gallery, which has the newest first."""
        drawn = self._session(request).drawn
        if not (isinstance(event.index, int) and 0 <= event.index < len(drawn)):
            return self._refused(UserError("this image is not there any more"))
        picked = self._session(request).shown = drawn[-1 - event.index]
        s = picked.settings
        found = {name: getattr(s, name) for name in self.names}
        found |= {"prompt": s.prompts[0], "preset": s.preset or PLAIN, "model": picked.model}
        found["negative_prompt"] = picked.layout.negative_prompt or ""
        shown, recalled = self._shown(picked), self._recalled(found, picked.layout, canvas, [])
        sheet = gr.HTML(recalled[self.canvas], image=data_url(read_image(picked.files["image"])))
        return {**shown, **recalled, self.canvas: sheet}

    def on_file(self, request: gr.Request, file: str, canvas: Any) -> dict[Any, Any]:
        """Recall what a file says; the upload goes."""
        limits = self.studio.limits
        try:
            with telling(UserError):
                most = {"steps": limits.steps, "width": limits.side, "height": limits.side, "seed": 2**63}
                found = recall(Path(file), Path(file).name, most)
                if found.layout is not None and len(found.layout.objects) > limits.objects:
                    raise UserError(f"this layout has more than {limits.objects} objects")
        except UserError as error:
            return {**self._refused(error), self.file: None}
        finally:
            Path(file).unlink(missing_ok=True)
        told = [*found.notes, f"Recalled from {Path(file).name}."]
        return {**self._recalled(found.settings, found.layout, canvas, told), self.file: None}

    def on_model(self, name: str, canvas: Any) -> dict[Any, Any]:
        """Load another model; sizes and guidance become its own."""
        try:
            with telling(UserError):
                pipeline = self.studio.choose(name)
        except UserError as error:
            return self._refused(UserError(f"The model can't be loaded: {error}"))
        size = self._sizes(pipeline)
        sheet = {**_plain(canvas), "width": size["value"], "height": size["value"]}
        sides = {self.width: gr.Slider(**size), self.height: gr.Slider(**size)}
        return {**sides, self.scale: pipeline.backend.guidance_scale, self.canvas: sheet, self.notes: notes_list([])}

    def on_discs(self, request: gr.Request, on: bool) -> dict[Any, Any]:
        """The image that is shown, with or without its layout."""
        shown = self._session(request).shown
        return {} if shown is None else self._images(shown, on)

    def on_leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.studio.leave(str(request.session_hash))

    # --------------------------------------------------------------------------------------- what they share

    def _session(self, request: gr.Request) -> Session:
        return self.studio.session(str(request.session_hash))

    def _refused(self, error: UserError) -> dict[Any, Any]:
        return {self.notes: notes_list([str(error)], alert=True)}

    def _sheet(self, canvas: Any, layout: Layout) -> dict[str, Any]:
        """The canvas with another layout on it."""
        return {**_plain(canvas), "objects": layout.to_json()["objects"]}

    def _recalled(
        self, found: dict[str, Any], layout: Layout | None, canvas: Any, notes: Sequence[str]
    ) -> dict[Any, Any]:
        size: dict[str, Any] = {name: found[name] for name in ("width", "height") if name in found}
        sheet = {**self._sheet(canvas, layout or Layout(())), **size}
        fields: dict[Any, Any] = {self.settings[name]: value for name, value in found.items() if name in self.settings}
        fields[self.canvas], fields[self.notes] = sheet, notes_list(notes)
        return fields

    def _shown(self, drawn: Drawn) -> dict[Any, Any]:
        """An image with all that belongs to it."""
        files = {kind: str(path) for kind, path in drawn.files.items()}
        return {
            **self._images(drawn, False),
            self.stage: "",
            self.result: gr.Column(visible=True),
            self.discs: gr.Checkbox(False, visible="layout" in files),
            self.get_image: files["image"],
            self.get_layout: files["layout_file"],
            self.facts: facts_list(drawn.facts),
            self.plots: gr.Accordion(visible="weights" in files),
            self.weights: files.get("weights"),
            self.losses: gr.Image(files.get("losses"), visible="losses" in files),
            self.canvas: gr.HTML(image=data_url(read_image(drawn.files["image"]))),
        }

    def _images(self, drawn: Drawn, discs: bool) -> dict[Any, Any]:
        image, plain = drawn.files["layout" if discs else "image"], drawn.files.get("baseline")
        return {
            self.slider: gr.ImageSlider((str(plain), str(image)) if plain else None, visible=plain is not None),
            self.single: gr.Image(None if plain else str(image), visible=plain is None),
        }


def _plain(canvas: Any) -> dict[str, Any]:
    return dict(canvas) if isinstance(canvas, dict) else {}
