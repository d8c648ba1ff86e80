"""What the page does, without the page: models and predictor loaded once, sessions, and images in the making."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from layout_predictor.inference import load_predictor
from ldm.boundary import one_line, sentence
from ldm.errors import UserError
from ldm.files import write_json
from ldm.generation.draw import GeneratedImage, best_of, draw
from ldm.generation.generate import make_preset
from ldm.generation.images import ImageArray, to_images
from ldm.generation.naming import unnamed_objects
from ldm.generation.pipeline import ModelChoice, Pipeline, load_pipeline, pack_weights
from ldm.generation.record import Outcome, Recorder, describe_model
from ldm.generation.settings import check_settings, fit_to_model
from ldm.spacetime.layout import Layout
from ldm.spacetime.presets import Preset
from ldm.web.asked import Limits, WebSettings

logger = logging.getLogger(__name__)

PREVIEW_SECONDS = 0.4  # at least between two previews, and ten times what one costs
KEPT = 60  # images of a session; older ones go
VISITORS = 200  # sessions; that of the visitor who was silent longest goes


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    what: str
    done: int
    total: int
    loss: float | None = None
    preview: ImageArray | None = None  # predicted image; None where there is no new one


@dataclass(frozen=True)
class Drawn:
    """A finished image: its files, what is told of it, and what it was made from."""

    files: Mapping[str, Path]
    facts: Mapping[str, str]
    model: str
    settings: WebSettings
    layout: Layout

    def remove(self) -> None:
        """Remove its files."""
        self.files["image"].unlink(missing_ok=True)
        shutil.rmtree(self.files["layout_file"].parent, ignore_errors=True)


@dataclass
class Session:
    """A visitor's images, in a folder of their own that goes with the visitor."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    gone: bool = False
    drawn: list[Drawn] = field(default_factory=list)
    shown: Drawn | None = None  # of them

    def add(self, drawn: Drawn) -> None:
        """Keep an image, and let the oldest go where there are too many."""
        self.drawn.append(drawn)
        self.shown = drawn
        while len(self.drawn) > KEPT:
            self.drawn.pop(0).remove()


class Stopped(Exception):
    """Ends a chain; what its last step predicted is kept."""


class Watch:
    """A callback of `draw`: tells where it is, shows what is predicted, and stops where that is wanted."""

    def __init__(self, pipeline: Pipeline, what: str, stop: threading.Event, tell: Callable[[Progress], None]) -> None:
        self.pipeline, self.what, self.stop, self.tell = pipeline, what, stop, tell
        self.done, self.next_preview = 0, 0.0
        self.predicted = torch.empty(0)  # pred_x0 (B, C, h, w) of the last step
        self.weights: list[torch.Tensor] = []  # (N, B) of each step of this pass
        self.losses: list[Mapping[str, torch.Tensor]] = []  # by name, each (B,)

    def __call__(self, state: Mapping[str, Any]) -> None:
        self.done, self.predicted = state["done"], state["pred_x0"]
        loss = state.get("loss") or {}
        if state["i"] == 0:
            self.weights.clear()
        if state["weights"] is not None:
            self.weights.append(state["weights"].cpu())
        if loss and (not self.losses or self.losses[-1] is not loss):
            self.losses.append(loss)
        preview, now = None, time.monotonic()
        if now >= self.next_preview:
            preview = self.images()[0]
            spent = time.monotonic() - now
            self.next_preview = now + max(PREVIEW_SECONDS, 10 * spent)
        total = float(loss["total"].min()) if "total" in loss else None
        self.tell(Progress(self.what, state["done"], state["total"], total, preview))
        self.check()

    def check(self, *_: Any) -> None:
        """Raises Stopped where that is wanted."""
        if self.stop.is_set():
            raise Stopped

    def draw(
        self, prompts: list[str], layouts: list[Layout], seeds: list[int], preset: Preset | None, settings: WebSettings
    ) -> list[GeneratedImage]:
        """`draw`, which stops at the next call of the U-Net, be it in the backward pass through a whole chain."""
        unet = getattr(self.pipeline.model, "model", None)
        hook = unet.register_forward_pre_hook(self.check) if isinstance(unet, torch.nn.Module) else None
        try:
            return draw(self.pipeline, prompts, layouts, seeds, preset, settings, self)
        finally:
            if hook is not None:
                hook.remove()

    @torch.no_grad()
    def images(self) -> list[ImageArray]:
        """What the last step predicted."""
        return to_images(self.pipeline.backend.decode(self.predicted))

    def so_far(self, prompt: str, layout: Layout, seeds: list[int]) -> list[GeneratedImage]:
        """The images of a chain that was stopped."""
        made = []
        for b, image in enumerate(self.images()):
            losses = {name: [float(entry[name][b]) for entry in self.losses] for name in (*self.losses, {})[0]}
            weights = torch.stack(self.weights)[:, :, b].numpy() if self.weights else None
            made.append(GeneratedImage(prompt, seeds[b], layout, image, weights, losses))
        return made


