"""Data sets and loaders named in configs.

A training config describes its data with class names and arguments; :class:`DataModuleFromConfig` builds the
data sets from that description when training starts, not when the config is read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, IterableDataset

Config = Mapping[str, Any]


class Txt2ImgIterableBaseDataset(IterableDataset[Any]):
    """An iterable data set of text and image pairs that knows how many samples it holds.

    Subclasses fill ``sample_ids`` with what identifies one sample and yield dictionaries from ``__iter__``.
    """

    def __init__(self, num_records: int = 0, valid_ids: list[Any] | None = None, size: int = 256) -> None:
        super().__init__()
        self.num_records = num_records
        self.valid_ids = valid_ids
        self.sample_ids = valid_ids
        self.size = size

    def __len__(self) -> int:
        return self.num_records

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class DataModuleFromConfig(pl.LightningDataModule):
    """Training, validation and test data built from ``{"target": ..., "params": ...}`` descriptions.

    Args:
        batch_size: samples a batch, for every split.
        train, validation, test: a description of each split's data set; a split left out has no loader.
        num_workers: loader processes; 0 loads in the training process. Twice the batch size when left out,
            as the published configs expect.
        shuffle_train: draw the training samples in random order. Data made on the fly needs no shuffling.
        drop_last: leave out a last training batch that is not full.
    """

    def __init__(
        self,
        batch_size: int,
        train: Config | None = None,
        validation: Config | None = None,
        test: Config | None = None,
        num_workers: int | None = None,
        shuffle_train: bool = True,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = batch_size * 2 if num_workers is None else num_workers
        self.shuffle_train = shuffle_train
        self.drop_last = drop_last
        self.dataset_configs: dict[str, Config] = {
            split: config
            for split, config in (("train", train), ("validation", validation), ("test", test))
            if config is not None
        }
        self.datasets: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Builds every described data set that is not there yet. Raises what the data sets raise."""
        from ldm.util import instantiate_from_config

        for split, config in self.dataset_configs.items():
            if split not in self.datasets:
                self.datasets[split] = instantiate_from_config(config)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=self.shuffle_train, drop_last=self.drop_last)

    def val_dataloader(self) -> Any:
        return self._loader("validation") if "validation" in self.datasets else []

    def test_dataloader(self) -> Any:
        return self._loader("test") if "test" in self.datasets else []

    def _loader(self, split: str, *, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Any]:
        dataset = self.datasets[split]
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            shuffle=shuffle and not isinstance(dataset, IterableDataset),
            drop_last=drop_last,
            persistent_workers=self.num_workers > 0,
        )
