"""Conditioners: names of Stable Diffusion v1 checkpoints, tokens, the small trainable one, and the golden vectors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm.modules.encoders import modules
from ldm.modules.encoders.modules import (
    BERTEmbedder,
    BERTTokenizer,
    ClassEmbedder,
    FrozenCLIPEmbedder,
    FrozenClipImageEmbedder,
    FrozenCLIPTextEmbedder,
    SmallCLIPTextEmbedder,
    SpatialRescaler,
    TextTower,
    TransformerEmbedder,
)
from ldm.modules.encoders.text_tower import PublishedTextNames, TextTransformer
from ldm.modules.encoders.tokenizer import clip_tokens
from ldm.util import UserError
from tests.golden_data import fill_, golden, relative_error, tensor

CAPTIONS = [
    "a photo of a cat",
    "The motorcycle is parking to the right of a bus.",
    "Don't  panic, it's 42 o'clock!!",
    "naïve café — 日本",
    "",
    "word " * 100,
]


def published_listing() -> dict[str, tuple[int, ...]]:
    """Name and shape of the 197 text encoder entries of a Stable Diffusion v1 checkpoint."""
    width, vocabulary, length = 768, 49408, 77
    names: dict[str, tuple[int, ...]] = {
        "embeddings.position_ids": (1, length),
        "embeddings.token_embedding.weight": (vocabulary, width),
        "embeddings.position_embedding.weight": (length, width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    for layer in range(12):
        for part, (rows, columns) in {
            **{f"self_attn.{p}_proj": (width, width) for p in ("q", "k", "v", "out")},
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            names[f"encoder.layers.{layer}.{part}.weight"] = (rows, columns)
            names[f"encoder.layers.{layer}.{part}.bias"] = (rows,)
        for norm in ("layer_norm1", "layer_norm2"):
            names[f"encoder.layers.{layer}.{norm}.weight"] = (width,)
            names[f"encoder.layers.{layer}.{norm}.bias"] = (width,)
    return {f"transformer.text_model.{name}": shape for name, shape in names.items()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tower with the published vocabulary that costs nothing to build."""
    monkeypatch.setitem(modules.PUBLISHED_TOWERS, "tiny", TextTower(width=8, layers=2, heads=2))
    return "tiny"


def test_names_and_shapes_of_stable_diffusion_v1() -> None:
    with torch.device("meta"):
        encoder = FrozenCLIPEmbedder()
    state = encoder.state_dict()
    listing = published_listing()
    assert len(listing) == 197
    assert {name: tuple(value.shape) for name, value in state.items()} == listing
    assert state["transformer.text_model.embeddings.position_ids"].dtype == torch.int64
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("position_ids", ["int64", "half", "absent"])
@pytest.mark.parametrize("meta", [True, False])
def test_strict_loading(tiny: str, position_ids: str, meta: bool) -> None:
    torch.manual_seed(0)
    source = FrozenCLIPEmbedder(tiny)
    state = dict(source.state_dict())
    name = "transformer.text_model.embeddings.position_ids"
    assert torch.equal(state[name], torch.arange(77)[None])
    if position_ids == "half":
        state[name] = state[name].half()
    elif position_ids == "absent":
        del state[name]
    with torch.device("meta" if meta else "cpu"):
        encoder = FrozenCLIPEmbedder(tiny)
    encoder.load_state_dict(state, strict=True, assign=meta)
    assert encoder.state_dict()[name].dtype == torch.int64
    assert torch.equal(encoder.encode(CAPTIONS), source.encode(CAPTIONS))
    assert name in dict(encoder.state_dict())
    assert set(state) <= set(encoder.state_dict())


def test_missing_weights_are_reported(tiny: str) -> None:
    encoder = FrozenCLIPEmbedder(tiny)
    state = dict(encoder.state_dict())
    del state["transformer.text_model.final_layer_norm.bias"]
    with pytest.raises(RuntimeError, match="final_layer_norm.bias"):
        encoder.load_state_dict(state)


