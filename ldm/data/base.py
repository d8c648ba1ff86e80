"""Data sets and loaders that a config describes by class names and arguments; built when training starts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, get_worker_info

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


def share_ids(worker_id: int) -> None:
    """Called in a loader's worker: give it its part of an iterable data set's samples, and its own numpy seed."""
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    if isinstance(dataset, Txt2ImgIterableBaseDataset) and dataset.valid_ids is not None:
        # Strided, so that every worker gets as many samples as the others, or one fewer.
        dataset.sample_ids = dataset.valid_ids[worker_id :: info.num_workers]
    np.random.seed((info.seed + worker_id) % 2**32)


class DataModuleFromConfig(pl.LightningDataModule):
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
        if batch_size < 1:
            raise UserError(f"data.params.batch_size must be at least 1, not {batch_size}")
        self.wrap, self.use_worker_init_fn = wrap, use_worker_init_fn
        self.shuffle_test_loader, self.shuffle_val_dataloader = shuffle_test_loader, shuffle_val_dataloader
        self.batch_size, self.shuffle_train, self.drop_last = batch_size, shuffle_train, drop_last
        self.num_workers = batch_size * 2 if num_workers is None else num_workers
        described = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.dataset_configs = {split: config for split, config in described.items() if config is not None}
        self.datasets: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Builds every described data set that is not there yet. Raises what the data sets raise."""
        for split, config in self.dataset_configs.items():
            if split not in self.datasets:
                dataset = self.share(instantiate_from_config(config))
                self.datasets[split] = WrappedDataset(dataset) if self.wrap else dataset
                if hasattr(dataset, "__len__") and len(dataset) == 0:
                    raise UserError(f"the {split} data set {config['target']} is empty; look at its parameters")

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
        return self._loader("train", shuffle=self.shuffle_train, drop_last=self.drop_last)

    def val_dataloader(self) -> Any:
        shuffle = self.shuffle_val_dataloader
        return self._loader("validation", shuffle=shuffle) if "validation" in self.datasets else []

    def test_dataloader(self) -> Any:
        return self._loader("test", shuffle=self.shuffle_test_loader) if "test" in self.datasets else []

    def predict_dataloader(self) -> Any:
        return self._loader("predict") if "predict" in self.datasets else []

    def _loader(self, split: str, *, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Any]:
        if split not in self.datasets:
            raise UserError(f"the config has no data.params.{split}; describe that data set there")
        dataset = self.datasets[split]
        rank, world = self._process()
        shuffle = shuffle and not isinstance(dataset, IterableDataset)
        sampler: DistributedSampler[Any] | None = None
        if world > 1 and not isinstance(dataset, IterableDataset):
            # Lightning's own sampler always shuffles the training data. This one deals the samples out in turn, so
            # that without shuffling the processes' batches together are the batch that one process would see.
            sampler = DistributedSampler(dataset, world, rank, shuffle=shuffle)
        shares = self.use_worker_init_fn or isinstance(dataset, Txt2ImgIterableBaseDataset)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            shuffle=shuffle and sampler is None,
            sampler=sampler,
            drop_last=drop_last,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=share_ids if shares else None,
        )
