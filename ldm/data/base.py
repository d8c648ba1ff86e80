"""Data sets and loaders that a config describes by class names and arguments; built when training starts."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, get_worker_info

from ldm.lightning import LightningDataModule
from ldm.random_state import seeded
from ldm.util import UserError, instantiate_from_config

Config = Mapping[str, Any]


class Txt2ImgIterableBaseDataset(IterableDataset[Any]):
    """An iterable data set of text and image pairs that knows how many samples it holds.

    Subclasses yield dictionaries of the samples that ``sample_ids`` names, which is shared out over a loader's workers.
    """

    def __init__(self, num_records: int = 0, valid_ids: list[Any] | None = None, size: int = 256) -> None:
        super().__init__()
        self.num_records, self.size = num_records, size
        self.valid_ids = self.sample_ids = valid_ids

    def __len__(self) -> int:
        return self.num_records

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class WrappedDataset(Dataset[Any]):
    """Anything with a length and items, as a data set."""

    def __init__(self, dataset: Any) -> None:
        self.data = dataset

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


def worker_init_fn(worker_id: int) -> None:
    """Called in a loader's worker: give it its part of an iterable data set's samples, and its own numpy seed."""
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    if isinstance(dataset, Txt2ImgIterableBaseDataset) and dataset.valid_ids is not None:
        # Strided, so that every worker gets as many samples as the others, or one fewer.
        dataset.sample_ids = dataset.valid_ids[worker_id :: info.num_workers]
    np.random.seed((info.seed + worker_id) % 2**32)


class Draws(DistributedSampler[Any]):
    """The samples of an epoch, each with a seed for what it draws itself: a function of run, epoch and index alone.

    `epoch` and `skip`, the samples to leave out at the epoch's beginning, are set by :class:`TrainingLoader`.
    """

    skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Nothing: Lightning's number of the epoch moves on where a run is stopped in the middle of one."""

    def __iter__(self) -> Iterator[Any]:
        for index in islice(super().__iter__(), self.skip, None):
            text = f"{self.seed}/{self.epoch}/{index}"
            yield index, int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


