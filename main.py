"""Train any model of this repository from its YAML configs, on pytorch-lightning 2.

    python main.py --base configs/emoji/unet.yaml -t
    python main.py --base configs/emoji/unet.yaml -t --resume logs/unet
    python main.py --base a.yaml b.yaml -t model.params.embed_dim=4 lightning.trainer.max_steps=100
    python main.py --base a.yaml -t --gpus 0,1 --num_nodes 2         any option of Lightning's trainer is a flag, too

kill -USR1 PID writes a checkpoint after the present step.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm import boundary
from ldm.arguments import wrong_value
from ldm.cli.published import rewrite, truth
from ldm.locks import hold
from ldm.suggest import did_you_mean
from ldm.util import UserError, instantiate_from_config, load_config

logger = logging.getLogger("main")
# What published programs import from here, and where it is.
PUBLISHED_NAMES = {
    **dict.fromkeys(("DataModuleFromConfig", "WrappedDataset", "worker_init_fn"), "ldm.data.base"),
    "ImageLogger": "ldm.callbacks",
}
PUBLISHED = ("logger", "strategy", "find_unused_parameters")  # entries of published configs that mean nothing here
# What the sections of a config may hold, "*" anything.
SECTIONS = {
    "": "model data lightning",
    "model": "base_learning_rate scale_lr target params",
    "data": "target params",
    "lightning": "trainer callbacks modelcheckpoint log_every channels_last " + " ".join(PUBLISHED),
    "lightning.modelcheckpoint": "target params",  # of which every_n_train_steps counts here
    **dict.fromkeys(("model.params", "data.params", "lightning.trainer", "lightning.callbacks"), "*"),
    "lightning.modelcheckpoint.params": "*",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLISHED_NAMES:
        raise AttributeError(f"module 'main' has no attribute '{name}'")
    return getattr(importlib.import_module(PUBLISHED_NAMES[name]), name)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = boundary.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-b", "--base", nargs="+", default=[], metavar="YAML", help="configs; later ones win")
    switch: dict[str, Any] = {"type": truth, "default": False, "metavar": "BOOL"}
    p.add_argument("-t", "--train", help="train", **switch)
    p.add_argument("--no-test", help="accepted as published; nothing is tested", **switch)
    p.add_argument("-p", "--project", help="accepted as published; without effect")
    p.add_argument("-d", "--debug", help="open a debugger where training fails", **switch)
    p.add_argument("-r", "--resume", metavar="DIR", help="log folder (or checkpoint) of the run to go on with")
    p.add_argument("-n", "--name", help="name of the run; by default that of the last config")
    p.add_argument("-f", "--postfix", default="", help="appended to the name")
    p.add_argument("--gpus", metavar="LIST", help="numbers of the GPUs, such as 0,1; by default the best device")
    p.add_argument("-l", "--logdir", default="logs", help="folder of all runs")
    p.add_argument(
        "-s",
        "--seed",
        type=boundary.whole(0, 2**32 - 1),
        default=23,
        help="of weights, noise and the order of the data",
    )
    scaled = "learning rate = base rate x batch x devices x accumulated batches (model.scale_lr, else true)"
    p.add_argument("--scale_lr", type=truth, metavar="BOOL", help=scaled)
    p.add_argument("--threads", type=boundary.THREADS, help="CPU threads of torch")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config entries to replace")
    return p


def first_process() -> bool:
    """Whether this is the first process of a run on several devices or hosts, by what launchers set."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def locate_run(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from. UserError where the first is missing."""
    if args.resume:
        path = Path(args.resume)
        names_file = path.is_file() or path.suffix == ".ckpt"
        folder, ckpt = (path.parent.parent, path) if names_file else (path, path / "checkpoints" / "last.ckpt")
        if not folder.is_dir():
            raise UserError(f"no checkpoint to resume from at {ckpt}; name the folder or checkpoint of a run")
        return folder, ckpt
    if not args.base:
        raise UserError("no config given; name one with --base, such as configs/emoji/unet.yaml")
    return Path(args.logdir) / ((args.name or Path(args.base[-1]).stem) + args.postfix), None


