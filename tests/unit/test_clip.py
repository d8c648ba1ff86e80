"""The small CLIP's losses and training step, and opening CLIP files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ldm.models.clip import ObjectNames, SmallCLIP, contrastive_loss, positive_pairs, uncertain_pairs
from ldm.models.clip_augment import half_denoised, random_strength
from ldm.modules.encoders import openai_clip as opening
from ldm.modules.encoders.openai_clip import load_clip, openai_names, save_clip
from ldm.modules.encoders.tokenizer import DEFAULT_VOCAB, WordTokenizer
from ldm.util import UserError

VOCABULARY = str(DEFAULT_VOCAB)
TWINS = ["A cat is to the left of a teddy bear.", "A cat is to the right of a teddy bear."]
CAPTIONS = [*TWINS, "A photo of a cat", "A photo of one cat", "a photo of nothing", "a dog and a bus"]
LABELS = torch.tensor([-1, -1, 6, 6, -1, -1])


@pytest.fixture
def small() -> SmallCLIP:
    torch.manual_seed(0)
    return SmallCLIP(VOCABULARY, vision_layers=1, vision_width=64, text_width=64, text_layers=1, embed_dim=16)


@pytest.fixture
def names() -> ObjectNames:
    return ObjectNames(["cat", "dog", "bus", "teddy bear"], nothing=["a photo of nothing"])


def batch() -> dict[str, Any]:
    images = F.interpolate(torch.rand(6, 3, 4, 4), (64, 64))  # coarse patterns survive being degraded
    return {"image": images, "caption": CAPTIONS, "label": LABELS}


# ------------------------------------------------------------------------------------------- captions


def test_names_found(names: ObjectNames) -> None:
    found = names.mentioned(["A Cat and a teddy bear", "a catalogue", "a photo of nothing"])
    assert found.int().tolist() == [[1, 0, 0, 1, 0], [0] * 5, [0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (TWINS[0], "A teddy bear is to the left of a cat."),
        ("Above the dog there is a Cat", "Above the cat there is a dog"),
        ("a cat and a dog", None),  # true either way
        ("a cat next to a dog on top of it", None),
        ("a cat on the left", None),
        ("a cat left of a dog and a bus", None),
    ],
)
def test_swapping_makes_directions_false(names: ObjectNames, caption: str, expected: str | None) -> None:
    assert names.swapped(caption) == expected


def test_which_pairs_match_and_which_may(names: ObjectNames) -> None:
    positive = positive_pairs(CAPTIONS, LABELS)
    assert positive.nonzero().tolist() == [[0, 0], [1, 1], [2, 2], [2, 3], [3, 2], [3, 3], [4, 4], [5, 5]]
    directed = torch.tensor([names.swapped(text) is not None for text in CAPTIONS])
    uncertain = uncertain_pairs(names.mentioned(CAPTIONS), directed)  # [image, text]
    assert not uncertain[0, 1] and not uncertain[1, 0]  # twins
    assert uncertain[0, 2] and not uncertain[2, 0]  # the scene has a cat, the crop has no bear
    assert not uncertain[:4, 4].any() and not uncertain[4, :4].any()  # nothing against something


# ------------------------------------------------------------------------------------------- the loss


def test_loss_is_cross_entropy_without_other_matches() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(4, dtype=torch.bool)
    target = torch.arange(4)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    none = torch.full((4,), -math.inf)
    torch.testing.assert_close(contrastive_loss(logits, eye, ~eye & False, none), expected)


def test_false_negatives_do_not_count() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(3, dtype=torch.bool)
    uncertain = torch.zeros(3, 3, dtype=torch.bool)
    uncertain[0, 1] = True
    none = torch.full((3,), -math.inf)
    base = contrastive_loss(logits, eye, uncertain, none)
    changed = logits.clone()
    changed[0, 1] += 5
    torch.testing.assert_close(contrastive_loss(changed, eye, uncertain, none), base)
    assert contrastive_loss(changed, eye, ~eye & False, none) > base
    assert contrastive_loss(logits, eye, uncertain, torch.zeros(3)) > base


def test_training_step_gives_every_weight_a_gradient(small: SmallCLIP) -> None:
    loss = small.loss(torch.rand(6, 3, 64, 64), CAPTIONS, LABELS, torch.arange(6) < 2)
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in small.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_few_steps_learn_the_batch(small: SmallCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "log", lambda *args, **kwargs: None)
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-3)
    data = batch()
    losses = []
    for step in range(60):
        loss = small.training_step(data, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        small.after_step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert small.clip.logit_scale.exp().item() <= small.max_scale * 1.001


def test_validation_counts_what_wins(small: SmallCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr(small, "log", lambda name, value, **kwargs: logged.update({name: float(value)}))
    with torch.no_grad():
        small.validation_step(batch(), 0)
    shares = {f"val/{a}_accuracy{b}" for a in ("crop", "caption", "relation") for b in ("", "_degraded")}
    assert set(logged) == {"val/loss", *shares}
    assert all(0 <= logged[name] <= 1 for name in shares)


def test_rate_warms_up_and_decays(small: SmallCLIP) -> None:
    rates = [small._rate(step) for step in (0, 99, 100, 1499, 2000)]
    assert rates[0] == pytest.approx(0.01) and rates[1] == rates[2] == 1.0
    assert rates[3] < 1e-5 and rates[4] == 0


def test_half_denoised_images() -> None:
    images = torch.rand(8, 3, 64, 64)
    assert torch.equal(half_denoised(images, torch.zeros(8)), images)
    degraded = half_denoised(images, torch.ones(8))
    assert degraded.shape == images.shape and degraded.min() >= 0 and degraded.max() <= 1
    assert (degraded.flatten(1).std(1) < images.flatten(1).std(1)).all()
    strength = random_strength(1000, torch.device("cpu"), untouched=0.5)
    assert 0.4 < (strength == 0).float().mean() < 0.6 and strength.max() <= 1


# ------------------------------------------------------------------------------------------- files


def test_saved_clip_opens_here_and_with_the_clip_package(small: SmallCLIP, tmp_path: Path) -> None:
    clip = pytest.importorskip("clip")
    checkpoint = {f"clip.{name}": value for name, value in small.clip.state_dict().items()}
    save_clip(checkpoint, tmp_path / "clip.safetensors")
    assert (tmp_path / "clip.safetensors").stat().st_size < 3e6
    halves = {name: value.half() for name, value in openai_names(checkpoint).items()}
    torch.save(halves, tmp_path / "clip.pt")
    theirs, _ = clip.load(str(tmp_path / "clip.pt"), device="cpu")
    images, tokens = torch.rand(2, 3, 64, 64), WordTokenizer()(TWINS)
    for name in ("clip.safetensors", "clip.pt"):
        ours = load_clip(tmp_path / name)
        assert ours.resolution == 64
        assert not any(p.requires_grad for p in ours.model.parameters())
        assert {p.dtype for p in ours.model.parameters()} == {torch.float32}
        assert torch.equal(ours.tokenize(TWINS), tokens)
        assert torch.equal(ours.model.encode_image(images), theirs.encode_image(images))
        assert torch.equal(ours.model.encode_text(tokens), theirs.encode_text(tokens))


def test_float32_weights_are_not_rounded(small: SmallCLIP, tmp_path: Path) -> None:
    state = {f"clip.{name}": value for name, value in small.clip.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    model = load_clip(tmp_path / "last.ckpt", "cpu").model
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in small.clip.state_dict().items())


def published_state(clip: Any) -> dict[str, torch.Tensor]:
    """A CLIP with the published vocabulary, context and extra entries, but tiny."""
    state = clip.model.CLIP(8, 32, 1, 64, 16, 77, 49408, 64, 1, 1).state_dict()
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return {**state, **{name: torch.tensor(size) for name, size in sizes.items()}}


def test_published_layout_as_state_dict_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = pytest.importorskip("clip")
    monkeypatch.setattr(opening, "FOLDERS", (tmp_path / "none", tmp_path))
    torch.save(published_state(clip), tmp_path / "ViT-B-32.pt")
    for source in (None, "ViT-B/32", tmp_path / "ViT-B-32.pt"):
        bundle = load_clip(source)
        assert bundle.resolution == 32
        tokens = bundle.tokenize(["a photo of a bus", "word " * 100])
        assert tokens.shape == (2, 77) and torch.equal(tokens[:1], clip.tokenize(["a photo of a bus"]))
        assert bundle.model.encode_text(tokens).shape == (2, 8)


def test_jit_archive(tmp_path: Path) -> None:
    clip = pytest.importorskip("clip")
    state = published_state(clip)

    class Archive(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    archive = Archive()
    for name, value in state.items():  # the names of the archive are those of the state dict
        owner: torch.nn.Module = archive
        *path, last = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(last, value)
    torch.jit.script(archive).save(str(tmp_path / "jit.pt"))
    model = load_clip(tmp_path / "jit.pt").model
    assert torch.equal(model.visual.conv1.weight, state["visual.conv1.weight"])


class Writes(torch.nn.Module):
    """A module whose archive writes a file when it is loaded as a program."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.training = state[1]
        torch.save(state[0], "ran")


