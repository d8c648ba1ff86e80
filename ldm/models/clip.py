"""Training the emoji world's small CLIP: OpenAI's architecture and a symmetric contrastive loss.

Its similarities steer the sampler, so they have to fall smoothly as an image gets worse: training images look half
denoised (see `clip_augment`), and a bounded temperature makes matching pairs far more alike than others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.arguments import Count, Depth, Fraction, Weight, Whole
from ldm.categories import BACKGROUND_CAPTIONS, NAMES
from ldm.lightning import Callback, LightningModule
from ldm.models.clip_augment import half_denoised, random_strength
from ldm.models.training import AfterStep
from ldm.modules.encoders.openai_clip import MEAN, STD
from ldm.modules.encoders.tokenizer import WordTokenizer, clip_part
from ldm.relations import with_article

_DIRECTION = re.compile(
    r"\b(left|right|above|over|top|below|under|beneath|underneath|higher|lower|upper|bottom)\b", re.IGNORECASE
)
# Captions with these words state no direction: "left" is a verb there, and "over" part of an idiom.
_NEARNESS = re.compile(r"\b(near|next|beside|by|close|around|far|together)\b", re.IGNORECASE)


class ObjectNames:
    """Finds the names of objects in captions, and makes captions false by swapping two of them.

    Args:
        names: of all categories.
        nothing: captions that say there is no object, taken as the name of one more.
    """

    def __init__(self, names: Sequence[str], nothing: Sequence[str] = ()) -> None:
        self.names, self.nothing = list(names), frozenset(nothing)
        longest_first = sorted(names, key=len, reverse=True)  # "teddy bear" before a "bear" there may be
        self.pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)

    def mentioned(self, captions: Sequence[str]) -> Tensor:
        """(B, names + 1) bool: which names each caption holds; the last column says that there is nothing."""
        found = torch.zeros(len(captions), len(self.names) + 1, dtype=torch.bool)
        for row, caption in zip(found, captions, strict=True):
            row[-1] = caption in self.nothing
            for name in self.pattern.findall(caption):
                row[self.names.index(name.lower())] = True
        return found

    def swapped(self, caption: str) -> str | None:
        """The caption with its two names exchanged, which makes it false; None if it states no direction."""
        found = {name.lower() for name in self.pattern.findall(caption)}
        if len(found) != 2 or not _DIRECTION.search(caption) or _NEARNESS.search(caption):
            return None
        first, second = found
        other = {first: second, second: first}
        return self.pattern.sub(lambda match: other[match[0].lower()], caption)


def positive_pairs(captions: Sequence[str], labels: Tensor) -> Tensor:
    """(B, B) bool: pairs that match, as the same sample, by the same words, or as crops of one category."""
    ids = {text: index for index, text in enumerate(dict.fromkeys(captions))}
    said = torch.tensor([ids[text] for text in captions], device=labels.device)  # (B,)
    return (said[:, None] == said[None]) | ((labels[:, None] == labels[None]) & (labels[:, None] >= 0))


def uncertain_pairs(mentioned: Tensor, directed: Tensor) -> Tensor:
    """(B, B) bool: (image, text) pairs that may match, since the text names only objects of the image.

    Samples 2k and 2k + 1 that name the same two objects and both state a direction are twins of opposite
    directions (see `EmojiClipPairs`), and so certainly do not match.

    Args:
        mentioned: (B, names), the objects each caption names, which are all that its image shows.
        directed: (B,), whether a caption states a direction between its two objects.
    """
    extra = (mentioned[None] & ~mentioned[:, None]).any(-1)  # [image, text]: the text names what is not there
    row = torch.arange(len(mentioned), device=mentioned.device)
    neighbors = (row[:, None] ^ 1) == row[None]
    twins = neighbors & ~extra & ~extra.T & directed[:, None] & directed[None]
    return ~extra & ~twins


def contrastive_loss(logits: Tensor, positive: Tensor, uncertain: Tensor, false_text: Tensor) -> Tensor:
    """Symmetric cross-entropy over (image, text) logits (B, B), uniform over each row's matching pairs.

    Args:
        logits: scaled cosine similarities.
        positive: pairs that match (the diagonal does).
        uncertain: pairs left out of the denominator unless they match.
        false_text: (B,) logit of each image with a text known to be false of it, -inf where there is none.
    """
    logits = logits.masked_fill(uncertain & ~positive, -math.inf)
    by_image = torch.cat([logits, false_text[:, None]], 1).log_softmax(1)[:, :-1]  # (B, B)
    by_text = logits.log_softmax(0)
    target = positive / positive.sum(1, keepdim=True)  # rows sum to 1
    # Ignored pairs have log-probability -inf and target 0.
    image_loss = -torch.where(positive, target * by_image, 0).sum(1).mean()
    text_loss = -torch.where(positive, target.T * by_text, 0).sum(0).mean()
    return (image_loss + text_loss) / 2


class SmallCLIP(LightningModule):
    """OpenAI's CLIP at small width over a word-level vocabulary.

    Batches hold ``image`` (B, 3, R, R) float in [0, 1], ``caption`` (B strings) and ``label`` (B,), the
    category of a crop or -1 for a whole scene. Captions of scenes name every object and are true.

    Args:
        vocab_file, context_length: words, one a line, and tokens of a text.
        embed_dim: dimensions of the common space.
        image_resolution, vision_layers, vision_width, vision_patch_size: of the vision transformer.
        text_width, text_layers: of the text transformer. Heads are 64 wide in both.
        warmup_steps, total_steps: of the learning rate, linear up and cosine down to 0.
        weight_decay: of AdamW, on matrices only.
        max_scale: bound of the inverse temperature. OpenAI's is 100; a low one makes similarities spread.
        plain_rate: share of images shown without mean and deviation applied, as the published method does.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vocab_file: str = "configs/emoji/vocab.txt",
        context_length: Count = 32,
        embed_dim: Count = 64,
        image_resolution: Count = 64,
        vision_layers: Depth = 3,
        vision_width: Count = 128,
        vision_patch_size: Count = 8,
        text_width: Count = 128,
        text_layers: Depth = 2,
        warmup_steps: Whole = 100,
        total_steps: Whole = 1500,
        weight_decay: Weight = 0.05,
        max_scale: Weight = 20.0,
        plain_rate: Fraction = 0.15,
    ) -> None:
        super().__init__()
        self.learning_rate = 1e-3
        self.tokenizer = WordTokenizer(vocab_file, context_length=context_length)
        self.objects = ObjectNames(NAMES, BACKGROUND_CAPTIONS)
        self.warmup_steps, self.total_steps, self.weight_decay = warmup_steps, total_steps, weight_decay
        self.max_scale, self.plain_rate = max_scale, plain_rate
        self.clip = clip_part("model").CLIP(
            embed_dim,
            image_resolution,
            vision_layers,
            vision_width,
            vision_patch_size,
            context_length,
            self.tokenizer.vocab_size,
            text_width,
            text_width // 64,
            text_layers,
        )
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Captions to unit vectors (B, embed_dim)."""
        tokens = self.tokenizer(list(captions)).to(self.device)
        # Nothing looks at what follows the end of a text, so a batch is cut to its longest.
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        return F.normalize(self.clip.encode_text(tokens), dim=-1)

    def encode_image(self, images: Tensor, plain: Tensor | None = None) -> Tensor:
        """Images (B, 3, R, R) in [0, 1] to unit vectors; `plain` (B,) marks those to take as they are."""
        pixels = (images - self.mean) / self.std
        if plain is not None:
            pixels = torch.where(plain.view(-1, 1, 1, 1), images, pixels)
        return F.normalize(self.clip.encode_image(pixels), dim=-1)

    def loss(self, images: Tensor, captions: Sequence[str], labels: Tensor, plain: Tensor | None = None) -> Tensor:
        """The contrastive loss of a batch; captions with a direction also come swapped, as false texts."""
        scale = self.clip.logit_scale.clamp(max=math.log(self.max_scale)).exp()
        swapped = [self.objects.swapped(text) for text in captions]
        directed = torch.tensor([text is not None for text in swapped], device=self.device)
        features = self.encode_text([*captions, *(text for text in swapped if text is not None)])
        text = features[: len(captions)]
        image = self.encode_image(images, plain)
        false_text = torch.full((len(captions),), -math.inf, device=self.device)
        false_text[directed] = scale * (image[directed] * features[len(captions) :]).sum(-1)
        uncertain = uncertain_pairs(self.objects.mentioned(captions).to(self.device), directed)
        positive = positive_pairs(captions, labels)
        return contrastive_loss(scale * image @ text.T, positive, uncertain, false_text)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss on images of which most look half denoised."""
        images: Tensor = batch["image"]
        strength = random_strength(len(images), images.device)
        plain = torch.rand(len(images), device=images.device) < self.plain_rate
        loss = self.loss(half_denoised(images, strength), batch["caption"], batch["label"], plain)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def configure_callbacks(self) -> list[Callback]:
        """What calls :meth:`after_step`."""
        return [AfterStep()]

    def after_step(self) -> None:
        """Keeps the temperature inside its bound, or it would stop learning beyond it."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(self.max_scale))

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Logs the loss and, also on half denoised images (``..._degraded``), how often the right text wins.

        ``val/crop_accuracy``: a crop's category among all. ``val/caption_accuracy``: a scene's caption against another
        one that names something else; ``val/relation_accuracy``: against itself with the two names swapped.
        """
        images, captions, labels = batch["image"], list(batch["caption"]), batch["label"]
        count = len(images)
        self.log("val/loss", self.loss(images, captions, labels), batch_size=count, prog_bar=True)
        degraded = half_denoised(images, torch.full((count,), 0.7, device=images.device))
        for name, shown in (("", images), ("_degraded", degraded)):
            features = self.encode_image(shown)
            self._log_share(f"val/crop_accuracy{name}", self._crop_hits(features, labels))
            self._log_share(f"val/caption_accuracy{name}", self._caption_hits(features, captions, labels))
            self._log_share(f"val/relation_accuracy{name}", self._relation_hits(features, captions))

    def _log_share(self, name: str, hits: Tensor) -> None:
        if len(hits):  # weighted by the hits, so that the epoch's value is the share over all batches
            self.log(name, hits.float().mean(), batch_size=len(hits), prog_bar="degraded" not in name)

    def _crop_hits(self, features: Tensor, labels: Tensor) -> Tensor:
        names = self.encode_text([f"a photo of {with_article(name)}" for name in self.objects.names])
        crops = labels >= 0
        return (features[crops] @ names.T).argmax(1) == labels[crops]

    def _caption_hits(self, features: Tensor, captions: Sequence[str], labels: Tensor) -> Tensor:
        similarity = features @ self.encode_text(captions).T
        wrong = similarity.roll(-1, 1).diagonal()  # of image i with the next sample's text
        mentioned = self.objects.mentioned(captions).to(self.device)
        extra = (mentioned.roll(-1, 0) & ~mentioned).any(1)  # that text names what is not there
        rows = (labels < 0) & extra
        return similarity.diagonal()[rows] > wrong[rows]

    def _relation_hits(self, features: Tensor, captions: Sequence[str]) -> Tensor:
        pairs = [(i, text, self.objects.swapped(text)) for i, text in enumerate(captions)]
        rows = [(i, text, false) for i, text, false in pairs if false is not None]
        if not rows:
            return torch.zeros(0, device=self.device)
        image = features[[i for i, _, _ in rows]]
        true, false = (self.encode_text(list(texts)) for texts in list(zip(*rows, strict=True))[1:])
        return (image * true).sum(-1) > (image * false).sum(-1)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay."""
        weights = list(self.clip.parameters())
        matrices = {"params": [p for p in weights if p.ndim >= 2], "weight_decay": self.weight_decay}
        groups: list[dict[str, Any]] = [matrices, {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _rate(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return 0.5 * (1 + math.cos(math.pi * progress))
