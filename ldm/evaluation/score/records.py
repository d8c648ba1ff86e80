"""Results that last: what every image of a prompt set shows, in a file of JSON Lines.

The first line has the settings of all images, the constants of every method and the time that images took:

    {"settings": {"model_sha256": ..., "steps": 25, ...}, "constants": {"base": {...}, ...}, "seconds": {...}}

and every other line is an image, with the fields of `ImageFacts` that were measured:

    {"method": "base", "prompt": 0, "seed": 1000, "found": [true, false], "both": [false], "right": [false], ...}

The image itself need not be kept: what has a line is never made again, in another clone as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ldm.errors import DAMAGED
from ldm.evaluation.run.manifest import changed_keys
from ldm.evaluation.run.methods import Method, changed_constants, constants_of
from ldm.evaluation.score.judge import ImageOf
from ldm.evaluation.score.metrics import ImageFacts
from ldm.files import parse_json, write_json_lines
from ldm.util import UserError


class Record:
    """Facts of images by method, then by prompt and seed; empty where the file is not there yet.

    Attributes:
        settings: of all images.
        facts: what the images show.
        seconds: by method, images timed and seconds in all.
        constants: by method; a method without them can't be checked, so it gets no further images.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.settings = path, dict(settings or {})
        self.facts: dict[str, dict[ImageOf, ImageFacts]] = {}
        self.seconds: dict[str, tuple[int, float]] = {}
        self.constants: dict[str, dict[str, Any]] = {}

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record of a file. UserError if it is damaged or none."""
        record = cls(path)
        try:
            head, *lines = map(parse_json, path.read_text(encoding="utf-8").splitlines())
            record.settings, record.constants = dict(head["settings"]), dict(head["constants"])
            record.seconds = {method: (count, seconds) for method, (count, seconds) in head["seconds"].items()}
            for line in lines:
                method, number, seed = (line.pop(key) for key in ("method", "prompt", "seed"))
                record.facts.setdefault(method, {})[number, seed] = ImageFacts.from_json(line)
        except DAMAGED:
            raise UserError(f"{path} is no record of images, or damaged; restore it, or leave it out") from None
        return record

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Record:
        """The record of a file, or a new one. UserError if the file has other settings."""
        if not path.exists():
            return cls(path, settings)
        record = cls.read(path)
        if changed := changed_keys(record.settings, settings):
            raise UserError(
                f"{path} holds scores made with other settings ({', '.join(changed)}); name another --out or remove it"
            )
        return record

    def first(self, method: str, count: int) -> dict[ImageOf, ImageFacts]:
        """What is there of a method's images of the first `count` prompts."""
        return {place: shown for place, shown in self.facts.get(method, {}).items() if place[0] < count}

    def write(self) -> None:
        """Write all of it or nothing."""
        head = {"settings": self.settings, "constants": self.constants, "seconds": self.seconds}
        lines: list[dict[str, Any]] = [head]
        for method, images in self.facts.items():
            for (number, seed), shown in sorted(images.items(), key=lambda item: item[0][::-1]):
                lines.append({"method": method, "prompt": number, "seed": seed, **shown.to_json()})
        write_json_lines(self.path, lines)

    def claim(self, method: Method, more: Mapping[str, Any] | None = None) -> None:
        """Note the method's constants, and `more` that it depends on. UserError if its images were made with others."""
        own = {**constants_of(method), **(more or {})}
        if method.label not in self.facts:
            self.constants[method.label] = own
        elif changed := changed_constants(self.constants.get(method.label, {}), own):
            raise UserError(
                f"{self.path} holds scores of '{method.label}' with another {', '.join(changed)}; make them again with "
                f"--again {method.label}, or name another --out"
            )

    def take(self, other: Record, methods: Iterable[Method], count: int) -> None:
        """Take from another record what lacks here of the first `count` prompts, for methods that are claimed.

        Raises:
            UserError: it was made with other settings, or a method with other constants.
        """
        if changed := changed_keys(other.settings, self.settings):
            raise UserError(f"{other.path} was made with other settings ({', '.join(changed)}); leave it out.")
        for method in methods:
            known = other.facts.get(method.label, {})
            if not known:
                continue
            if changed_constants(other.constants.get(method.label, {}), self.constants[method.label]):
                raise UserError(f"{other.path} has scores of '{method.label}' with other constants; leave it out.")
            own = self.facts.setdefault(method.label, {})
            own.update({place: shown for place, shown in other.first(method.label, count).items() if place not in own})

    def drop(self, method: str) -> None:
        """Forget all images of a method."""
        for kept in (self.facts, self.seconds, self.constants):
            kept.pop(method, None)  # type: ignore[attr-defined]

    def took(self, method: str, images: int, seconds: float) -> None:
        """Note how long the making of images took."""
        before = self.seconds.get(method, (0, 0.0))
        self.seconds[method] = before[0] + images, round(before[1] + seconds, 1)
