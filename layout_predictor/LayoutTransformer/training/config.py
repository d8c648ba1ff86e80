"""The configuration of a training run: sections of a YAML file as typed values, every key checked."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layout_predictor.LayoutTransformer.model.network import LayoutConfig
from ldm.util import UserError, load_config

logger = logging.getLogger(__name__)

SECTIONS = ("MODEL", "DATA", "TRAINING", "ENCODER", "BBOX_HEAD", "OUTPUT")
DATA_SETS = ("grammar", "coco", "vg_msdn")
PRECISIONS = ("32-true", "bf16-mixed")  # as Lightning spells them; none that scales the loss

# Sections and keys of configurations of this family that have no meaning here: one line in the log each.
MEANINGLESS = {
    "TEST": "evaluation is --eval_only, on the validation split",
    "MODEL.NAME": "there is one model",
    "MODEL.DECODER": "the checkpoint's decoder has no part in the forward pass",
    "MODEL.REFINE": "the checkpoint's refinement encoder and head have no part in the forward pass",
    "MODEL.HEAD_TYPE": "the head is the mixture of five components",
    "DATA.SHUFFLE": "every epoch is shuffled by DATA.SEED",
    "DATA.NUM_WORKERS": "sentences are made in the training process",
    "ENCODER.OPTIMIZER": "the optimiser is Adam",
    "BBOX_HEAD.OPTIMIZER": "the optimiser is Adam",
}
# What is said elsewhere here; to ignore it would train something else, so it is an error.
MOVED = {
    "SOLVER": "sections ENCODER, BBOX_HEAD and TRAINING",
    "DATASETS": "section DATA",
    "DATALOADER": "sections DATA and TRAINING",
    "MODEL.ENCODER": "the keys of MODEL itself",
    "MODEL.PRETRAIN": "MODEL.pretrained",
}


@dataclass(frozen=True)
class DataSection:
    """What is trained on. Paths are as seen from the working directory or from the project."""

    tokenizer: str  # a tokenizer.json, a folder with one, or the name of one on the Hugging Face hub
    name: str = "grammar"  # one of DATA_SETS
    seed: int = 1
    train_sentences: int = 4000  # generated sentences an epoch
    valid_sentences: int = 400  # generated ones, and at most so many captions
    simple_steps: int = 0  # grammar: updates on single clauses about two objects, before everything else
    annotations: str = "data/coco/annotations"  # the folder of the annotation files
    image_sets: tuple[str, ...] = ("train2017",)
    relations: str | None = None  # coco: a file, or "generated"; vg_msdn: anything, for the relationships
    captions: str | None = None  # coco: a file; vg_msdn: anything, for the region phrases
    statistics: str = "sta_dict.json"  # written into the output folder
    min_area: float = 0.02  # of an object's box, as a part of the image
    min_objects: int = 3  # in an image
    max_objects: int = 8
    valid_part: float = 0.1


@dataclass(frozen=True)
class TrainingSection:
    """Length, batches, weights of the losses, and where it runs."""

    epochs: int
    batch_size: int  # sentences of an update in each process
    seed: int = 1
    grad_clip: float = 1.0
    position_weight: float = 0.1  # of the position term; 0 leaves it out
    relation_weight: float = 1.0  # of the relation hinge; 0 leaves it out
    devices: int = 1  # processes
    accelerator: str = "auto"  # cpu, cuda, mps, or the best there is
    precision: str = "32-true"  # one of PRECISIONS


@dataclass(frozen=True)
class OptimiserSection:
    """Adam and its schedule; WARMUP, HOLD and DECAY are parts of all updates."""

    max_lr: float
    scheduler: str = "BertScheduler"
    min_lr: float = 0.0
    warmup: float = 0.0
    hold: float = 0.0
    decay: float = 1.0
    weight_decay: float = 0.01


@dataclass(frozen=True)
class OutputSection:
    """What is written, and how often (in updates)."""

    output_dir: str
    log_every: int = 50
    save_every: int = 200
    tensorboard: bool = False
    keep: int = 0  # the newest so many checkpoints of epochs, and the best one; 0 keeps all


@dataclass(frozen=True)
class Settings:
    """A checked configuration. `model` holds the MODEL section without `pretrained`."""

    model: dict[str, Any]
    pretrained: str | None
    data: DataSection
    training: TrainingSection
    encoder: OptimiserSection
    bbox_head: OptimiserSection
    output: OutputSection

    def with_options(
        self, *, relations: str | None = None, devices: int | None = None, accelerator: str | None = None
    ) -> Settings:
        """The same with what the command line says otherwise."""
        data, training = self.data, self.training
        if relations is not None:
            data = replace(data, relations=relations)
        if devices is not None:
            training = replace(training, devices=devices)
        if accelerator is not None:
            training = replace(training, accelerator=accelerator)
        changed = replace(self, data=data, training=training)
        _check_values(changed)
        return changed


def read_config(path: str | Path, default: str | Path) -> Settings:
    """The configuration: top-level sections of `path` replace those of `default`.

    Raises:
        UserError: a section or key is missing or unknown (the nearest known one is named), or a value is wrong.
    """
    merged: dict[str, Any] = {}
    for source in (default, path):
        try:
            loaded = OmegaConf.to_container(load_config(source), resolve=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{source}: {str(error).splitlines()[0]}") from None
        assert isinstance(loaded, dict)  # load_config refuses everything else
        merged.update({str(name): section for name, section in loaded.items()})
    try:
        return check_config(merged)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_config(merged: Mapping[str, Any]) -> Settings:
    """Typed sections of a configuration, see `read_config`."""
    for name in merged:
        if name not in SECTIONS and not _known_elsewhere(name):
            raise UserError(f"unknown section {name}{_nearest(name, SECTIONS)}")
    missing = [name for name in SECTIONS if not isinstance(merged.get(name), Mapping)]
    if missing:
        raise UserError(f"no section {', '.join(missing)}, and the default configuration has none either")
    model = {key: value for key, value in merged["MODEL"].items() if not _known_elsewhere(f"MODEL.{key}")}
    pretrained = model.pop("pretrained", None)
    known = [field.name for field in fields(LayoutConfig)]
    for key, value in model.items():
        if key not in known:
            raise UserError(f"unknown key MODEL.{key}{_nearest(key, [*known, 'pretrained'], 'MODEL.')}")
        model[key] = _convert(value, get_type_hints(LayoutConfig)[key], f"MODEL.{key}")
    settings = Settings(
        model=model,
        pretrained=_convert(pretrained, str | None, "MODEL.pretrained"),
        data=_section(DataSection, "DATA", merged["DATA"]),
        training=_section(TrainingSection, "TRAINING", merged["TRAINING"]),
        encoder=_section(OptimiserSection, "ENCODER", merged["ENCODER"]),
        bbox_head=_section(OptimiserSection, "BBOX_HEAD", merged["BBOX_HEAD"]),
        output=_section(OutputSection, "OUTPUT", merged["OUTPUT"]),
    )
    _check_values(settings)
    return settings


def _check_values(settings: Settings) -> None:
    data, training, output = settings.data, settings.training, settings.output
    if data.name not in DATA_SETS:
        raise UserError(f"DATA.NAME is {data.name!r}; known data sets: {', '.join(DATA_SETS)}")
    if data.name == "grammar" and (data.relations or data.captions):
        raise UserError("DATA.NAME grammar has neither RELATIONS nor CAPTIONS; say coco or vg_msdn to train on them")
    least_one = {
        "TRAINING.EPOCHS": training.epochs,
        "TRAINING.BATCH_SIZE": training.batch_size,
        "TRAINING.DEVICES": training.devices,
        "DATA.TRAIN_SENTENCES": data.train_sentences,
        "OUTPUT.LOG_EVERY": output.log_every,
        "OUTPUT.SAVE_EVERY": output.save_every,
    }
    for key, value in least_one.items():
        if value < 1:
            raise UserError(f"{key} is {value}; it must be at least 1")
    if training.precision not in PRECISIONS:
        raise UserError(f"TRAINING.PRECISION is {training.precision!r}; known: {', '.join(PRECISIONS)}")
    if not 0 <= data.valid_part < 1:
        raise UserError(f"DATA.VALID_PART is {data.valid_part}; it must be a part, 0 or more and below 1")


# ------------------------------------------------------------------------------------- keys and values

Section = TypeVar("Section")


def _section(kind: type[Section], name: str, values: Mapping[Any, Any]) -> Section:
    """A section as its dataclass; the keys are the fields' names in capitals."""
    known = {field.name.upper(): field for field in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    found = {}
    for key, value in values.items():
        if _known_elsewhere(f"{name}.{key}"):
            continue
        if key not in known:
            raise UserError(f"unknown key {name}.{key}{_nearest(str(key), list(known), f'{name}.')}")
        field = known[key].name
        found[field] = _convert(value, hints[field], f"{name}.{key}")
    for key, item in known.items():
        if item.default is MISSING and item.name not in found:
            raise UserError(f"section {name} has no key {key}")
    return kind(**found)


def _known_elsewhere(path: str) -> bool:
    """Whether a section or key is known and means nothing (one log line); UserError where it has moved."""
    if path in MOVED:
        raise UserError(f"{path} is now {MOVED[path]}; move its values there")
    if path in MEANINGLESS:
        logger.info("%s is ignored: %s", path, MEANINGLESS[path])
        return True
    return False


def _nearest(name: str, known: list[str] | tuple[str, ...], prefix: str = "") -> str:
    by_capitals = {item.upper(): item for item in known}
    near = difflib.get_close_matches(name.upper(), list(by_capitals), n=1, cutoff=0.0)
    return f"; the nearest known one is {prefix}{by_capitals[near[0]]}"


def _convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as `hint` says; UserError where it is of another type."""
    if isinstance(hint, UnionType):
        if value is None:
            return None
        hint = get_args(hint)[0]
    if hint == tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise UserError(f"{path} is {value!r}; it must be a list of names")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is float and is_number and value >= 0:
        return float(value)
    if hint is int and is_number and value >= 0 and value == int(value):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    wanted = {float: "a number, not below 0", int: "a whole number, not below 0", bool: "true or false"}
    raise UserError(f"{path} is {value!r}; it must be {wanted.get(hint, 'a text')}")
