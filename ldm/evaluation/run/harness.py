"""A run over prompts: every method, prompt and seed, resumable at any moment, shared among processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.evaluation.prompts.prompt import EvalPrompt
from ldm.evaluation.run.manifest import DONE, FAILED, PENDING, WORKING, Entry, Manifest, claim, keep_prompts, load_image
from ldm.evaluation.run.methods import Method, constants_of
from ldm.evaluation.run.shards import Shard, hold
from ldm.files import write_json
from ldm.generation.draw import GeneratedImage
from ldm.generation.images import parameters_text, save_png
from ldm.spacetime.layout import Layout
from ldm.util import UserError

logger = logging.getLogger(__name__)

# A prompt's layout for one method; it may depend on the method, which can name who gives the centers.
Place = Callable[[Method, EvalPrompt], Layout]
# (method, prompts, layouts, seeds of the noise) to images
Make = Callable[[Method, Sequence[str], Sequence[Layout], Sequence[int]], Sequence[GeneratedImage]]


@dataclass(frozen=True)
class Task:
    """An image to make."""

    method: Method
    number: int
    prompt: EvalPrompt
    seed: int

    @property
    def entry(self) -> Entry:
        """Its place in the manifest."""
        return Entry(self.method.label, self.method.folder, self.number, self.seed)

    @property
    def noise(self) -> int:
        """Seed of its starting noise: the same for all methods, another for every prompt."""
        return self.seed + self.number


@dataclass
class Summary:
    """What a run did: images made now, found from earlier, and those that could not be made, with the reason."""

    made: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def make_tasks(
    prompts: Sequence[EvalPrompt],
    methods: Sequence[Method],
    seeds: Sequence[int],
    start: int = 0,
    stop: int | None = None,
) -> list[Task]:
    """All images of prompts start ... stop - 1, method by method. UserError for an empty range or a double name."""
    stop = len(prompts) if stop is None else stop
    if not 0 <= start < stop <= len(prompts):
        raise UserError(f"prompts {start} to {stop} do not exist; the file has {len(prompts)}, numbered from 0")
    for what, names in (("method", [m.folder for m in methods]), ("seed", [str(seed) for seed in seeds])):
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"the {what} '{double}' is given twice; give each once")
    numbers = range(start, stop)
    return [Task(method, n, prompts[n], seed) for method in methods for n in numbers for seed in seeds]


def run_tasks(
    folder: Path,
    prompts: Sequence[EvalPrompt],
    tasks: Sequence[Task],
    settings: dict[str, Any],
    place: Place,
    make: Make,
    shard: Shard = Shard(),  # noqa: B008  frozen
    batch_size: int = 1,
) -> Summary:
    """Make every image of this shard that is not there yet.

    A kill loses the batch in work and nothing else. A prompt whose layout can't be made is noted as failed, and the
    run goes on; it is tried again at the next start.

    Args:
        folder: of the run; made if it is not there.
        prompts: all of the file, also those beyond `tasks`.
        tasks: the whole list, the same for every shard.
        settings: what all images share; a folder made with others is refused.
        place: a prompt's layout; its first two centers are exchanged for a method that says so.
        make: images of one method, made together.
        batch_size: images made together.

    Raises:
        UserError: another run is at work in the folder, or it holds other settings or prompts.
    """

    def prepare() -> None:
        claim(folder / "settings.json", settings)
        keep_prompts(folder, list(prompts))
        for method in dict.fromkeys(task.method for task in tasks):
            claim(folder / method.folder / "method.json", {"label": method.label, **constants_of(method)})

    with hold(folder, shard, prepare):
        own = [task for index, task in enumerate(tasks) if shard.takes(index)]
        states = {task.entry.key: DONE if _is_there(folder, task.entry) else PENDING for task in own}
        manifest = Manifest(folder, shard)
        manifest.add([task.entry for task in own], states)
        summary = Summary(kept=sum(state == DONE for state in states.values()))
        todo = [task for task in own if states[task.entry.key] == PENDING]
        started = time.perf_counter()
        for batch in _batches(todo, batch_size):
            _make_batch(folder, manifest, batch, place, make, summary)
            pace = (time.perf_counter() - started) / max(1, summary.made)
            logger.info("%d of %d images, %.1f s each", summary.made, len(todo), pace)
    return summary


def _is_there(folder: Path, entry: Entry) -> bool:
    """Whether an image is there and whole; one that is damaged is named and made again."""
    path = folder / f"{entry.key}.png"
    if not path.is_file():
        return False
    if load_image(path) is None:
        logger.warning("%s is damaged and will be made again.", path)
        return False
    return True


def _batches(tasks: Sequence[Task], size: int) -> Iterator[list[Task]]:
    """At most `size` tasks of one method at a time, in order."""
    batch: list[Task] = []
    for task in tasks:
        if batch and (len(batch) == size or batch[0].method != task.method):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def _make_batch(
    folder: Path, manifest: Manifest, batch: Sequence[Task], place: Place, make: Make, summary: Summary
) -> None:
    layouts: dict[Task, Layout] = {}
    for task in batch:
        try:
            layouts[task] = task.method.arrange(place(task.method, task.prompt))
        except UserError as error:
            summary.failed[task.entry.key] = str(error)
            manifest.mark([task.entry.key], FAILED, reason=str(error))
    tasks = list(layouts)
    if not tasks:
        return
    keys = [task.entry.key for task in tasks]
    manifest.mark(keys, WORKING)
    started = time.perf_counter()
    texts, noises = [task.prompt.text for task in tasks], [task.noise for task in tasks]
    for task, made in zip(tasks, make(tasks[0].method, texts, list(layouts.values()), noises), strict=True):
        _save(folder, task, made)
    manifest.mark(keys, DONE, seconds=round((time.perf_counter() - started) / len(tasks), 3))
    summary.made += len(tasks)


def _save(folder: Path, task: Task, made: GeneratedImage) -> None:
    """The image's JSON, and then the image: one that is there is complete."""
    preset = task.method.preset
    details = {
        "prompt": task.prompt.text,
        "method": task.method.label,
        "seed": task.seed,
        "noise": task.noise,
        "layout": made.layout.to_json(),
        "radius": preset.radius if preset else None,
        "weights": [] if made.weights is None else made.weights.tolist(),
        "losses": made.losses,
        "candidates": made.candidates,
    }
    write_json(folder / f"{task.entry.key}.json", details)
    text = parameters_text(task.prompt.text, {"Seed": task.noise})
    save_png(folder / f"{task.entry.key}.png", made.image, text)