def test_tokens_equal_those_of_clip_but_for_the_padding(tiny: str) -> None:
    clip = pytest.importorskip("clip")
    tokens = FrozenCLIPEmbedder(tiny).tokenize(CAPTIONS)  # (B, 77)
    expected = clip.tokenize(CAPTIONS, truncate=True)
    for row, wanted in zip(tokens, expected, strict=True):
        end = int(wanted.argmax())
        assert row[: end + 1].tolist() == wanted[: end + 1].tolist()
        assert (row[end:] == 49407).all()


@pytest.mark.parametrize("length", [77, 12])
def test_tokens_equal_those_of_clip(length: int) -> None:
    clip = pytest.importorskip("clip")
    assert torch.equal(clip_tokens(CAPTIONS, length), clip.tokenize(CAPTIONS, length, truncate=True))


def test_the_text_transformer_is_that_of_transformers_bit_for_bit() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    tower = TextTower(width=32, layers=3, heads=4, vocab_size=50, context_length=9)
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    others = {"vocab_size": 50, "max_position_embeddings": 9, "hidden_act": "quick_gelu", "eos_token_id": 49}
    torch.manual_seed(1)
    theirs = CLIPTextModel(CLIPTextConfig(**sizes, **others)).eval()
    torch.manual_seed(1)
    ours = TextTransformer(tower)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert all(torch.equal(value, theirs.get_parameter(name)) for name, value in ours.named_parameters())
    tokens = torch.tensor([[3, 4, 49, 49, 49, 49, 49, 49, 49], [1, 2, 3, 4, 5, 6, 7, 8, 49]])
    found, expected = ours(tokens), theirs(input_ids=tokens, output_hidden_states=True)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    pairs = zip(found.hidden_states, expected.hidden_states, strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)
    asked = PublishedTextNames(tower)(input_ids=tokens, output_hidden_states=True)  # as programs call it
    assert asked[0].shape == expected[0].shape and len(asked[2]) == len(expected.hidden_states)
    for states in (found, expected):
        states.last_hidden_state.square().sum().backward()
    assert all(torch.equal(p.grad, theirs.get_parameter(name).grad) for name, p in ours.named_parameters())


def test_context_is_causal_and_has_the_final_norm(tiny: str) -> None:
    torch.manual_seed(0)
    encoder = FrozenCLIPEmbedder(tiny)
    context = encoder(["a cat", "a cat and a dog"])  # (2, 77, 8)
    assert context.shape == (2, 77, 8)
    torch.testing.assert_close(context[0, :3], context[1, :3])  # start, a, cat
    assert not torch.allclose(context[0, 3], context[1, 3])
    torch.testing.assert_close(context.mean(-1), torch.zeros(2, 77), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder("a cat"), context[:1])


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="openai/clip-vit-large-patch14"):
        FrozenCLIPEmbedder("openai/clip-vit-gigantic")
    with pytest.raises(UserError, match="max_length"):
        FrozenCLIPEmbedder(max_length=78)