@contextlib.contextmanager
def own_run(folder: Path, resumed: bool) -> Iterator[None]:
    """Hold the folder of the run while it trains; the other processes of a run leave that to the first one.

    UserError where another process holds it, or a fresh run would overwrite what is there.
    """
    if not first_process():
        yield
        return
    with hold(folder):
        if not resumed and any(folder.glob("checkpoints/*.ckpt")):
            raise UserError(f"{folder} holds another run; go on with --resume {folder}, or choose a name with --name")
        yield


def build_config(args: argparse.Namespace, folder: Path) -> Any:
    """All configs and overrides merged; a resumed run begins with its own saved config. UserError for a wrong entry."""
    from omegaconf import OmegaConf

    for text in args.overrides:
        if not re.match(r"[^=\s]+=", text):
            raise UserError(f"'{text}' is no config entry; write key=value, such as lightning.trainer.max_steps=100")
    paths = [str(folder / "config.yaml")] if args.resume and (folder / "config.yaml").exists() else []
    configs = [load_config(path) for path in [*paths, *args.base]]
    config = OmegaConf.merge(*configs, OmegaConf.from_dotlist(list(args.overrides)))
    _check_sections(config)
    _check_numbers(OmegaConf.to_container(config, resolve=True), "")
    if args.scale_lr is not None:
        config.model.scale_lr = args.scale_lr  # saved with the run, so that going on takes the same rate
    return config


def _check_sections(config: Any) -> None:
    """UserError for a section that is missing, unknown or none."""
    from omegaconf import OmegaConf

    for section in ("model", "data"):
        if section not in config:
            raise UserError(f"the config has no '{section}' section")
    for name, words in SECTIONS.items():
        entries, known = OmegaConf.select(config, name, default={}) if name else config, words.split()
        if not isinstance(entries, Mapping):
            raise UserError(f"the config's '{name}' is {entries!r:.60}, not a section of entries")
        for key in map(str, entries):
            if key not in known and words != "*":
                where = f"entry '{name}.{key}'" if name else f"section '{key}'"
                raise UserError(f"the config has an unknown {where}{did_you_mean(key, known)}")
            if name == "lightning" and key in PUBLISHED:
                logger.info("lightning.%s means nothing here: the run's folder holds its metrics as CSV", key)


def _check_numbers(value: Any, name: str) -> None:
    """UserError for a number in the config that is infinite or none at all."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"the config's '{name}' is {value}; give a finite number")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        _check_numbers(inner, f"{name}.{key}".removeprefix("."))


def build_callbacks(config: Any, folder: Path, seed: int) -> list[Any]:
    """Checkpoints (`last` and, with a monitored metric, the best), random numbers, log lines, and the config's own."""
    from omegaconf import OmegaConf
    from pytorch_lightning.callbacks import ModelCheckpoint

    from ldm.callbacks import LastCheckpoint, NoiseSeed, ProgressLog, RunConfig, StopAtNaN
    from ldm.checkpoints import LAST

    lightning = config.get("lightning", {})
    every = _at_least_one(config, "lightning.modelcheckpoint.params.every_n_train_steps", 500)
    where: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    callbacks: list[Any] = [
        RunConfig(folder / "config.yaml", OmegaConf.to_yaml(config)),
        NoiseSeed(seed),
        StopAtNaN(),
        ProgressLog(_at_least_one(config, "lightning.log_every", 100)),
        ModelCheckpoint(**where, filename="last", every_n_train_steps=every, save_on_train_epoch_end=False),
        LastCheckpoint(folder / "checkpoints" / LAST),
    ]
    if monitor := config.model.get("params", {}).get("monitor"):
        callbacks.append(ModelCheckpoint(**where, filename="best", monitor=monitor, save_top_k=1))
    return callbacks + [_own_callback(name, config, folder) for name in lightning.get("callbacks", {})]


def _own_callback(name: str, config: Any, folder: Path) -> Any:
    """A callback of the config. UserError where it is none, or would write outside the run's folder."""
    import pytorch_lightning as pl

    callback = instantiate_from_config(config.lightning.callbacks[name])
    if not isinstance(callback, pl.Callback):
        raise UserError(f"lightning.callbacks.{name} is no callback but a {type(callback).__name__}")
    if isinstance(callback, pl.callbacks.ModelCheckpoint):
        path = Path(callback.dirpath or folder, callback.filename or "")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"lightning.callbacks.{name} would write {path}, outside the run's folder {folder}; leave out dirpath"
            )
    return callback


