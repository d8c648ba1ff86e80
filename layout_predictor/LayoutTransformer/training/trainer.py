"""The training loop: two optimizers with their schedules, validation, checkpoints to the exact step."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from layout_predictor.LayoutTransformer.data.dataset import build_source
from layout_predictor.LayoutTransformer.data.sample import Batch, collate
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.names import load_published, to_published, with_unused
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from layout_predictor.LayoutTransformer.training import LAST, processes
from layout_predictor.LayoutTransformer.training.checkpoint import (
    EXPORTED,
    export,
    load_exported,
    load_training,
    save_training,
)
from layout_predictor.LayoutTransformer.training.config import Settings
from layout_predictor.LayoutTransformer.training.evaluate import Score, evaluate
from layout_predictor.LayoutTransformer.training.losses import layout_loss, position_nll, relation_hinge
from layout_predictor.LayoutTransformer.training.schedulers import OptimizerSection, build_schedule
from ldm.errors import DAMAGED
from ldm.util import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)

_EPOCH_NAME = re.compile(r"checkpoint_(\d+)_(-?\d+\.\d+)\.pth")
# A part of the model, and the optimizer's name in a published checkpoint.
_OPTIMIZERS = {"encoder": "encoder_optimizer", "bbox_head": "bbox_head_optimizer"}


def batch_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Relation hinges (R,) and position terms (P',) of a batch; P' counts the objects with a known center."""
    raw = model(batch.tokens, batch.is_object, batch.where)  # (P, 30)
    first, second, relation = batch.relations.unbind(-1)
    known = ~batch.centers.isnan().any(-1)
    return relation_hinge(raw[first], raw[second], relation), position_nll(raw[known], batch.centers[known])


