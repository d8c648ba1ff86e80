"""What a config may build: an explicit list of classes, since a config is a file that somebody else may have written.

A config can't add to the list. A program that uses this library can, for its own package, before it loads a config:
``allow_targets("mypackage.")``. For a program that does not, whoever starts it can: ``LDM_ALLOW_TARGETS="mypackage."``.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from ldm.errors import UserError
from ldm.suggest import did_you_mean

# Classes by module. Published configs and checkpoints name those of the first part.
_CLASSES: dict[str, str] = {
    "ldm.models.autoencoder": "AutoencoderKL IdentityFirstStage VQModel VQModelInterface",
    "ldm.models.diffusion.ddpm": "DDPM LatentDiffusion LatentInpaintDiffusion Layout2ImgDiffusion DiffusionWrapper",
    "ldm.models.diffusion.classifier": "NoisyLatentImageClassifier",
    "ldm.modules.attention": "SpatialTransformer BasicTransformerBlock CrossAttention",
    "ldm.modules.diffusionmodules.model": "Model Encoder Decoder SimpleDecoder UpsampleDecoder LatentRescaler "
    "MergedRescaleEncoder MergedRescaleDecoder Upsampler Resize FirstStagePostProcessor",
    "ldm.modules.diffusionmodules.openaimodel": "UNetModel EncoderUNetModel",
    "ldm.modules.diffusionmodules.util": "HybridConditioner",
    "ldm.modules.encoders.modules": "ClassEmbedder TransformerEmbedder BERTEmbedder FrozenCLIPEmbedder "
    "FrozenCLIPTextEmbedder FrozenClipImageEmbedder FrozenOpenCLIPEmbedder SpatialRescaler SmallCLIPTextEmbedder",
    "ldm.modules.losses": "LPIPSWithDiscriminator VQLPIPSWithDiscriminator ReconstructionLoss",
    "ldm.modules.losses.contperceptual": "LPIPSWithDiscriminator DummyLoss",
    "ldm.modules.losses.vqperceptual": "VQLPIPSWithDiscriminator",
    "ldm.lr_scheduler": "LambdaWarmUpCosineScheduler LambdaWarmUpCosineScheduler2 LambdaLinearScheduler",
    "ldm.data.base": "DataModuleFromConfig WrappedDataset Txt2ImgIterableBaseDataset",
    "ldm.data.imagenet": "ImageNetTrain ImageNetValidation ImageNetSRTrain ImageNetSRValidation",
    "ldm.data.lsun": "LSUNBase LSUNChurchesTrain LSUNChurchesValidation LSUNBedroomsTrain LSUNBedroomsValidation "
    "LSUNCatsTrain LSUNCatsValidation",
    "ldm.data.faces": "CelebAHQTrain CelebAHQValidation FFHQTrain FFHQValidation",
    "ldm.callbacks": "ImageLogger Freeze",
    "taming.modules.losses.vqperceptual": "DummyLoss VQLPIPSWithDiscriminator",
    "torch.nn": "Identity",
    "pytorch_lightning.callbacks": "ModelCheckpoint LearningRateMonitor EarlyStopping DeviceStatsMonitor Timer "
    "GradientAccumulationScheduler RichProgressBar TQDMProgressBar ModelSummary StochasticWeightAveraging",
    # The embedded world.
    "ldm.models.clip": "SmallCLIP",
    "ldm.models.detector": "EmojiDetector",
    "ldm.data.emoji.scenes": "EmojiScenes",
    "ldm.data.emoji.pairs": "EmojiClipPairs",
    "ldm.data.emoji.latents": "EmojiLatents",
    "ldm.data.emoji.detection": "EmojiDetection",
}
ALLOWED = frozenset(f"{module}.{name}" for module, names in _CLASSES.items() for name in names.split())
# Published configs name these as main.py's own, or by the name that an older release of a package gave them.
ALIASES: Mapping[str, str] = {
    "main.DataModuleFromConfig": "ldm.data.base.DataModuleFromConfig",
    "main.ImageLogger": "ldm.callbacks.ImageLogger",
    **{f"taming.data.faceshq.{name}": f"ldm.data.faces.{name}" for name in _CLASSES["ldm.data.faces"].split()},
}
_packages: set[str] = set()  # prefixes that the program allows
VARIABLE = "LDM_ALLOW_TARGETS"


def allow_targets(prefix: str) -> None:
    """Let configs build classes whose dotted name begins with `prefix`, such as ``"mypackage."``.

    For programs that use this library with models of their own; no config can do it.

    Raises:
        ValueError: the prefix is not a package's name with a dot behind it.
    """
    if not prefix.endswith(".") or not all(part.isidentifier() for part in prefix[:-1].split(".")):
        raise ValueError(f"{prefix!r} is no package name with a dot at its end, such as 'mypackage.'")
    _packages.add(prefix)


def get_obj_from_str(string: str, reload: bool = False) -> Any:
    """The class that the dotted name `string` means; `reload` imports its module again, as published.

    Raises:
        UserError: it is not on the list, does not exist, or is no class that a config can want.
    """
    if not isinstance(string, str):
        raise UserError(f"config target must be a dotted name, not {string!r:.60}")
    string = ALIASES.get(string, string)
    for prefix in os.environ.get(VARIABLE, "").split():
        try:
            allow_targets(prefix)
        except ValueError as error:
            raise UserError(f"the environment variable {VARIABLE} does not fit: {error}") from error
    own = string.startswith(tuple(_packages))
    if string not in ALLOWED and not own:
        raise UserError(
            f"config target '{string:.80}' is not one that a config may build{did_you_mean(string, ALLOWED)}"
        )
    module, _, name = string.rpartition(".")
    try:
        imported = importlib.import_module(module)
        if reload:
            imported = importlib.reload(imported)
        found = getattr(imported, name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"config target '{string:.80}' cannot be imported: {error!s:.120}") from error
    if not _is_component(found) or found.__module__.partition(".")[0] != module.partition(".")[0]:
        raise UserError(f"config target '{string:.80}' is no model, data set, callback or schedule")
    return found


def _is_component(value: Any) -> bool:
    """Whether a config may want it: by what it is, not by the name that leads to it."""
    from torch import nn
    from torch.utils.data import Dataset

    from ldm.lightning import Callback, LightningDataModule

    kinds = (nn.Module, Dataset, LightningDataModule, Callback)
    if not inspect.isclass(value):
        return False
    return issubclass(value, kinds) or value.__module__ == "ldm.lr_scheduler"