class Studio:
    """The models of a page and its visitors. One image is made at a time; layouts do not wait for it."""

    def __init__(
        self,
        models: Mapping[str, ModelChoice],
        *,
        device: str | None = None,
        clip: str | None = None,
        predictor: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        """models: by the name that people choose; the first is the default."""
        self.models, self.device, self.clip, self.predictor_source = dict(models), device, clip, predictor
        self.limits = limits or Limits()
        self.root = tempfile.TemporaryDirectory(prefix="draw-")  # everything that the page writes
        self.folder = Path(self.root.name)
        self.sessions: dict[str, Session] = {}
        self._drawing, self._reading, self._visitors = threading.Lock(), threading.Lock(), threading.Lock()
        self._loaded: tuple[str, Pipeline, dict[str, Any]] | None = None

    def close(self) -> None:
        """End all runs and remove all files."""
        for name in list(self.sessions):
            self.leave(name)
        with self._drawing:
            self.root.cleanup()

    # ------------------------------------------------------------------------------------------ visitors

    def session(self, name: str) -> Session:
        """The session of a visitor, made at the first call."""
        with self._visitors:
            session = self.sessions.pop(name, None)
            session = session or Session(self.folder / secrets.token_hex(16))  # nobody else can guess it
            self.sessions[name] = session  # the last one
            silent = next(iter(self.sessions)) if len(self.sessions) > VISITORS else None
        if silent is not None:
            self.leave(silent)
        return session

    def leave(self, name: str) -> None:
        """A visitor has gone: the run ends, and the files go."""
        with self._visitors:
            session = self.sessions.pop(name, None)
        if session is not None:
            session.gone = True
            session.stop.set()
            shutil.rmtree(session.folder, ignore_errors=True)

    # -------------------------------------------------------------------------------------------- models

    @cached_property
    def predictor(self) -> Any:
        """The layout predictor, which needs no diffusion model."""
        return load_predictor(self.predictor_source)

    def open(self, name: str) -> Pipeline:
        """The model of that name; the one before is let go. Raises UserError where it can't be loaded."""
        if name not in self.models:
            raise UserError(f"there is no model '{name:.60}' here; choose {' or '.join(self.models)}")
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            choice = self.models[name]
            own_clip = self.clip if name == next(iter(self.models)) else None
            pipeline = load_pipeline(choice, device=self.device, clip=own_clip)
            pack_weights(pipeline, None)
            self._loaded = name, pipeline, describe_model(pipeline)
        return self._loaded[1]

    def warm(self) -> None:
        """Load what the first visitor would wait for; what fails will be told when it is asked for."""
        with contextlib.suppress(Exception):
            self.layout("A cat to the left of a dog.")
            assert self._loaded is not None
            self._loaded[1].clip  # noqa: B018

    def choose(self, name: str) -> Pipeline:
        """`open`, after the image that is being made."""
        with self._drawing:
            return self.open(name)

    # ------------------------------------------------------------------------------------ layouts, images

    def layout(self, sentence: str, all_nouns: bool = False) -> tuple[Layout, list[str]]:
        """The predicted layout of a sentence, and what is to be said of it."""
        if len(sentence) > self.limits.text:
            raise UserError(f"the sentence is longer than {self.limits.text} characters; say it in fewer words")
        with self._reading:
            prediction = self.predictor.predict(sentence, all_nouns=all_nouns)
        layout, notes = prediction.layout, [one_line(note) for note in prediction.notes]
        if not layout.objects:
            notes.append("No object found: add some by a double click, or draw without spatial control.")
        return layout, [*notes, *self.strangers(layout)]

    def strangers(self, layout: Layout) -> list[str]:
        """What to say of objects that the model at hand never saw."""
        unknown = self._loaded[1].unknown_objects(layout) if self._loaded else []
        return [f"The embedded model never saw: {one_line(', '.join(unknown), 100)}."] if unknown else []

    def draw(self, session: Session, model: str, settings: WebSettings, layout: Layout) -> Iterator[Progress | Drawn]:
        """Make an image, in a thread of its own; whoever stops listening stops it.

        Args:
            settings: with one prompt, of which the best of `samples` images is kept.

        Raises:
            UserError: a setting that is not allowed, or a model that can't be loaded.
        """
        updates: queue.Queue[Progress | Drawn | BaseException | None] = queue.Queue()

        def work() -> None:
            try:
                with self._drawing:
                    updates.put(self._make(session, model, settings, layout, updates.put))
            except BaseException as error:  # noqa: BLE001  told where the visitor is
                updates.put(error)
            if session.gone:
                shutil.rmtree(session.folder, ignore_errors=True)
            updates.put(None)

        thread = threading.Thread(target=work, name="draw", daemon=True)
        thread.start()
        try:
            while (update := updates.get()) is not None:
                if isinstance(update, BaseException):
                    raise update
                yield update
        finally:
            if thread.is_alive():
                session.stop.set()
            thread.join()

    def _make(
        self, session: Session, model: str, settings: WebSettings, layout: Layout, tell: Callable[[Progress], None]
    ) -> Drawn:
        check_settings(settings)
        if session.stop.is_set():
            raise UserError("stopped before it began, so there is no image")
        start, pipeline = time.monotonic(), self.open(model)
        [prompt] = settings.prompts
        self.limits.check(settings, layout, pipeline)
        settings = fit_to_model(replace(settings, outdir=session.folder), pipeline.backend)
        preset = make_preset(settings) if layout.objects else None
        seeds = [settings.seed + i for i in range(settings.samples)]
        batch = [prompt] * len(seeds), [layout] * len(seeds), seeds
        if pipeline.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pipeline.device)
        watch = Watch(pipeline, preset.name if preset else "plain", session.stop, tell)
        try:
            drawn = watch.draw(*batch, preset, settings)
        except Stopped:
            if not watch.done:
                raise UserError("stopped before the first step, so there is no image") from None
            drawn, settings = watch.so_far(prompt, layout, seeds), replace(settings, stopped=watch.done)
        best = drawn[0] if len(drawn) == 1 else best_of(pipeline, drawn, preset)
        plain = None
        if preset is not None and settings.baseline and settings.stopped is None:
            watch = Watch(pipeline, "plain model, same noise", session.stop, tell)
            try:
                [twin] = watch.draw([prompt], [layout], [best.seed], None, settings)
                plain = twin.image
            except Stopped:
                pass  # the image itself is whole
        if session.gone:
            raise UserError("nobody waits for this image any more")
        return self._keep(session, settings, preset, Outcome(**vars(best), baseline=plain), start)

    def _keep(
        self, session: Session, settings: WebSettings, preset: Preset | None, outcome: Outcome, start: float
    ) -> Drawn:
        """Write the files of an image into the visitor's folder."""
        assert self._loaded is not None
        model, pipeline, described = self._loaded
        objects = outcome.layout.to_json()["objects"]
        short = all(entry.keys() <= {"phrase", "x", "y", "name"} for entry in objects)
        regions = None if short else json.dumps(objects, ensure_ascii=False)
        settings = replace(settings, seed=outcome.seed, samples=1, regions=regions)  # which make this image again
        Recorder(session.folder, settings, preset, described).write(outcome)
        if "settings" in outcome.files:  # which names paths of this machine
            outcome.files.pop("settings").unlink()
        outcome.files["layout_file"] = session.folder / "details" / outcome.files["image"].stem / "layout.json"
        write_json(outcome.files["layout_file"], replace(outcome.layout, prompt=outcome.prompt).to_json())
        facts = {
            "seed": str(outcome.seed),
            "stopped": "" if settings.stopped is None else f"after step {settings.stopped}",
            "time": f"{time.monotonic() - start:.1f} s",
            "memory": used_memory(pipeline.device),
            "losses": ", ".join(f"{one['loss']:.3f}" for one in outcome.candidates),
            "not in the sentence": one_line(", ".join(unnamed_objects(outcome.layout, outcome.prompt)), 100),
        }
        told = {name: value for name, value in facts.items() if value}
        drawn = Drawn(outcome.files, told, model, replace(settings, outdir=None), outcome.layout)
        session.add(drawn)
        return drawn


def used_memory(device: torch.device) -> str:
    """The most memory that was in use: of the card for this image, of the process on a CPU; empty where unknown."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of the card"
    try:
        import resource
    except ImportError:  # Windows
        return ""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


@contextlib.contextmanager
def telling(kind: Callable[[str], Exception]) -> Iterator[None]:
    """Whatever is raised inside becomes an error of that kind with one sentence."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            logger.exception("a request failed")
        raise kind(sentence(error)) from error