class Trainer:
    """Trains a layout model as a configuration says, in the processes of `fabric`, which TRAINING starts by default."""

    def __init__(
        self, settings: Settings, model: LayoutModel, tokenizer: SentenceTokenizer, fabric: Fabric | None = None
    ) -> None:
        self.settings, self.model, self.tokenizer = settings, model, tokenizer
        self.fabric = fabric or processes.start_processes(settings.training)
        self.is_main = self.fabric.is_global_zero  # writes and reports
        self.output = Path(settings.output.output_dir)
        self.source = build_source(
            settings.data,
            batch_size=settings.training.batch_size * self.fabric.world_size,
            processes=self.fabric.world_size,
            output=self.output,
            tokenizer=tokenizer,
            max_tokens=model.config.max_tokens,
        )
        self.epoch_steps = self.source.epoch_steps
        self.total_steps = settings.training.epochs * self.epoch_steps
        head = list(model.head.parameters())
        encoder = [p for p in (*model.encoder.parameters(), model.object_embedding) if p.requires_grad]
        self.optimizers = {"encoder": _adam(encoder, settings.encoder), "bbox_head": _adam(head, settings.bbox_head)}
        self.schedules = self._schedules(0)
        # `network` is the model as the processes share it; its parameters are those of `model`.
        self.network, *self.steppers = self.fabric.setup(model, *self.optimizers.values())
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.unused: dict[str, Tensor] = {}  # entries of a published checkpoint that are saved again as they were
        self.running = dict.fromkeys(("loss", "hinge", "nll"), 0.0)  # sums since the last line of the log
        self.writer = _tensorboard(self.output) if settings.output.tensorboard and self.is_main else None
        torch.manual_seed(settings.training.seed + self.fabric.global_rank)  # for dropout

    def _schedules(self, done: int) -> dict[str, LambdaLR]:
        return {
            name: build_schedule(optimizer, getattr(self.settings, name), self.total_steps, done=done)
            for name, optimizer in self.optimizers.items()
        }

    def train(self) -> Score:
        """Train to the end of the last epoch, from wherever a checkpoint left off; return the last score."""
        output = self.settings.output
        score: Score | None = None
        started, first = time.monotonic(), self.step
        self.model.train()
        shown = tqdm(total=self.total_steps, initial=first, unit="step", disable=None if self.is_main else True)
        with logging_redirect_tqdm(), shown as bar:
            while self.step < self.total_steps:
                self.update()
                bar.update()
                if self.step % output.log_every == 0:
                    self._say((time.monotonic() - started) / (self.step - first))
                epoch_done = self.step % self.epoch_steps == 0
                if epoch_done:
                    score = self.validate()
                    self.save(self._epoch_path(score))
                    self.prune(score)
                if epoch_done or self.step % output.save_every == 0:
                    self.save(self.output / LAST)
        score = score or self.validate()  # a finished run's checkpoint: there was nothing left to do
        if self.is_main:
            export(self.output / EXPORTED, self.model, self.tokenizer)
            logger.info("done: %s", self.output / EXPORTED)
        return score

    def update(self) -> None:
        """One step of both optimizers on the next batch."""
        training = self.settings.training
        samples = self.source.batch(self.step)
        batch = collate(processes.share(self.fabric, samples), self.tokenizer, self.model.config.max_tokens)
        hinge, nll = batch_losses(self.network, batch.to(self.model.object_embedding.device))
        loss = layout_loss(
            hinge,
            nll,
            # Gradients are averaged over the processes: the average is per sentence of the whole batch.
            batch_size=len(samples) / self.fabric.world_size,
            position_weight=training.position_weight,
            relation_weight=training.relation_weight,
        )
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = clip_grad_norm_(self.model.parameters(), training.grad_clip)  # the same in every process
        if not torch.isfinite(norm) or not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} and its gradient {norm.item()} at step {self.step}; "
                f"lower MAX_LR and go on from {LAST}"
            )
        for stepper in self.steppers:
            stepper.step()
        for schedule in self.schedules.values():
            schedule.step()
        self.step += 1
        self.running["loss"] += loss.item()
        self.running["hinge"] += hinge.sum().item() / max(len(hinge), 1)
        self.running["nll"] += nll.sum().item() / max(len(nll), 1)

    def _say(self, seconds: float) -> None:
        """One line of the log, and scalars: means since the line before, over all processes."""
        parts = processes.gather(self.fabric, self.running)
        updates = len(parts) * self.settings.output.log_every
        means = {key: sum(part[key] for part in parts) / updates for key in self.running}
        self.running = dict.fromkeys(self.running, 0.0)
        rates = {name: float(schedule.get_last_lr()[0]) for name, schedule in self.schedules.items()}
        losses = f"loss {means['loss']:.4f}, hinge {means['hinge']:.4f}, nll {means['nll']:.3f}"
        rate = f"lr {rates['encoder']:.2e}, {seconds:.3f} s a step"
        logger.info("step %d of %d: %s, %s", self.step, self.total_steps, losses, rate)
        self._scalars("train", means)
        self._scalars("lr", rates)

    def _scalars(self, group: str, values: Mapping[str, float]) -> None:
        if self.writer is not None:
            for key, value in values.items():
                self.writer.add_scalar(f"{group}/{key}", value, self.step)
            self.writer.flush()

    def validate(self) -> Score:
        """Relation accuracy and center distance on the validation sentences, shared among the processes."""
        score = Score()
        own = evaluate(self.model, self.tokenizer, processes.share(self.fabric, self.source.validation))
        for part in processes.gather(self.fabric, own):
            score.add(part)
        values = {"relation_accuracy": score.relation_accuracy, "center_distance": score.center_distance}
        logger.info("step %d, validation: %s", self.step, ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
        self.log.append({"step": float(self.step), **values})
        self._scalars("valid", values)
        return score

    def _epoch_path(self, score: Score) -> Path:
        return self.output / f"checkpoint_{self.step // self.epoch_steps}_{score.metric:.4f}.pth"

    def save(self, path: Path) -> None:
        """Write a checkpoint; every process must take part, the main one writes. UserError for weights that are NaN."""
        if wrong := [name for name, p in self.model.named_parameters() if not torch.isfinite(p).all()]:
            raise UserError(
                f"the weights {wrong[0]} are not finite at step {self.step}; lower MAX_LR and go on from {LAST}"
            )
        random_state = processes.random_state(self.fabric)
        if not self.is_main:
            return
        state = {
            "state_dict": with_unused(to_published(self.model), self.model.config, self.unused),
            **{key: self.optimizers[name].state_dict() for name, key in _OPTIMIZERS.items()},
            "n_steps": self.step,
            "log": self.log,
            **random_state,
            "model_config": asdict(self.model.config),
            "running": self.running,
        }
        save_training(path, state)

    def prune(self, score: Score) -> None:
        """Delete checkpoints of epochs beyond the newest OUTPUT.KEEP ones and the best."""
        keep, epoch = self.settings.output.keep, self.step // self.epoch_steps
        if not keep or not self.is_main:
            return
        found = {path: _EPOCH_NAME.fullmatch(path.name) for path in self.output.glob("checkpoint_*.pth")}
        names = {path: (int(m[1]), float(m[2])) for path, m in found.items() if m and int(m[1]) <= epoch}
        pick = max if score.stated["all"] else min
        best = pick(names, key=lambda path: names[path][1], default=None)
        for path, (number, _) in names.items():
            if number <= epoch - keep and path != best:
                path.unlink(missing_ok=True)

    def load_weights(self, path: str | Path) -> dict[str, Any]:
        """Take the weights of a checkpoint, or of an exported file with our tokenizer; return its state."""
        if str(path).endswith(".safetensors"):
            model, tokenizer = load_exported(path)
            if tokenizer.to_json() != self.tokenizer.to_json():
                raise UserError(f"{path} was trained with another tokenizer than DATA.TOKENIZER names")
            load_published(self.model, to_published(model))
            return {}
        state = load_training(path)
        dropped = load_published(self.model, state["state_dict"])
        self.unused = {name: state["state_dict"][name] for name in dropped}
        return state

    def resume(self, path: str | Path) -> None:
        """Go on from a training checkpoint; one without random numbers (the published one) only gives weights."""
        state = self.load_weights(path)
        if "rng" not in state:
            logger.info("%s has weights only: training starts at step 0", path)
            return
        try:
            for name, key in _OPTIMIZERS.items():
                self.optimizers[name].load_state_dict(state[key])
            step, log, running = int(state["n_steps"]), list(state["log"]), dict(state["running"])
        except DAMAGED as error:
            raise UserError(
                f"{path} does not fit the optimizers of this configuration ({error}); --init_from takes its weights"
            ) from None
        if step > self.total_steps:
            raise UserError(f"{path} is at step {step}, beyond the {self.total_steps} of this configuration")
        self.step, self.log, self.running = step, log, running
        self.schedules = self._schedules(step)
        saved = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]
        if not processes.restore_random_state(self.fabric, saved, state.get("cuda_rng", ())):
            logger.warning("%s is of another number of processes or device: dropout draws anew", path)
        logger.info("resumed from %s at step %d", path, step)


def _adam(parameters: list[nn.Parameter], section: OptimizerSection) -> torch.optim.Adam:
    """Adam, with one pass over the parameters (`fused`): they are small and many. The schedule sets the rate."""
    return torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.999), fused=True, weight_decay=section.weight_decay)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("tensorboard is not installed: scalars go to the log file only")
        return None
    return SummaryWriter(str(folder))
