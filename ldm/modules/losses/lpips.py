"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): distance of two images in the features of VGG16.

The network is taming's. Building it fetches nothing, so that a first stage can be built anywhere: the weights come
with a checkpoint that holds them, or are fetched when the distance is first asked for.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm import boundary
from ldm.errors import DAMAGED
from ldm.util import UserError, load_state_dict

WIDTHS = (64, 128, 256, 512, 512)  # channels of the five layers of VGG16 that are compared
LINEAR_FILE = "vgg.pth"  # the learned weights of those channels, as taming names them


class LPIPS(nn.Module):
    """Perceptual distance, frozen and always in eval mode; all weights are zero until they are loaded.

    State-dict names are those of the published first stages' ``loss.perceptual_loss``.
    """

    def __init__(self, use_dropout: bool = True) -> None:
        super().__init__()
        from taming.modules.losses.lpips import NetLinLayer, ScalingLayer, vgg16

        self.chns = list(WIDTHS)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # taming asks torchvision in a way that it advises against
            net = vgg16(pretrained=False, requires_grad=False)
            linear = [NetLinLayer(width, use_dropout=use_dropout) for width in WIDTHS]
        self.scaling_layer = ScalingLayer()
        self.net = net
        for index, layer in enumerate(linear):
            self.add_module(f"lin{index}", layer)
        device = torch.get_default_device()
        if device.type != "meta":  # else the weights come with a checkpoint
            for part in (self.net, *linear):
                part.to_empty(device=device)
                for p in part.parameters():
                    nn.init.zeros_(p)
        self.requires_grad_(False).eval()
        self._ready = False

    def train(self, mode: bool = True) -> LPIPS:
        """Nothing: a distance has no dropout."""
        return super().train(False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Distances (B, 1, 1, 1) of images (B, 3, H, W) in [-1, 1].

        Raises:
            UserError: the weights were not in a checkpoint and cannot be fetched.
        """
        self.prepare()
        first, second = (self.net(self.scaling_layer(x)) for x in (input, target))
        total = torch.zeros(len(input), 1, 1, 1, dtype=input.dtype, device=input.device)
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            difference = (_unit(a) - _unit(b)).square()  # (B, C, h, w)
            total = total + getattr(self, f"lin{index}").model(difference).mean((2, 3), keepdim=True)
        return total

    def prepare(self) -> None:
        """Fetch the weights, unless a checkpoint gave them. UserError says where they belong."""
        if self._ready:
            return
        if not any(bool(p.any()) for p in self.net.parameters()):
            self.load_state_dict(pretrained_state(self), strict=False)
        self._ready = True


def _unit(x: Tensor) -> Tensor:
    """Features (B, C, h, w) scaled to length 1 at every pixel."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def pretrained_state(model: LPIPS) -> dict[str, Tensor]:
    """Weights under the names of `model`: torchvision's VGG16 and taming's linear layers, from torch's downloads or
    fetched. UserError where that fails."""
    import torchvision
    from taming.modules.losses.lpips import get_ckpt_path

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        vgg = torchvision.models.VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        linear = load_state_dict(get_ckpt_path("vgg_lpips", str(folder)))
    except DAMAGED as err:
        raise UserError(
            f"the perceptual loss needs VGG16's weights (vgg16-397923af.pth) and LPIPS's own ({LINEAR_FILE}) in "
            f"{folder}, and they cannot be fetched ({boundary.reason(err):.120}); run once while online, put the files "
            "there, or set perceptual_weight: 0 in the config's lossconfig"
        ) from err
    state = {k: v for k, v in linear.items() if k.startswith("lin")}
    for name in model.net.state_dict():  # "slice2.7.weight" is torchvision's "features.7.weight"
        state[f"net.{name}"] = vgg[f"features.{name.split('.', 1)[1]}"]
    return state
