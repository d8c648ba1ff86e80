"""Data sets of image folders: LSUN, ImageNet and its super-resolution pairs, and the loaders around them."""

from __future__ import annotations

import pickle
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data import imagenet, lsun
from ldm.data.base import DataModuleFromConfig, Txt2ImgIterableBaseDataset, WrappedDataset, worker_init_fn
from ldm.util import UserError, get_obj_from_str
from tests.training_parts import target


def write(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (48, 40)) -> None:
    """A plain image with a black left quarter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    image.paste((0, 0, 0), (0, 0, size[0] // 4, size[1]))
    image.save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes, the second with two images."""
    for name, count in (("n03", 1), ("n01", 1), ("n02", 2)):
        for i in range(count):
            write(tmp_path / "train" / name / f"{name}_{i}.JPEG", (200, 60 * i, 30))
    (tmp_path / "train" / "n01" / "readme.txt").touch()
    return tmp_path / "train"


def test_lsun(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "images" / name, (255, 0, 0))
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    data = lsun.LSUNBase(tmp_path / "list.txt", tmp_path / "images", size=16, flip_p=0.0)
    sample = data[1]
    assert len(data) == 2 and sample["relative_file_path_"] == "b.png"
    assert sample["image"].shape == (16, 16, 3) and sample["image"].dtype == np.float32
    assert sample["image"].min() >= -1 and sample["image"].max() <= 1
    assert sample["image"][8, 15, 0] > 0.95 and sample["image"][8, 0, 0] < -0.9  # black is left
    mirrored = lsun.LSUNChurchesTrain(txt_file=tmp_path / "list.txt", data_root=tmp_path / "images", flip_p=1.0)[0]
    assert mirrored["image"].shape == (40, 40, 3) and mirrored["image"][8, 0, 0] > 0.95
    cats = lsun.LSUNCatsValidation(txt_file=tmp_path / "list.txt", data_root=tmp_path / "images", size=8)
    assert cats.flip_p == 0.0 and cats[0]["image"].shape == (8, 8, 3)


def test_lsun_mistakes(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    (tmp_path / "a.png").write_text("no image")
    for args, words in (
        ((tmp_path / "list.txt", tmp_path / "none"), "is not a folder"),
        ((tmp_path / "none.txt", tmp_path), "cannot be read"),
        ((tmp_path / "empty.txt", tmp_path), "is empty"),
    ):
        with pytest.raises(UserError, match=words):
            lsun.LSUNBase(*args)
    with pytest.raises(UserError, match="interpolation 'cubist' is unknown"):
        lsun.LSUNBase(tmp_path / "list.txt", tmp_path, interpolation="cubist")
    with pytest.raises(UserError, match="the list names b.png, but image .*b.png does not exist"):
        lsun.LSUNBase(tmp_path / "list.txt", tmp_path)  # told before anything is trained
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match="not an image"):
        lsun.LSUNBase(tmp_path / "list.txt", tmp_path)[0]


def test_imagenet(classes: Path) -> None:
    data = imagenet.ImageNetTrain(data_root=classes, size=16)
    assert [data.samples[i][1] for i in range(len(data))] == [0, 1, 1, 2]  # classes in the order of their names
    sample = data[2]
    assert sample["class_label"] == 1 and sample["synset"] == "n02" and sample["relpath"] == "n02/n02_1.JPEG"
    assert sample["image"].shape == (16, 16, 3) and abs(sample["image"]).max() <= 1
    assert "image" not in imagenet.ImageNetTrain(process_images=False, data_root=classes)[0]
    some = imagenet.ImageNetValidation(data_root=classes, config={"size": 8, "sub_indices": "0,2-2"})
    assert [some[i]["synset"] for i in range(len(some))] == ["n01", "n03"] and some[0]["image"].shape == (8, 8, 3)


@pytest.mark.parametrize("degradation", ["bsrgan", "bsrgan_light", "pil_bicubic", "cv_area", "cv_nearest"])
def test_super_resolution(classes: Path, degradation: str) -> None:
    data = imagenet.ImageNetSRTrain(size=32, degradation=degradation, downscale_f=4, data_root=classes)
    torch.manual_seed(0)
    sample = data[1]
    assert sample["image"].shape == (32, 32, 3) and sample["LR_image"].shape == (8, 8, 3)
    assert all(sample[k].dtype == np.float32 and abs(sample[k]).max() <= 1 for k in ("image", "LR_image"))
    assert abs(sample["image"].mean() - sample["LR_image"].mean()) < 0.3
    torch.manual_seed(0)
    assert np.array_equal(data[1]["LR_image"], sample["LR_image"])


def test_lists_of_images(classes: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([3, 1]))
    (tmp_path / "a.txt").write_text("3\n1\n")
    (tmp_path / "a.p").write_bytes(pickle.dumps([3, 1]))  # the published form
    for name in ("a.npy", "a.txt", "a.p"):
        data = imagenet.ImageNetSRValidation(
            size=8, degradation="pil_box", data_root=classes, indices=tmp_path / name, random_crop=False
        )
        assert [data[i]["relpath"] for i in range(len(data))] == ["n03/n03_0.JPEG", "n02/n02_0.JPEG"]
    (tmp_path / "evil.p").write_bytes(pickle.dumps(Path))
    for name, words in (("evil.p", "no list of image numbers"), ("none.npy", "no list of image numbers")):
        with pytest.raises(UserError, match=words):
            imagenet.read_indices(tmp_path / name, 4)
    with pytest.raises(UserError, match="names image 3, but there are 2"):
        imagenet.read_indices(tmp_path / "a.npy", 2)


