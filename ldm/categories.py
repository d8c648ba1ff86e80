"""What the emoji world holds: its categories and plain backgrounds, from `configs/emoji/world.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from ldm.files import read_yaml
from ldm.paths import ROOT

_WORLD = read_yaml(ROOT / "configs" / "emoji" / "world.yaml")


@dataclass(frozen=True)
class Category:
    """One kind of object: COCO name, emoji, plural, kind ("vehicle", "animal", "food", "thing"), true color words."""

    name: str
    emoji: str
    plural: str
    kind: str
    colors: list[str]
    synonyms: list[str]
    verbs: list[str]  # beside those of its kind


CATEGORIES = tuple(
    Category(name, **{"synonyms": [], "verbs": [], **entry}) for name, entry in _WORLD["categories"].items()
)
NAMES = tuple(category.name for category in CATEGORIES)
LABELS = {name: index for index, name in enumerate(NAMES)}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {name: tuple(rgb) for name, rgb in _WORLD["backgrounds"].items()}
BACKGROUND_CAPTIONS: tuple[str, ...] = tuple(_WORLD["nothing"])  # of images without an object