class Drawn(Dataset[Any]):
    """A data set by the pairs of :class:`Draws`: a sample is the same in any worker and at any time of the epoch."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, draw: tuple[int, int]) -> Any:
        index, seed = draw
        with seeded(seed):
            return self.data[index]


class TrainingLoader(DataLoader[Any]):
    """Training batches that go on, after a run is resumed, where its epoch was left.

    Lightning saves and restores the number of the epoch with a checkpoint, by this class's two methods.

    Args:
        dataset: with items (then `seed`, `rank` and `world` say which) or iterable.
        done: gives the number of the epoch's batches that are behind.
        seed: of the run.
        rank, world: this process and how many train together.
        shuffle: draw in random order.
        options: of the loader.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        done: Callable[[], int],
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = False,
        **options: Any,
    ) -> None:
        self.done, self.epoch = done, -1
        self.draws: Draws | None = None
        if not isinstance(dataset, IterableDataset):
            self.draws = Draws(dataset, world, rank, shuffle=shuffle, seed=seed)
            dataset = Drawn(dataset)
        super().__init__(dataset, sampler=self.draws, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        done = self.done()
        if not done:
            self.epoch += 1
        if self.draws is None:
            yield from islice(super().__iter__(), done, None)
        else:
            self.draws.epoch, self.draws.skip = self.epoch, done * (self.batch_size or 1)
            yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """What tells the order of the samples: the run's seed, and which epoch it is in."""
        return {"epoch": self.epoch, "seed": self.draws.seed if self.draws else 0}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Be in the epoch of a checkpoint."""
        self.epoch = state["epoch"]
        if self.draws is not None:
            self.draws.seed = state["seed"]


class DataModuleFromConfig(LightningDataModule):
    """Training, validation and test data built from ``{"target": ..., "params": ...}`` descriptions.

    Args:
        batch_size: samples a batch, for every split.
        train, validation, test, predict: a description of each split's data set; a split left out has no loader.
        wrap: take data sets that only have a length and items.
        num_workers: loader processes; 0 loads in the training process. Twice the batch size by default, as published.
        shuffle_train, shuffle_test_loader, shuffle_val_dataloader: draw these in random order.
        drop_last: leave out a last training batch that is not full.
        use_worker_init_fn: give every worker its own numpy seed and part of an iterable data set (always done for a
            :class:`Txt2ImgIterableBaseDataset`).
    """

    def __init__(
        self,
        batch_size: int,
        train: Config | None = None,
        validation: Config | None = None,
        test: Config | None = None,
        predict: Config | None = None,
        wrap: bool = False,
        num_workers: int | None = None,
        shuffle_train: bool = True,
        drop_last: bool = True,
        shuffle_test_loader: bool = False,
        use_worker_init_fn: bool = False,
        shuffle_val_dataloader: bool = False,
    ) -> None:
        super().__init__()
        workers = min(2 * batch_size, 512) if num_workers is None else num_workers
        for name, value, least, most in (("batch_size", batch_size, 1, 10**6), ("num_workers", workers, 0, 512)):
            if not isinstance(value, int) or not least <= value <= most:
                raise UserError(f"data.params.{name} must be a whole number from {least} to {most}, not {value}")
        self.wrap, self.use_worker_init_fn = wrap, use_worker_init_fn
        self.shuffle_test_loader, self.shuffle_val_dataloader = shuffle_test_loader, shuffle_val_dataloader
        self.batch_size, self.shuffle_train, self.drop_last = batch_size, shuffle_train, drop_last
        self.num_workers, self.seed = workers, torch.initial_seed() % 2**63
        described = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.dataset_configs = {split: config for split, config in described.items() if config is not None}
        self.datasets: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Builds every described data set that is not there yet. Raises what the data sets raise."""
        for split, config in self.dataset_configs.items():
            if split not in self.datasets:
                dataset = self.share(instantiate_from_config(config))
                self.datasets[split] = WrappedDataset(dataset) if self.wrap else dataset
                if hasattr(dataset, "__len__"):
                    self._check_size(split, config["target"], len(dataset))

    def _check_size(self, split: str, target: str, count: int) -> None:
        if count == 0:
            raise UserError(f"the {split} data set {target} is empty; look at its parameters")
        _, world = self._process()
        if split == "train" and self.drop_last and count < self.batch_size * world:
            batch = f"a batch of {self.batch_size}" + (f" in each of {world} processes" if world > 1 else "")
            raise UserError(
                f"the train data set {target} holds {count} samples, fewer than {batch}; "
                "lower data.params.batch_size, or set data.params.drop_last=false"
            )

    def _process(self) -> tuple[int, int]:
        """The number of this process and how many train together."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def share(self, dataset: Any) -> Any:
        """`dataset`, an iterable one with this process's part of its samples."""
        rank, world = self._process()
        if world > 1 and isinstance(dataset, Txt2ImgIterableBaseDataset) and dataset.valid_ids is not None:
            dataset.valid_ids = dataset.sample_ids = dataset.valid_ids[rank::world]
        return dataset

    def train_dataloader(self) -> DataLoader[Any]:
        dataset, (rank, world) = self._dataset("train"), self._process()
        options: dict[str, Any] = {"seed": self.seed, "rank": rank, "world": world, "shuffle": self.shuffle_train}
        return TrainingLoader(dataset, self._done, drop_last=self.drop_last, **options, **self._options(dataset))

    def _done(self) -> int:
        return 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def val_dataloader(self) -> Any:
        shuffle = self.shuffle_val_dataloader
        return self._loader("validation", shuffle=shuffle) if "validation" in self.datasets else []

    def test_dataloader(self) -> Any:
        return self._loader("test", shuffle=self.shuffle_test_loader) if "test" in self.datasets else []

    def predict_dataloader(self) -> Any:
        return self._loader("predict") if "predict" in self.datasets else []

    def _dataset(self, split: str) -> Dataset[Any]:
        if split not in self.datasets:
            raise UserError(f"the config has no data.params.{split}; describe that data set there")
        return self.datasets[split]

    def _options(self, dataset: Dataset[Any]) -> dict[str, Any]:
        shares = self.use_worker_init_fn or isinstance(dataset, Txt2ImgIterableBaseDataset)
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": worker_init_fn if shares else None,
            "generator": torch.Generator().manual_seed(self.seed),  # no loader draws from the generator of training
        }

    def _loader(self, split: str, *, shuffle: bool = False) -> DataLoader[Any]:
        dataset, (rank, world) = self._dataset(split), self._process()
        shuffle = shuffle and not isinstance(dataset, IterableDataset)
        sampler: DistributedSampler[Any] | None = None
        if world > 1 and not isinstance(dataset, IterableDataset):
            # Deals the samples out in turn: without shuffling the processes' batches together are those of one process.
            sampler = DistributedSampler(dataset, world, rank, shuffle=shuffle)
        return DataLoader(dataset, shuffle=shuffle and sampler is None, sampler=sampler, **self._options(dataset))
