"""How long a picture takes and how much memory a differentiated chain holds.

python -m bench speed                  # the embedded model, plain and with every schedule
python -m bench memory                 # Stable Diffusion v1's architecture, random weights, 512x512
python -m bench memory --config C --size 64
python -m bench unet                   # one call of Stable Diffusion v1's U-Net beside that of diffusers
python -m bench unet --gradient
python -m bench startup                # --help, the first denoising step, the memory that loading takes
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import startup
from bench.live import live_peak
from bench.unet import LIBRARY, measure
from ldm.evaluation.manifest import write_json
from ldm.spacetime.control import SpatialControl
from ldm.spacetime.generate import generate
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.spacetime.optimise import block_checkpoints
from ldm.spacetime.pipeline import EMOJI_CONFIG, SD_CONFIG, make_sampler, project_file
from ldm.spacetime.settings import SAMPLERS, SCHEDULES, GenerateSettings
from ldm.util import UserError, load_config, load_model_from_config, pick_device

PROMPT = "The motorcycle is parking to the right of a bus."
LAYOUT = Layout((LayoutObject("the motorcycle", 0.75, 0.5), LayoutObject("a bus", 0.25, 0.5)))
GIB = 2**30


def speed(options: argparse.Namespace) -> None:
    """Seconds a picture of the embedded model, loading excluded."""
    plain = GenerateSettings((PROMPT,), sampler="plms", device=options.device, threads=options.threads)
    if project_file(EMOJI_CONFIG).exists():
        plain = replace(plain, config=project_file(EMOJI_CONFIG))
    for schedule in SCHEDULES:
        marks: list[tuple[str, int, float]] = []

        def mark(what: str, done: int, total: int, losses: Any, marks: list[Any] = marks) -> None:
            marks.append((what, done, time.perf_counter()))

        first = replace(plain, schedule=schedule, baseline=schedule == SCHEDULES[0])
        generate(first, mark)
        for what in dict.fromkeys(name for name, _, _ in marks):
            times = [when for name, _, when in marks if name == what]
            seconds = (times[-1] - times[0]) * len(times) / max(len(times) - 1, 1)
            print(f"{what:24} {len(times):5} steps {seconds:8.2f} s")


def memory(options: argparse.Namespace) -> None:
    """Peak of the live tensors, weights excluded, of a differentiated chain and of the decoder."""
    device, size = pick_device(options.device), options.size or 512
    if options.threads:
        torch.set_num_threads(options.threads)
    config = load_config(project_file(options.config))
    config.model.params.cond_stage_config = "__is_unconditional__"  # contexts are random here
    model = load_model_from_config(config, None, device=device)
    params = config.model.params
    factor = 2 ** (len(params.first_stage_config.params.ddconfig.ch_mult) - 1)
    latent = torch.randn(1, params.channels, size // factor, size // factor, device=device)
    width = params.unet_config.params.context_dim
    sampler = make_sampler(options.sampler, model)
    for blocks in (False, True):
        name = "a checkpoint a step" + (" and a block" if blocks else "")
        with block_checkpoints(model, blocks):
            report(f"chain of {options.steps} steps, {name}", lambda: chain(sampler, latent, width, options.steps))
    for blocks in (False, True):
        name = "checkpointed blocks" if blocks else "whole"
        with block_checkpoints(model, blocks):
            report(f"decoder, {name}", lambda: decode(model, latent))


def report(name: str, work: Callable[[], None]) -> None:
    """Run `work` and print its peak and its time."""
    start = time.perf_counter()
    with live_peak() as counter:
        work()
    print(f"{name:48} {counter.peak / GIB:7.2f} GiB {time.perf_counter() - start:8.1f} s", flush=True)


def chain(sampler: Any, latent: Tensor, width: int, steps: int) -> None:
    """Gradient of the final latents with respect to the weights of every step, guidance on."""

    def encode(texts: list[str]) -> Tensor:
        return torch.randn(len(texts), 77, width, device=latent.device)

    control = SpatialControl.build([LAYOUT], encode)
    weights = torch.ones(len(sampler.schedule(steps)), 2, 1, device=latent.device, requires_grad=True)
    samples, _ = sampler.sample(
        S=steps,
        batch_size=1,
        shape=latent.shape[1:],
        conditioning=encode([PROMPT]),
        unconditional_conditioning=encode([""]),
        unconditional_guidance_scale=7.5,
        x_T=latent,
        control=control,
        weights=weights,
        checkpoint_steps=True,
        verbose=False,
    )
    torch.autograd.grad(samples.square().sum(), weights)


def decode(model: Any, latent: Tensor) -> None:
    """Gradient of the picture with respect to the latents."""
    latent = latent.clone().requires_grad_()
    torch.autograd.grad(model.decode_first_stage(latent).square().sum(), latent)


def unet(options: argparse.Namespace) -> None:
    """Seconds of a guided call with and without control, beside the library's; kept as JSON with --out."""
    threads = options.threads or 1
    torch.set_num_threads(threads)
    size = options.size or 256
    rows = measure(size, options.rounds, options.gradient)
    for name, row in rows.items():
        print(f"{name:36} {row['median']:7.2f} s  {row['ratio']:5.2f} of {LIBRARY}", flush=True)
    if options.out:
        settings = {"size": size, "threads": threads, "rounds": options.rounds, "gradient": options.gradient}
        write_json(options.out, {"settings": {**settings, "torch": torch.__version__}, "calls": rows})


def start_up(options: argparse.Namespace) -> None:
    """Seconds until a script answers or draws, and memory of loading; kept as JSON with --out."""
    threads = options.threads or 1
    rows = startup.measure(project_file(options.config), options.rounds, threads)
    print("\n".join(startup.lines(rows)))
    if options.out:
        settings = {"rounds": options.rounds, "threads": threads, "torch": torch.__version__}
        write_json(options.out, {"settings": settings, **rows})


def main() -> int:
    """Run what the flags say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="?", choices=("speed", "memory", "unet", "startup"), help="(all but startup)")
    parser.add_argument("--config", type=Path, default=SD_CONFIG, help="of the model for memory and startup")
    parser.add_argument("--size", type=int, help="pixels a side (512 for memory, 256 for unet)")
    parser.add_argument("--rounds", type=int, default=5, help="of unet, after a warm-up, and startup (5)")
    parser.add_argument("--gradient", action="store_true", help="unet: forward and backward")
    parser.add_argument("--out", type=Path, metavar="JSON", help="of unet and startup")
    parser.add_argument("--steps", type=int, default=2, help="of the chain, for memory (2)")
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default="plms", help="for memory (plms)")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        for name, run in (("speed", speed), ("memory", memory), ("unet", unet)):
            if options.what in (None, name):
                run(options)
        if options.what == "startup":  # asked for by name alone, since it writes gigabytes
            start_up(options)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
