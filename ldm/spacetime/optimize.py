"""Optimizing the attention weights through the sampler (Wu et al., ICCV 2023, section 3.3).

"whole-chain" samples the chain again and again and follows the gradient of the loss on the final image for all steps
together, as both releases do; "per-step" moves the weights of a step when the chain is there, by the loss on the
decoded predicted x_0, and never looks back. Images of a batch are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.utils._pytree import tree_map_only

from ldm.models.diffusion.chain import PredictX0
from ldm.models.diffusion.sampler import Sampler
from ldm.models.diffusion.sampling import stop_at_nan
from ldm.philox import PhiloxGenerator
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.presets import Preset

Callback = Callable[[dict[str, Any]], None]
Objective = Callable[[Tensor], dict[str, Tensor]]  # a ClipObjective
OnWork = Callable[[float, float, Mapping[str, float]], None]  # (done, total, mean losses by name)

# What takes about how long, a step's call of the U-Net being 1 (measured on the embedded model).
EVALUATION = 4.0  # of the loss within a step: the U-Net and the decoder, there and back
GRADIENT = 3.0  # of a step of the whole chain: its call again, and back
# The gradient of an image's pixels is too small for float16; a power of two changes nothing in float32.
LOSS_SCALE = 256.0


class Decoder(Protocol):
    """What is needed of a model here; `ldm.backends` has them."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W) in [0, 1]."""


@dataclass
class Result:
    """Images with the weights that made them.

    `history` has an entry per gradient: "loss" (by name, (B,)), "grad", "before" and "after" of lambda; of a whole
    chain also "round", "latents" and "images" with lambda (S, N, B) or, where shared, (N, B); else "step" and "inner"
    with lambda (N, B). Its tensors are detached and on the CPU.
    """

    images: Tensor  # (B, 3, H, W) in [0, 1]
    latents: Tensor  # (B, C, h, w)
    weights: Tensor  # (S, N, B) coefficients w of the chain that made the images
    history: list[dict[str, Any]] = field(default_factory=list)


class _Chain:
    """A sampler with everything that stays the same from one pass to the next."""

    def __init__(
        self,
        model: Decoder,
        sampler: Sampler,
        control: SpatialControl,
        on_step: Callback | None,
        arguments: dict[str, Any],
        on_work: OnWork | None = None,
        half_decode: bool = False,
    ) -> None:
        self.model, self.sampler, self.control, self.on_step = model, sampler, control, on_step
        self.half_decode = half_decode
        self.arguments = arguments  # of Sampler.sample
        every = sampler.schedule(arguments["S"], arguments.get("eta", 0.0))
        self.length = min(len(every), arguments.get("last") or len(every))
        self.free = control.free.to(arguments["x_T"])  # (N, B)
        given = arguments.get("generator") or ()
        if isinstance(given, PhiloxGenerator):  # as published, each pass goes on where it stands
            given = ()
        self.generators = (given,) if isinstance(given, torch.Generator) else tuple(given)
        self.states = [generator.get_state() for generator in self.generators]
        self.loss: dict[str, Tensor] = {}  # the latest, for `on_step`
        self.means: dict[str, float] = {}  # of the latest losses, for `on_work`
        self.on_work, self.done, self.total = on_work, 0.0, float(self.length)

    def begin(self, total: float) -> None:
        """Tell that nothing is done of `total`, and of the images' decoding."""
        self.total = total + 1.0
        self.worked(0.0)

    def worked(self, amount: float) -> None:
        """Tell that so much more is done."""
        self.done = self.done + amount
        if self.on_work is not None:
            self.on_work(self.done, self.total, self.means)

    def found(self, loss: dict[str, Tensor]) -> None:
        """Take the losses of an evaluation. Their means are for whoever watches the work, and are waited for."""
        self.loss = loss
        if self.on_work is not None:
            self.means = dict(zip(loss, torch.stack([*loss.values()]).mean(1).tolist(), strict=True))

    def counted(self, weights: Tensor) -> Tensor:
        """Weights (N, B) of a step, whose gradient is told as work when it is there."""
        if weights.requires_grad:
            weights.register_hook(lambda _: self.worked(GRADIENT))
        return weights

    def look(self, latents: Tensor) -> Tensor:
        """The images that the loss looks at (B, 3, H, W), of half the size from latents of half the size."""
        return self.model.decode(F.avg_pool2d(latents, 2) if self.half_decode else latents)

    def sample(self, round_: int = 0, **extra: Any) -> Tensor:
        """One pass: latents (B, C, h, w). Random steps draw the same noise in every pass."""
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state)

        def report(state: dict[str, Any]) -> None:
            if self.on_step is not None:
                self.on_step({**state, "round": round_, "loss": self.loss})
            self.worked(1.0)

        return self.sampler.sample(**self.arguments, **extra, on_step=report)[0]

    def result(self, latents: Tensor, weights: Tensor, history: Sequence[dict[str, Any]] = ()) -> Result:
        """The finished images; weights (S, N, B) are those of their chain."""
        latents = latents.detach()
        with torch.no_grad():
            used = (self.control.at_step(i, self.length, w) for i, w in enumerate(weights.detach()))
            shown = [torch.zeros_like(weights[0]) if w is None else w[: self.control.num_objects] for w in used]
            images = self.model.decode(latents)
        made = Result(images, latents, torch.stack(shown), [_record(entry) for entry in history])
        self.worked(self.total - self.done)
        return made