def test_small_encoder_trains(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("a\ncat\ndog\nand\n")
    encoder = SmallCLIPTextEmbedder(str(vocabulary), width=16, layers=2, heads=4, context_length=12)
    context = encoder.encode(["a cat and a dog", "a dog"])
    assert context.shape == (2, 12, 16)
    context[:, :4].square().sum().backward()
    unused = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    assert all(name.startswith("transformer.text_model.") for name in encoder.state_dict())
    assert len(encoder.state_dict()) == 5 + 2 * 16


def test_importing_is_light() -> None:
    code = (
        "import sys, ldm.modules.encoders.modules\n"
        "sys.exit(bool({'transformers', 'clip', 'kornia'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


# ----------------------------------------------------------------- conditioners of the latent-diffusion configs

TOKENS = torch.tensor([list(range(1, 10)), list(range(9, 0, -1))])


def test_golden_bert_and_transformer_embedder() -> None:
    config, arrays = golden("ldm/bert_embedder")
    model = fill_(BERTEmbedder(**config, use_tokenizer=False)).eval()
    assert relative_error(model.encode(TOKENS), arrays["out"]) < 1e-4
    _, arrays = golden("ldm/transformer_embedder")
    model = fill_(TransformerEmbedder(n_embed=32, n_layer=2, vocab_size=50)).eval()
    assert relative_error(model.encode(TOKENS), arrays["out"]) < 1e-4


def test_golden_class_embedder_and_rescaler() -> None:
    _, arrays = golden("ldm/class_embedder")
    model = fill_(ClassEmbedder(16, n_classes=10, key="class_label"))
    assert relative_error(model({"class_label": torch.tensor([1, 5])}), arrays["out"]) < 1e-4
    _, arrays = golden("ldm/spatial_rescaler")
    rescaler = fill_(SpatialRescaler(2, "bilinear", 0.5, in_channels=3, out_channels=6, bias=True))
    assert relative_error(rescaler.encode(tensor(1, "sr/x", (2, 3, 16, 16))), arrays["out"]) < 1e-4


def test_bert_tokens_and_text(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "##s"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n")
    tokenizer = BERTTokenizer(max_length=6, vocab_file=vocab)
    assert tokenizer(["A cat", "dogs zebra a a a a a"]).tolist() == [[2, 5, 6, 3, 0, 0], [2, 7, 8, 1, 5, 3]]
    assert tokenizer.encode("a")[2][2].shape == (1, 6)
    assert tokenizer.decode("a") == "a"
    embedder = BERTEmbedder(8, 1, vocab_size=9, max_seq_len=6, vocab_file=vocab)
    assert embedder.encode(["a cat", "a dog"]).shape == (2, 6, 8)
    assert torch.equal(embedder.encode("a cat"), embedder.encode(tokenizer("a cat")))
    assert all(name.startswith("transformer.") for name in embedder.state_dict())


def test_wrong_conditions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("ldm.hub.unreachable", lambda: True)
    with pytest.raises(UserError, match="vocab.txt of bert-base-uncased"):
        BERTTokenizer()("a cat")
    with pytest.raises(UserError, match="none.txt"):
        BERTTokenizer(vocab_file=tmp_path / "none.txt")("a cat")
    with pytest.raises(UserError, match="token ids, not text"):
        BERTEmbedder(8, 1, use_tokenizer=False)(["a cat"])
    with pytest.raises(UserError, match=r"0\.\.9"):
        TransformerEmbedder(8, 1, vocab_size=10).encode(torch.tensor([[10]]))
    with pytest.raises(UserError, match="no class labels 'class'; it has image"):
        ClassEmbedder(4)({"image": 0})
    with pytest.raises(UserError, match=r"0\.\.2"):
        ClassEmbedder(4, n_classes=3)({"class": [3]})
    with pytest.raises(UserError, match="none of nearest"):
        SpatialRescaler(method="cubic")
    with pytest.raises(UserError, match="is not here"):
        monkeypatch.setattr("ldm.modules.encoders.openai_clip.FOLDERS", (tmp_path,))
        FrozenCLIPTextEmbedder()


def test_clip_towers_as_conditioners() -> None:
    weights = str(Path(__file__).parents[2] / "models" / "emoji" / "clip.safetensors")
    text = FrozenCLIPTextEmbedder(weights, n_repeat=3)
    context = text.encode(["a cat", "a dog"])  # (2, 3, C)
    assert context.shape[:2] == (2, 3)
    torch.testing.assert_close(context.norm(dim=-1), torch.ones(2, 3))
    assert torch.equal(context[:, 0], context[:, 2])
    image = FrozenClipImageEmbedder(weights, antialias=True)
    images = torch.rand(2, 3, 96, 80) * 2 - 1
    assert image.preprocess(images).shape == (2, 3, image.resolution, image.resolution)
    grey = image.preprocess(torch.zeros(1, 3, 70, 70))  # mid grey stays mid grey
    torch.testing.assert_close(grey[0, :, 5, 5], (0.5 - image.mean) / image.std)
    assert image.encode(images).shape == (2, context.shape[-1])
    assert not any(p.requires_grad for p in [*text.parameters(), *image.parameters()])
