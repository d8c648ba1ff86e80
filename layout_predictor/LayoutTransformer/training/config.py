"""The configuration of a training run: the sections of a YAML file as OmegaConf structured configs, checked."""

from __future__ import annotations

import copy
import difflib
import logging
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layout_predictor.LayoutTransformer.data.sample import DataSection
from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from layout_predictor.LayoutTransformer.training import published
from layout_predictor.LayoutTransformer.training.schedulers import OptimizerSection
from ldm import boundary
from ldm.util import UserError, load_config

logger = logging.getLogger(__name__)

DATA_SETS = ("grammar", "coco", "vg_msdn")
PRECISIONS = ("32-true", "bf16-mixed")  # as Lightning spells them; none that scales the loss

MEANINGLESS: dict[str, str] = published.KEYS["meaningless"]  # sections and keys of configurations of this family: why


@dataclass
class ModelSection(LayoutConfig):
    """Sizes of the model, and the encoder to start from."""

    vocab_size: int = 0  # 0: the tokenizer's
    pretrained: str | None = None  # a folder or a name on the Hugging Face hub

    def layout_config(self, vocabulary: int) -> LayoutConfig:
        """The model's sizes for a tokenizer of `vocabulary` entries."""
        values = {**asdict(self), "vocab_size": self.vocab_size or vocabulary}
        del values["pretrained"]
        return LayoutConfig.from_mapping(values)


@dataclass
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


@dataclass
class OutputSection:
    """What is written, and how often (in updates)."""

    output_dir: str
    log_every: int = 50
    save_every: int = 200
    tensorboard: bool = False
    keep: int = 0  # the newest so many checkpoints of epochs, and the best one; 0 keeps all


@dataclass
class Settings:
    """A checked configuration. In a file, names of sections and their keys (but those of MODEL) are in capitals."""

    model: ModelSection
    data: DataSection
    training: TrainingSection
    encoder: OptimizerSection
    bbox_head: OptimizerSection
    output: OutputSection

    def with_options(self, **options: str | int | None) -> Settings:
        """The same with what the command line says otherwise: relations, output_dir, devices, accelerator."""
        changed = copy.deepcopy(self)
        sections = {"relations": changed.data, "output_dir": changed.output}
        for name, value in options.items():
            if value is not None:
                setattr(sections.get(name, changed.training), name, value)
        _check_values(changed)
        return changed


_KINDS = get_type_hints(Settings)  # section to its dataclass
_WANTED = {
    int: "a whole number, not below 0",
    float: "a number, not below 0",
    bool: "true or false",
    list[str]: "a list of names",
}
SECTIONS = tuple(name.upper() for name in _KINDS)


def read_config(path: str | Path, default: str | Path) -> Settings:
    """The configuration: top-level sections of `path` replace those of `default`; those of a published one join them.

    Raises:
        UserError: a section or key is missing or unknown (the nearest known one is named), or a value is wrong.
    """
    merged: dict[str, Any] = {}
    for source in (default, path):
        try:
            content: Any = OmegaConf.to_container(load_config(source), resolve=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{source}: {boundary.reason(error)}") from None
        if published.is_published(content):
            known = {
                f"{name.upper()}.{_key(name.upper(), f.name)}" for name, kind in _KINDS.items() for f in fields(kind)
            }
            for name, values in published.translate(content, known, source).items():
                merged[name] = {**merged.get(name, {}), **values}
        else:
            merged.update(content)
    try:
        return check_config(merged)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_config(merged: Mapping[str, Any]) -> Settings:
    """Typed sections of a configuration, see `read_config`."""
    for name in merged:
        if not _known_elsewhere(name) and name not in SECTIONS:
            raise UserError(f"unknown section {name}{_nearest(name, SECTIONS)}")
    missing = [name for name in SECTIONS if not isinstance(merged.get(name), Mapping)]
    if missing:
        raise UserError(f"no section {', '.join(missing)}, and the default configuration has none either")
    settings = Settings(**{name: _section(name.upper(), kind, merged[name.upper()]) for name, kind in _KINDS.items()})
    _check_values(settings)
    return settings


def _section(name: str, kind: Any, values: Mapping[str, Any]) -> Any:
    """A section as its dataclass."""
    config, hints = OmegaConf.structured(kind), get_type_hints(kind)
    keys = {_key(name, field.name): field.name for field in fields(kind)}  # as in the file: as in the dataclass
    for key, value in values.items():
        path = f"{name}.{key}"
        if _known_elsewhere(path):
            continue
        if key not in keys:
            raise UserError(f"unknown key {path}{_nearest(key, keys, f'{name}.')}")
        hint, number = hints[keys[key]], type(value) in (int, float)
        if hint == list[str] and isinstance(value, str):
            value = [value]
        fits = 0 <= value <= sys.float_info.max if number else value != []
        if fits and number and hint in (int, float) and hint(value) == value:
            value = hint(value)  # 1e3 epochs, or a rate of 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)  # a conversion: a text for a number
                config[keys[key]] = value if fits else object()
        except (OmegaConfBaseException, FutureWarning):
            raise UserError(f"{path} is {value!r}; it must be {_WANTED.get(hint, 'a text')}") from None
    for absent in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"section {name} has no key {_key(name, absent)}")
    return OmegaConf.to_object(config)


def _key(section: str, field: str) -> str:
    return field if section == "MODEL" else field.upper()


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
    for key, value in (("DATA.VALID_SENTENCES", data.valid_sentences), ("TRAINING.BATCH_SIZE", training.batch_size)):
        if value > 10**6:
            raise UserError(f"{key} is {value}; it must be at most a million")
    if not data.valid_part < 1:
        raise UserError(f"DATA.VALID_PART is {data.valid_part}; it must be a part, 0 or more and below 1")


def _known_elsewhere(path: str) -> bool:
    """Whether a section or key is known and means nothing, which is told in one line of the log."""
    if path in MEANINGLESS:
        logger.info("%s is ignored: %s", path, MEANINGLESS[path])
    return path in MEANINGLESS


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    by_capitals = {item.upper(): item for item in known}
    near = difflib.get_close_matches(str(name).upper(), list(by_capitals), n=1, cutoff=0.0)
    return f"; the nearest known one is {prefix}{by_capitals[near[0]]}"
