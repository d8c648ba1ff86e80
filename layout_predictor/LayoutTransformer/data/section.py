"""The DATA section of a training configuration."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataSection:
    """What is trained on. Paths are as seen from the working directory or from the project."""

    tokenizer: str  # a tokenizer.json, a folder with one, or the name of one on the Hugging Face hub
    name: str = "grammar"  # or "coco", or "vg_msdn"
    seed: int = 1
    train_sentences: int = 4000  # generated sentences an epoch
    valid_sentences: int = 400  # generated ones, and at most so many captions
    simple_steps: int = 0  # grammar: updates on single clauses about two objects, before everything else
    annotations: str = "data/coco/annotations"  # the folder of the annotation files
    image_sets: list[str] = field(default_factory=lambda: ["train2017"])
    relations: str | None = None  # coco: a file, or "generated"; vg_msdn: anything, for the relationships
    captions: str | None = None  # coco: a file; vg_msdn: anything, for the region phrases
    statistics: str = "sta_dict.json"  # written into the output folder
    min_area: float = 0.02  # of an object's box, as a part of the image
    min_objects: int = 3  # in an image
    max_objects: int = 8
    valid_part: float = 0.1