def test_imagenet_mistakes(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no folders of images"):
        imagenet.ImageNetTrain(data_root=tmp_path / "empty")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="ILSVRC2012_validation/data is not a folder"):
        imagenet.ImageNetValidation()
    for options, words in (
        ({"degradation": "blur"}, "degradation 'blur' is unknown"),
        ({"size": 30}, "not a multiple"),
        ({"min_crop_f": 0.0}, "crops need"),
    ):
        with pytest.raises(UserError, match=words):
            imagenet.ImageNetSR(**{"size": 32, "degradation": "bsrgan", "data_root": classes, **options})
    for chosen, words in (("0-9", "has no class 9"), ("a-b", "no list of class numbers")):
        with pytest.raises(UserError, match=words):
            imagenet.ImageNetTrain(data_root=classes, sub_indices=chosen)


def test_published_names_may_stand_in_configs() -> None:
    kinds = ("lsun.LSUNBedrooms", "lsun.LSUNChurches", "lsun.LSUNCats", "imagenet.ImageNet", "imagenet.ImageNetSR")
    splits = [kind + split for kind in kinds for split in ("Train", "Validation")]
    for name in ("base.Txt2ImgIterableBaseDataset", *splits):
        assert callable(get_obj_from_str(f"ldm.data.{name}"))


class Numbers(Txt2ImgIterableBaseDataset):
    """Yields its sample ids."""

    def __init__(self, count: int) -> None:
        super().__init__(count, list(range(count)))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from ({"id": i} for i in self.sample_ids or ())


def test_workers_share_an_iterable_data_set() -> None:
    data = Numbers(7)
    assert len(data) == 7
    loader = DataLoader(data, batch_size=None, num_workers=2, worker_init_fn=worker_init_fn)
    assert sorted(int(sample["id"]) for sample in loader) == list(range(7))


def test_loaders(classes: Path) -> None:
    described = target("data.imagenet.ImageNetTrain", data_root=str(classes), size=8)
    module = DataModuleFromConfig(3, train=described, predict=described, wrap=True, num_workers=0)
    module.setup()
    assert isinstance(module.datasets["train"], WrappedDataset)
    [batch] = module.train_dataloader()  # the last, short one is left out
    assert batch["image"].shape == (3, 8, 8, 3) and batch["class_label"].shape == (3,)
    assert [b["class_label"].tolist() for b in module.predict_dataloader()] == [[0, 1, 1], [2]]
    assert module.val_dataloader() == [] and module.test_dataloader() == []
    with pytest.raises(UserError, match="no data.params.train"):
        DataModuleFromConfig(2, validation=described).train_dataloader()
    with pytest.raises(UserError, match="batch_size must be a whole number from 1"):
        DataModuleFromConfig(0)
    with pytest.raises(UserError, match="holds 4 samples, fewer than a batch of 5; lower data.params.batch_size"):
        DataModuleFromConfig(5, train=described).setup()


def trainer_at(batches: int, **values: int) -> Any:
    """A trainer with so many batches of the epoch behind it."""
    progress = types.SimpleNamespace(current=types.SimpleNamespace(ready=batches))
    loop = types.SimpleNamespace(epoch_loop=types.SimpleNamespace(batch_progress=progress))
    return types.SimpleNamespace(fit_loop=loop, **{"global_rank": 0, "world_size": 1, **values})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_the_epoch_was_left(workers: int, tmp_path: Path) -> None:
    for n in range(7):
        write(tmp_path / f"{n}.png", (255, 0, 0))
    (tmp_path / "list.txt").write_text("".join(f"{n}.png\n" for n in range(7)))
    described = target("data.lsun.LSUNBase", txt_file=str(tmp_path / "list.txt"), data_root=str(tmp_path), size=8)

    def epochs(seed: int, loaders: int, behind: int = 0, state: dict[str, int] | None = None) -> list[list[Any]]:
        """Two epochs of names with what tells a mirrored image from another."""
        torch.manual_seed(seed)
        module = DataModuleFromConfig(2, train=described, num_workers=loaders)
        module.trainer = trainer_at(behind)
        module.setup()
        loader: Any = module.train_dataloader()
        if state is not None:
            loader.load_state_dict(state)
        found = []
        for _ in range(2):
            found.append([(b["relative_file_path_"], b["image"][:, 4, 0].tolist()) for b in loader])
            module.trainer = trainer_at(0)
        assert len(loader) == 3 and loader.state_dict() == {
            "epoch": 1 + (behind > 0) * (state or {"epoch": 0})["epoch"],
            "seed": 5,
        }
        return found

    torch_state = torch.get_rng_state()
    whole = epochs(5, workers)
    assert whole == epochs(5, 2 - workers) and whole[0] != whole[1]
    assert {len(set(map(str, (image for _, image in epoch)))) > 1 for epoch in whole} == {True}  # some are mirrored
    later = epochs(6, workers, behind=2, state={"epoch": 0, "seed": 5})
    assert later == [whole[0][2:], whole[1]]
    torch.set_rng_state(torch_state)


def test_processes_share_the_samples(classes: Path) -> None:
    """Without shuffling the batches of two processes together are those of one."""
    described = target("data.imagenet.ImageNetTrain", data_root=str(classes), size=8)
    seen = []
    for rank in range(2):
        module = DataModuleFromConfig(1, train=described, num_workers=0, shuffle_train=False)
        module.trainer = trainer_at(0, global_rank=rank, world_size=2)
        module.setup()
        seen.append([batch["relpath"][0] for batch in module.train_dataloader()])
        numbers = module.share(Numbers(5))
        assert numbers.valid_ids == [[0, 2, 4], [1, 3]][rank]
    assert seen == [["n01/n01_0.JPEG", "n02/n02_1.JPEG"], ["n02/n02_0.JPEG", "n03/n03_0.JPEG"]]