def _at_least_one(config: Any, name: str, default: int) -> int:
    """A count in the config. UserError for anything but a whole number above 0."""
    from omegaconf import OmegaConf

    value = OmegaConf.select(config, name, default=default)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"the config's '{name}' is {value!r:.60}; it must be a whole number of at least 1")
    return value


def build_trainer(config: Any, folder: Path, seed: int, gpus: str | None, model: Any) -> Any:
    """The Lightning trainer of the config's ``lightning.trainer`` section. UserError for options that it refuses.

    A model with two optimizers, such as a GAN loss, gathers gradients itself: it is told how many batches of them.
    """
    import pytorch_lightning as pl
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.loggers import CSVLogger

    from ldm.checkpoints import CheckpointFiles

    options: dict[str, Any] = {"accelerator": "auto", "devices": 1, "num_sanity_val_steps": 0}
    options["enable_progress_bar"] = sys.stderr.isatty()
    options |= dict(config.get("lightning", {}).get("trainer", {}))
    options["plugins"] = [*(options.get("plugins") or ()), CheckpointFiles()]
    if not model.automatic_optimization:
        model.accumulate_grad_batches = _at_least_one(config, "lightning.trainer.accumulate_grad_batches", 1)
        options.pop("accumulate_grad_batches", None)
        if options.get("gradient_clip_val"):
            raise UserError("lightning.trainer.gradient_clip_val does not go with a discriminator; leave it out")
    if options["accelerator"] == "ddp":  # as older releases of Lightning said it
        options.update(accelerator="auto", strategy="ddp")
    listed = options.pop("gpus", None)
    if (gpus := gpus if gpus is not None else listed) is not None:
        options.update(accelerator="gpu", devices=_gpu_numbers(str(gpus)))
    # Where a run writes is the run's folder, whoever wrote the config.
    known = set(inspect.signature(pl.Trainer).parameters) - {"logger", "callbacks", "default_root_dir"}
    for name in options:
        if name not in known:
            raise UserError(f"lightning.trainer knows no option '{name}'{did_you_mean(name, known)}")
    if wrong := wrong_value(pl.Trainer, options):
        raise UserError(f"lightning.trainer.{wrong}")
    callbacks = build_callbacks(config, folder, seed)
    log = CSVLogger(folder, name="metrics")  # a version a start, so that going on overwrites nothing
    try:
        return pl.Trainer(logger=log, default_root_dir=folder, callbacks=callbacks, **options)
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as err:
        raise UserError(f"lightning.trainer cannot be set up: {' '.join(str(err).split())}") from err


def _gpu_numbers(text: str) -> list[int]:
    """The published form "0," or "0,1" as numbers. Raises UserError for anything else."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as err:
        raise UserError(f"--gpus {text} is no list of GPU numbers; write such as 0,1") from err


def scales_rate(config: Any) -> bool:
    """Whether the base rate counts for one image, by ``model.scale_lr``; so it does where the config is silent."""
    scale = config.model.get("scale_lr", True)
    if not isinstance(scale, bool):
        raise UserError(f"model.scale_lr is true or false, not '{scale}'")
    return scale


def learning_rate(config: Any, trainer: Any, scale: bool, gathered: int = 1) -> float:
    """The config's base rate; where `scale`, multiplied by the images of an optimizer step.

    gathered: batches of a step that the model gathers itself.
    """
    base = config.model.get("base_learning_rate", 1e-4)
    if not isinstance(base, (int, float)) or isinstance(base, bool) or base < 0:
        raise UserError(f"model.base_learning_rate is {base!r:.60}; it must be a number of at least 0")
    if not scale:
        return float(base)
    if "batch_size" not in config.data.get("params", {}):
        raise UserError("the config has no data.params.batch_size to scale the learning rate by; add --scale_lr false")
    batch = int(config.data.params.batch_size)
    return base * batch * trainer.num_devices * trainer.num_nodes * trainer.accumulate_grad_batches * gathered


def train(args: argparse.Namespace) -> Path:
    """Train as the command line says; returns the run's folder. UserError for what cannot be trained."""
    folder, ckpt = locate_run(args)
    config = build_config(args, folder)
    with own_run(folder, resumed=ckpt is not None):
        _train(args, config, folder, ckpt)
    return folder


