"""Losses that train the first stages."""

from ldm.modules.losses.contperceptual import LPIPSWithDiscriminator, ReconstructionLoss
from ldm.modules.losses.vqperceptual import VQLPIPSWithDiscriminator

__all__ = ["LPIPSWithDiscriminator", "ReconstructionLoss", "VQLPIPSWithDiscriminator"]