def test_code_of_an_archive_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writes()).save("attack.pt")
    torch.jit.load("attack.pt")
    assert Path("ran").exists()  # the archive does what it is made for
    Path("ran").unlink()
    with pytest.raises(UserError, match="attack.pt"):
        load_clip("attack.pt")
    assert not Path("ran").exists()


def test_mistakes_end_in_one_sentence(small: SmallCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FOLDERS", (tmp_path,))
    save_clip(small.clip.state_dict(), tmp_path / "clip.safetensors")
    torch.save(dict(small.clip.state_dict()), tmp_path / "clip.pt")
    for name in ("clip.safetensors", "clip.pt"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(whole[: len(whole) // 2])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"code": Path("x")}, tmp_path / "code.pt")
    sources = [None, "ViT-B/32", tmp_path / "none.pt"]
    sources += [tmp_path / n for n in ("cut-clip.safetensors", "cut-clip.pt", "other.pt", "code.pt")]
    for source in sources:
        with pytest.raises(UserError, match="to get ViT-B/32") as caught:
            load_clip(source)
        assert "\n" not in str(caught.value)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("cat\ndog\n")
    vocabulary = str(tmp_path / "vocab.txt")
    other = SmallCLIP(vocabulary, vision_layers=1, vision_width=64, text_width=64, text_layers=1)
    save_clip(other.clip.state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(UserError, match="another vocabulary"):
        load_clip(tmp_path / "clip.safetensors")
