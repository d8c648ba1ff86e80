"""The training loop: two optimisers with their schedules, validation, checkpoints to the exact step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from layout_predictor.LayoutTransformer.data.batch import Batch, collate
from layout_predictor.LayoutTransformer.data.dataset import GrammarSource
from layout_predictor.LayoutTransformer.data.grammar import generate
from layout_predictor.LayoutTransformer.data.sample import Sample
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.model.names import load_published, to_published
from layout_predictor.LayoutTransformer.model.network import LayoutModel
from layout_predictor.LayoutTransformer.training.checkpoint import export, load_training, save_training
from layout_predictor.LayoutTransformer.training.evaluate import Score, evaluate
from layout_predictor.LayoutTransformer.training.losses import layout_loss, position_nll, relation_hinge
from layout_predictor.LayoutTransformer.training.schedulers import build_scheduler
from ldm.util import UserError

logger = logging.getLogger(__name__)

SECTIONS = ("MODEL", "DATA", "TRAINING", "ENCODER", "BBOX_HEAD", "OUTPUT")


def batch_losses(model: LayoutModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Relation hinges (R,) and position terms (P',) of a batch; P' counts the objects with a known centre."""
    features = model.encode(batch.tokens, batch.is_object)  # (B, L, H)
    raw = model.head(features[batch.where[:, 0], batch.where[:, 1]])  # (P, 30)
    first, second, relation = batch.relations.unbind(-1)
    known = ~batch.centres.isnan().any(-1)
    return relation_hinge(raw[first], raw[second], relation), position_nll(raw[known], batch.centres[known])