def optimize(
    model: Decoder,
    sampler: Sampler,
    control: SpatialControl,
    objective: Objective | None,
    preset: Preset,
    *,
    on_step: Callback | None = None,
    on_work: OnWork | None = None,
    checkpoint_steps: bool = True,
    checkpoint_blocks: bool = False,
    half_decode: bool = False,
    **chain: Any,
) -> Result:
    """Sample images while the weights of `control` come about as `preset` says.

    The model is frozen and in eval mode while this runs. Without any object this is plain sampling.

    Args:
        control: takes the preset's blend and masks; an object of its layouts that carries a weight starts from it.
        objective: images (B, 3, H, W) in [0, 1] to losses (B,) by name, of which "total" is minimized; None where no
            weight moves.
        on_step: called after every denoising step with the sampler's dict, "round" and the latest "loss".
        on_work: told how much of the work is done, in calls of the U-Net that it takes as long as.
        checkpoint_steps: recompute every step of a differentiated chain in the backward pass. Without, the activations
            of the whole chain are kept: a quarter less time for a small model, far too much memory for a large one.
        checkpoint_blocks: recompute the blocks of the U-Net and of the decoder too.
        half_decode: the loss looks at images of half the size, decoded from area means of the latents.
        chain: arguments of `Sampler.sample`, x_T (B, C, h, w) among them.

    Raises:
        UserError: a step count outside 1..1000, or an eta that the sampler cannot do.
    """
    x_T, present = chain["x_T"], control.present
    with frozen(model), block_checkpoints(model, checkpoint_blocks):
        passes = _Chain(
            model, sampler, preset.adapt(control), on_step, {"verbose": False, **chain}, on_work, half_decode
        )
        if not present.any():
            passes.begin(passes.length)
            with torch.no_grad():
                latents = passes.sample()
            return passes.result(latents, x_T.new_zeros(passes.length, *present.shape))
        scales = preset.scales(present).to(x_T)  # (N, B), w = scales * lambda
        start = preset.initial_weights(present, control.layouts).to(x_T)
        if not preset.optimizes(control.layouts):
            return _fixed(passes, preset, start * scales)
        assert objective is not None
        if preset.mode == "per-step":
            return _per_step(passes, objective, preset, start, scales)
        return _whole_chain(passes, objective, preset, start, scales, checkpoint_steps)


@torch.no_grad()
def _fixed(chain: _Chain, preset: Preset, weights: Tensor) -> Result:
    """One pass with weights (N, B) up to the preset's release, and 0 afterwards."""
    chain.begin(chain.length)
    held = torch.arange(chain.length)[:, None, None] < preset.release * chain.length  # (S, 1, 1)
    used = weights * (held & chain.control.present).to(weights)  # (S, N, B)
    taken = [step if preset.holds(i, chain.length) else None for i, step in enumerate(used)]
    return chain.result(chain.sample(control=chain.control, weights=taken), used)


def _whole_chain(
    chain: _Chain, objective: Objective, preset: Preset, start: Tensor, scales: Tensor, checkpoint_steps: bool
) -> Result:
    """One update a round, of all steps at once; Adam's state lasts over the rounds.

    Where the steps share their weights, the gradient is the sum of those of all steps. The images are those of the
    last round, rendered before its update.
    """
    every_step = (chain.length, *start.shape)
    # lambda (N, B) or (S, N, B)
    weights = (start if preset.shared else start.expand(every_step)).clone().requires_grad_()
    optimizer = Adam(weights, preset.learning_rate)
    history: list[dict[str, Any]] = []
    differentiated = min(preset.gradient_steps or chain.length, chain.length)
    chain.begin(preset.rounds * (chain.length + GRADIENT * differentiated))
    for round_ in range(preset.rounds):
        with torch.enable_grad():
            used = (weights * scales).expand(every_step)
            latents = chain.sample(
                round_,
                control=chain.control,
                weight_update=lambda step, *_, used=used: chain.counted(used[step]),
                checkpoint_steps=checkpoint_steps,
                gradient_steps=preset.gradient_steps,
            )
            images = chain.look(latents)
            entry = _descend(optimizer, objective(images), chain.free)
        chain.found(entry["loss"])
        if chain.half_decode:
            with torch.no_grad():
                images = chain.model.decode(latents)
        made = {"latents": latents.detach(), "images": images.detach()}
        history.append(_record({"round": round_, **entry, **made}))
    return chain.result(latents, used, history)


