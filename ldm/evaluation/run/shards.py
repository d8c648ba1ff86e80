"""Sharing a run among processes and machines: which part is whose, and locks against a second run.

Who starts the processes is not our business: torchrun, Lightning's launcher or a cluster's, which tell each process
its rank by the environment, or Ray.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm import lightning
from ldm.locks import remove_leftovers, taken
from ldm.util import UserError


@dataclass(frozen=True)
class Shard:
    """Part ``rank`` (from 0) of ``count`` equal parts of a run."""

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise UserError(f"shard {self.rank} of {self.count} does not exist; ranks go from 0 to the count less one")

    def takes(self, index: int) -> bool:
        """Whether entry `index` of the run's list belongs here: every count-th one, so that parts are alike."""
        return index % self.count == self.rank

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.rank}-of-{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard of "2/8". UserError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise UserError(f"--shard {text} is not understood; write rank/count, as in 0/4")
    return Shard(int(found[1]), int(found[2]))


def shard_of(environment: Mapping[str, str]) -> Shard:
    """The shard that a launcher's variables say; the whole run where there are none.

    torchrun sets RANK and WORLD_SIZE; Lightning's launcher WORLD_SIZE, NODE_RANK and LOCAL_RANK, with as many
    processes on every node (LOCAL_WORLD_SIZE; all of them on one node where that is not set).
    """
    if "WORLD_SIZE" not in environment or not {"RANK", "LOCAL_RANK"} & set(environment):
        return Shard()
    try:
        count = int(environment["WORLD_SIZE"])
        if "RANK" in environment:
            return Shard(int(environment["RANK"]), count)
        on_node = int(environment.get("LOCAL_WORLD_SIZE", count))
        return Shard(int(environment.get("NODE_RANK", 0)) * on_node + int(environment["LOCAL_RANK"]), count)
    except ValueError as error:
        raise UserError("RANK and WORLD_SIZE must be whole numbers; leave them out to run in one process") from error


@contextlib.contextmanager
def hold(folder: Path, shard: Shard, prepare: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Keep `folder` for this shard while the block runs; the lock vanishes with the process, however that ends.

    Shards of one run (the same count, another rank) may hold it together. Starts come one after the other: each takes
    its own lock, looks at those of other counts, and calls `prepare`, such as the writing of settings, before another
    may start. Where nobody else is at work, the half-written files of killed runs are removed.

    Raises:
        UserError: the same shard, or a run of another number of shards, is at work in `folder`.
    """
    locks = folder / ".locks"
    busy = (
        f"another run is at work in {folder}; wait for it, choose another --outdir, or start both as shards of one run"
    )
    with contextlib.ExitStack() as own:
        with taken(locks / "start", busy, timeout=60):
            own.enter_context(taken(locks / shard.name, busy))
            alone = True
            for path in locks.glob("*-of-[0-9]*"):
                if path.name != shard.name:
                    try:
                        with taken(path, busy):
                            pass
                    except UserError:
                        alone = False
                        if not path.name.endswith(f"-of-{shard.count}"):
                            raise
            if alone:
                remove_leftovers(folder)
            prepare()
        yield


def _call(work: Callable[[Shard], Any], shard: Shard, samples_only: bool) -> Any:
    """What a Ray task is made of: it takes functions only."""
    if samples_only:
        lightning.leave_out()
    return work(shard)


def run_on_ray(count: int, work: Callable[[Shard], Any], project: Path) -> list[Any]:
    """`work` on each of `count` shards as Ray tasks, on the cluster that the environment names or on this machine.

    Args:
        work: can be pickled; its paths are absolute, and on several machines on a shared disk.
        project: folder of the packages that a worker imports.

    Raises:
        UserError: Ray is not installed, or a mistake of the user's that a task met.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray; install it with `pip install ray`, or use torchrun") from None
    if not ray.is_initialized():
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(project)}}, log_to_driver=True)
    gpus = ray.cluster_resources().get("GPU", 0)
    task = ray.remote(_call).options(num_cpus=1, num_gpus=min(1.0, gpus / count) if gpus else 0)
    try:
        return list(ray.get([task.remote(work, Shard(rank, count), lightning.left_out()) for rank in range(count)]))
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        raise