def _train(args: argparse.Namespace, config: Any, folder: Path, ckpt: Path | None) -> None:
    import pytorch_lightning as pl
    import torch

    from ldm.checkpoints import check_resumable

    if args.threads:
        torch.set_num_threads(args.threads)
    pl.seed_everything(args.seed, verbose=False)
    model = instantiate_from_config(config.model)
    if ckpt is not None:
        check_resumable(ckpt, model.state_dict())
    if config.get("lightning", {}).get("channels_last"):  # convolutions on a CPU are about 1.5x faster so
        model = model.to(memory_format=torch.channels_last)
    data = instantiate_from_config(config.data)
    trainer = build_trainer(config, folder, args.seed, args.gpus, model)
    scale = scales_rate(config)
    gathered = getattr(model, "accumulate_grad_batches", 1)
    model.learning_rate = learning_rate(config, trainer, scale, gathered)
    notes = (" (base rate x images of a step)" if scale else "") + (f", resumed from {ckpt}" if ckpt else "")
    logger.info("run %s, learning rate %.3g%s", folder, model.learning_rate, notes)
    with lightning_errors(trainer), debugger(args.debug and first_process()):
        trainer.fit(model, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    if trainer.global_step == 0:
        raise UserError("nothing was trained; look at max_steps, max_epochs and limit_train_batches of the trainer")


@contextlib.contextmanager
def debugger(wanted: bool) -> Iterator[None]:
    """Open Python's debugger where the block fails, if `wanted`."""
    try:
        yield
    except Exception as err:
        if wanted:
            import pdb

            pdb.post_mortem(err.__traceback__)
        raise


@contextlib.contextmanager
def lightning_errors(trainer: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM as an interrupt, and what Lightning and torch say of a wrong config as a sentence."""
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    listener = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        raise KeyboardInterrupt from None
    except SystemExit:  # how Lightning ends after Ctrl-C
        raise (KeyboardInterrupt if trainer.interrupted else SystemExit(1)) from None
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MisconfigurationException) as err:
        told = boundary.one_line(f"{type(err).__name__}: {err}", 200)
        if boundary.MEMORY.search(str(err)) or boundary.WORKER.search(str(err)) or "DataLoader worker" in str(err):
            raise
        if re.search(r"must match|size mismatch|Kernel size can't be greater|shapes cannot be multiplied", str(err)):
            raise UserError(
                f"the network cannot take samples of this size ({told}); "
                "sides must be multiples of what it halves them by: change the size of the data set"
            ) from err
        raise UserError(
            f"training stopped at step {trainer.global_step} ({told}); look at the model's sizes, steps and keys, the "
            "data set and lightning.trainer, or set LDM_TRACEBACK=1 to see where"
        ) from err
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, listener)  # Lightning leaves it ignored


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 2 for a user's mistake and 130 for an interrupt."""
    boundary.log_lines(logging.INFO, "%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args = argparse.Namespace()

    def action() -> None:
        p = parser()
        words = rewrite(p, sys.argv[1:] if argv is None else argv)
        p.parse_intermixed_args(words, args)  # config entries may stand between flags, as published
        if not args.train:
            p.error("nothing to do; add -t to train")
        if hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until training listens to it, it would end the process
        train(args)

    def interrupted() -> str:
        folder, _ = locate_run(args)
        kept = any(folder.glob("checkpoints/*.ckpt"))
        return f"interrupted; go on with --resume {folder}" if kept else "interrupted before the first checkpoint"

    smaller = (
        "try a smaller data.params.batch_size with more lightning.trainer.accumulate_grad_batches, or num_workers=0"
    )
    return boundary.run(action, interrupted, tell=first_process(), smaller=smaller)


if __name__ == "__main__":
    sys.exit(main())