class Trainer:
    """Trains a layout model as a configuration says.

    Args:
        config: sections MODEL, DATA, TRAINING, ENCODER, BBOX_HEAD, OUTPUT (see configs/default.yaml).
    """

    def __init__(self, config: Mapping[str, Any], model: LayoutModel, tokenizer: SentenceTokenizer) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        data, training = config["DATA"], config["TRAINING"]
        self.batch_size = int(training["BATCH_SIZE"])
        self.epochs = int(training["EPOCHS"])
        self.epoch_steps = max(1, int(data["TRAIN_SENTENCES"]) // self.batch_size)
        self.total_steps = self.epochs * self.epoch_steps
        self.source = GrammarSource(
            int(data["SEED"]), self.batch_size, simple_steps=int(data.get("SIMPLE_STEPS", 0))
        )
        # A series of its own: no validation sentence is in the training series.
        self.validation: list[Sample] = [
            generate(int(data["SEED"]) + 1_000_003, i) for i in range(int(data["VALID_SENTENCES"]))
        ]
        self.output = Path(config["OUTPUT"]["OUTPUT_DIR"])
        head = list(model.head.parameters())
        encoder = [p for p in (*model.encoder.parameters(), model.object_embedding) if p.requires_grad]
        self.optimizers = {
            name: torch.optim.Adam(
                parameters,
                lr=1.0,
                betas=(0.9, 0.999),
                fused=True,  # one pass over the parameters: they are small and many
                weight_decay=float(config[name].get("WEIGHT_DECAY", 0.01)),
            )
            for name, parameters in (("ENCODER", encoder), ("BBOX_HEAD", head))
        }
        self.schedules = {
            name: build_scheduler(optimizer, config[name], self.total_steps)
            for name, optimizer in self.optimizers.items()
        }
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.running = {"loss": 0.0, "hinge": 0.0, "nll": 0.0}
        self.writer = self._tensorboard()
        torch.manual_seed(int(training["SEED"]))

    def _tensorboard(self) -> Any:
        if not self.config["OUTPUT"].get("TENSORBOARD", False):
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.warning("tensorboard is not installed: scalars go to the log file only")
            return None
        return SummaryWriter(str(self.output))

    # ------------------------------------------------------------------ steps

    def train(self) -> Score:
        """Train to the end of the last epoch, from wherever a checkpoint left off; return the last score."""
        training, output = self.config["TRAINING"], self.config["OUTPUT"]
        self.output.mkdir(parents=True, exist_ok=True)
        log_every, save_every = int(output["LOG_EVERY"]), int(output["SAVE_EVERY"])
        score, started, first = Score(), time.monotonic(), self.step
        self.model.train()
        while self.step < self.total_steps:
            self._update(float(training["GRAD_CLIP"]), float(training["POSITION_WEIGHT"]))
            if self.step % log_every == 0:
                self._report((time.monotonic() - started) / (self.step - first), log_every)
            epoch_done = self.step % self.epoch_steps == 0
            if epoch_done:
                score = self.validate()
                self._save(self._epoch_path(score))
            if epoch_done or self.step % save_every == 0:
                self._save(self.output / "last.pth")
        if not score.stated:
            score = self.validate()
        export(self.output / "layout.safetensors", self.model, self.tokenizer)
        logger.info("done: %s", self.output / "layout.safetensors")
        return score

    def _update(self, clip: float, position_weight: float) -> None:
        samples = self.source.batch(self.step)
        batch = collate(samples, self.tokenizer, self.model.config.max_tokens).to(
            self.model.object_embedding.device
        )
        hinge, nll = batch_losses(self.model, batch)
        loss = layout_loss(hinge, nll, batch_size=len(batch), position_weight=position_weight)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at step {self.step}; lower MAX_LR")
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), clip)
        for name, optimizer in self.optimizers.items():
            optimizer.step()
            self.schedules[name].step()
        self.step += 1
        values = {
            "loss": loss.item(),
            "hinge": hinge.sum().item() / max(len(hinge), 1),
            "nll": nll.mean().item(),
        }
        for key, value in values.items():
            self.running[key] += value

    def _report(self, seconds: float, steps: int) -> None:
        means = {key: value / steps for key, value in self.running.items()}
        self.running = dict.fromkeys(self.running, 0.0)
        rates = {name: schedule.lr_at(self.step) for name, schedule in self.schedules.items()}
        logger.info(
            "step %d of %d: loss %.4f, hinge %.4f, nll %.3f, lr %.2e, %.3f s a step",
            self.step, self.total_steps, means["loss"], means["hinge"], means["nll"], rates["ENCODER"],
            seconds,
        )  # fmt: skip
        if self.writer is not None:
            for key, value in means.items():
                self.writer.add_scalar(f"train/{key}", value, self.step)
            for name, value in rates.items():
                self.writer.add_scalar(f"lr/{name.lower()}", value, self.step)

    def validate(self) -> Score:
        """Relation accuracy and centre distance on the validation sentences."""
        score = evaluate(self.model, self.tokenizer, self.validation)
        values = {"relation_accuracy": score.relation_accuracy, "centre_distance": score.centre_distance}
        logger.info(
            "step %d, validation: %s", self.step, ", ".join(f"{k} {v:.4f}" for k, v in values.items())
        )
        self.log.append({"step": float(self.step), **values})
        if self.writer is not None:
            for key, value in values.items():
                self.writer.add_scalar(f"valid/{key}", value, self.step)
        return score

    # ------------------------------------------------------------------ checkpoints

    def _epoch_path(self, score: Score) -> Path:
        return self.output / f"checkpoint_{self.step // self.epoch_steps}_{score.relation_accuracy:.4f}.pth"

    def _save(self, path: Path) -> None:
        state = {
            "state_dict": to_published(self.model),
            "encoder_optimizer": self.optimizers["ENCODER"].state_dict(),
            "bbox_head_optimizer": self.optimizers["BBOX_HEAD"].state_dict(),
            "n_steps": self.step,
            "log": self.log,
            "rng": torch.get_rng_state(),
            "model_config": self.model.config.to_dict(),
            "running": self.running,
        }
        save_training(path, state)

    def resume(self, path: str | Path) -> None:
        """Go on from a training checkpoint, dropout's random numbers included.

        A checkpoint without optimisers (the published one, stripped) only gives the weights.
        """
        state = load_training(path)
        load_published(self.model, state["state_dict"])
        if "rng" not in state:
            logger.info("%s has weights only: training starts at step 0", path)
            return
        for key, name in (("encoder_optimizer", "ENCODER"), ("bbox_head_optimizer", "BBOX_HEAD")):
            self.optimizers[name].load_state_dict(state[key])
        self.step = int(state["n_steps"])
        if self.step > self.total_steps:
            raise UserError(
                f"{path} is at step {self.step}, beyond the {self.total_steps} of this configuration"
            )
        for schedule in self.schedules.values():
            schedule.load_state_dict({"step_number": self.step})
        self.log, self.running = list(state["log"]), dict(state["running"])
        torch.set_rng_state(state["rng"])
        logger.info("resumed from %s at step %d", path, self.step)