def _per_step(chain: _Chain, objective: Objective, preset: Preset, start: Tensor, scales: Tensor) -> Result:
    """Within each step `inner_steps` updates by the loss on its predicted x_0; one evaluation's graph is alive."""
    weights = start.clone().requires_grad_()  # lambda (N, B) of the present step
    optimizer = Adam(weights, preset.learning_rate)
    used = start.new_zeros(chain.length, *start.shape)  # w (S, N, B)
    history: list[dict[str, Any]] = []
    moving = [
        preset.moves(step, chain.length) and chain.control.moves(step, chain.length) for step in range(chain.length)
    ]
    chain.begin(chain.length + EVALUATION * preset.inner_steps * sum(moving))

    def update(step: int, _: Tensor | None, predict_x0: PredictX0) -> Tensor | None:
        if not preset.holds(step, chain.length):
            return None
        if not preset.carry_over:
            weights.data.copy_(start)
        if not preset.keep_moments:
            optimizer.forget()
        for inner in range(preset.inner_steps if moving[step] else 0):
            with torch.enable_grad():
                losses = objective(chain.look(predict_x0(weights * scales)))
                entry = _descend(optimizer, losses, chain.free)
            entry = {"step": step, "inner": inner, **entry}
            # The numbers of another device are looked at when the chain is done: no step waits for them.
            history.append(_record(entry) if start.device.type == "cpu" else entry)
            chain.found(entry["loss"])
            chain.worked(EVALUATION)
        used[step] = weights.detach() * scales
        return used[step]

    with torch.no_grad():
        latents = chain.sample(control=chain.control, weight_update=update)
    return chain.result(latents, used, history)


class Adam:
    """Adam of one tensor with the usual betas (Kingma and Ba 2015): `torch.optim.Adam`, number for number.

    Building that one loads torch's compiler, which takes as long as loading torch.
    """

    def __init__(self, weights: Tensor, rate: float) -> None:
        self.weights, self.rate = weights, rate
        self.forget()

    def forget(self) -> None:
        """Begin anew: the moments, and the number of steps that they are corrected by."""
        self.moments = [torch.zeros_like(self.weights)], [torch.zeros_like(self.weights)]
        self.steps = torch.zeros(())  # on the CPU, wherever the weights are

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Move the weights along `gradient`, of their shape."""
        adam(
            [self.weights],
            [gradient],
            *self.moments,
            max_exp_avg_sqs=[],
            state_steps=[self.steps],
            lr=self.rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )


def _descend(optimizer: Adam, losses: dict[str, Tensor], free: Tensor) -> dict[str, Any]:
    """One step on the weights that are `free` (N, B); what `Result.history` tells of it, on the device.

    The losses of the images are summed: each image's weights get the gradient of its own loss.
    """
    weights = optimizer.weights
    before = weights.detach().clone()
    total = losses["total"].sum()
    if total.requires_grad:
        (scaled,) = torch.autograd.grad(LOSS_SCALE * total, weights, allow_unused=True, materialize_grads=True)
        gradient = scaled / LOSS_SCALE
    else:  # every mask is empty on every grid
        gradient = torch.zeros_like(weights)
    gradient *= free
    optimizer.step(gradient)
    loss = {name: value.detach() for name, value in losses.items()}
    return {"loss": loss, "grad": gradient, "before": before, "after": weights.detach().clone()}


def _record(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the history on the CPU. Raises UserError where a loss is not finite."""
    kept: dict[str, Any] = tree_map_only(Tensor, Tensor.cpu, entry)
    stop_at_nan(torch.stack(list(kept["loss"].values())), "the CLIP loss")
    return kept


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """The model's parameters need no gradient and its modules are in eval mode inside the block."""
    if not isinstance(model, nn.Module):
        yield
        return
    trainable = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    try:
        model.requires_grad_(False).eval()
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def block_checkpoints(model: Any, enabled: bool) -> Iterator[None]:
    """Blocks of the U-Net and of the first stage are recomputed in the backward pass inside, iff `enabled`.

    The config's choice is for training; in a step that is recomputed as a whole it would mostly cost time.
    """
    switches = set_block_checkpoints(model, enabled)
    try:
        yield
    finally:
        for module, name, value in switches:
            setattr(module, name, value)


def set_block_checkpoints(model: Any, enabled: bool) -> list[tuple[nn.Module, str, bool]]:
    """Switch them for good; returns (module, attribute, earlier value) of every switch."""
    switches = [
        (module, name, module.__dict__[name])
        for module in (model.modules() if isinstance(model, nn.Module) else ())
        for name in ("use_checkpoint", "checkpoint")
        if isinstance(module.__dict__.get(name), bool)
    ]
    for module, name, _ in switches:
        setattr(module, name, enabled)
    return switches
