"""Train any model of this repository from its YAML configs, on pytorch-lightning 2.

    python main.py --base configs/emoji/unet.yaml -t
    python main.py --base configs/emoji/unet.yaml -t --resume logs/unet
    python main.py --base a.yaml b.yaml -t model.params.embed_dim=4 lightning.trainer.max_steps=100
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.util import UserError, atomic_write, instantiate_from_config, load_config

logger = logging.getLogger("main")
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-b", "--base", nargs="+", default=[], metavar="YAML", help="configs; later ones win")
    p.add_argument("-t", "--train", action="store_true", help="train")
    p.add_argument("--no-test", action="store_true", help="accepted for compatibility; nothing is tested")
    p.add_argument("-r", "--resume", metavar="DIR", help="log folder (or checkpoint) of the run to go on with")
    p.add_argument("-n", "--name", help="name of the run; by default that of the last config")
    p.add_argument("-l", "--logdir", default="logs", help="folder of all runs")
    p.add_argument("-s", "--seed", type=int, default=23, help="of weights and noise")
    p.add_argument("--scale_lr", type=_boolean, default=False, metavar="BOOL",
                   help="learning rate = base rate x batch x devices x accumulated batches, as published runs had it")
    p.add_argument("--threads", type=int, help="CPU threads of torch")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config entries to replace")
    return p


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() in ("true", "1", "yes")


def locate_run(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from.

    Raises:
        UserError: nothing to resume from, or a new run whose folder is taken.
    """
    if args.resume:
        path = Path(args.resume)
        folder, ckpt = (path, path / "checkpoints" / "last.ckpt") if path.is_dir() else (path.parent.parent, path)
        if not ckpt.is_file():
            raise UserError(f"no checkpoint to resume from at {ckpt}; name the folder or checkpoint of a run")
        return folder, ckpt
    if not args.base:
        raise UserError("no config given; name one with --base, such as configs/emoji/unet.yaml")
    folder = Path(args.logdir) / (args.name or Path(args.base[-1]).stem)
    if (folder / "checkpoints").exists():
        raise UserError(f"{folder} holds another run; go on with --resume {folder}, or choose a name with --name")
    return folder, None


def build_config(args: argparse.Namespace, folder: Path) -> Any:
    """All configs and overrides merged; a resumed run begins with its own saved config.

    Raises:
        UserError: an override that is not ``key=value``, or a missing section.
    """
    from omegaconf import OmegaConf

    for text in args.overrides:
        if "=" not in text:
            raise UserError(f"'{text}' is no config entry; write key=value, such as lightning.trainer.max_steps=100")
    paths = [str(folder / "config.yaml")] if args.resume and (folder / "config.yaml").exists() else []
    configs = [load_config(path) for path in [*paths, *args.base]]
    config = OmegaConf.merge(*configs, OmegaConf.from_dotlist(list(args.overrides)))
    for section in ("model", "data"):
        if section not in config:
            raise UserError(f"the config has no '{section}' section")
    return config


def build_callbacks(config: Any, folder: Path) -> list[Any]:
    """Checkpoints (`last` and, with a monitored metric, the best), signal, log lines, and the config's own."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    from ldm.callbacks import ProgressLog, SignalCheckpoint

    section = config.get("lightning", {}).get("modelcheckpoint", {}).get("params", {})
    every = section.get("every_n_train_steps", 500)
    checkpoints = folder / "checkpoints"
    callbacks: list[Any] = [
        ModelCheckpoint(checkpoints, filename="last", every_n_train_steps=every, enable_version_counter=False,
                        save_on_train_epoch_end=False),
        SignalCheckpoint(checkpoints / "last.ckpt"),
        ProgressLog(config.get("lightning", {}).get("log_every", 100)),
    ]
    if monitor := config.model.get("params", {}).get("monitor"):
        callbacks.append(
            ModelCheckpoint(checkpoints, filename="best", monitor=monitor, save_top_k=1, enable_version_counter=False)
        )
    for callback in config.get("lightning", {}).get("callbacks", {}).values():
        callbacks.append(instantiate_from_config(callback))
    return callbacks


def build_trainer(config: Any, folder: Path) -> Any:
    """The Lightning trainer of the config's ``lightning.trainer`` section."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger

    options: dict[str, Any] = {"accelerator": "auto", "devices": 1, "num_sanity_val_steps": 0}
    options["enable_progress_bar"] = sys.stderr.isatty()
    options.update(dict(config.get("lightning", {}).get("trainer", {})))
    options.pop("benchmark", None)
    log = CSVLogger(folder, name="metrics")  # a version a start, so that going on overwrites nothing
    return pl.Trainer(logger=log, callbacks=build_callbacks(config, folder), **options)


def learning_rate(config: Any, trainer: Any, scale: bool) -> float:
    """The config's base rate; multiplied by the images of an optimiser step where `scale`."""
    base = float(config.model.get("base_learning_rate", 1e-4))
    if not scale:
        return base
    batch = int(config.data.params.batch_size)
    return base * batch * trainer.num_devices * trainer.num_nodes * trainer.accumulate_grad_batches


def train(args: argparse.Namespace) -> Path:
    """Train as the command line says; returns the run's folder.

    Raises:
        UserError: see :func:`locate_run` and :func:`build_config`.
    """
    folder, ckpt = locate_run(args)
    config = build_config(args, folder)

    import pytorch_lightning as pl
    import torch
    from omegaconf import OmegaConf

    if args.threads:
        torch.set_num_threads(args.threads)
    pl.seed_everything(args.seed, verbose=False)
    with atomic_write(folder / "config.yaml") as temporary:
        OmegaConf.save(config, temporary)
    model = instantiate_from_config(config.model)
    if config.get("lightning", {}).get("channels_last"):  # convolutions on a CPU are about 1.5x faster so
        model = model.to(memory_format=torch.channels_last)
    data = instantiate_from_config(config.data)
    trainer = build_trainer(config, folder)
    model.learning_rate = learning_rate(config, trainer, args.scale_lr)
    logger.info("run %s, learning rate %.3g%s", folder, model.learning_rate, f", resumed from {ckpt}" if ckpt else "")
    trainer.fit(model, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    logger.info("done at step %d; checkpoint %s", trainer.global_step, folder / "checkpoints" / "last.ckpt")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 2 for a user's mistake and 130 for an interrupt."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    p = parser()
    args = p.parse_args(argv)
    if not args.train:
        p.error("nothing to do; add -t to train")
    try:
        train(args)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    except OSError as err:
        if err.errno not in CANNOT_WRITE:
            raise
        print(f"error: {err}; free some space or choose another --logdir, then go on with --resume", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint stays, go on with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
