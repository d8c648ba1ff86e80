"""Names of weights: CompVis state dicts to those of `diffusers`, by rules over the shape of the network.

Every function maps one side to the other as a table {CompVis name prefix: diffusers name prefix}; a table is
read in either direction. The prefixes end in a dot and name whole layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ldm.convert.configs import TABLES
from ldm.util import UserError

Table = dict[str, str]
State = Mapping[str, torch.Tensor]


def unet_table(params: Mapping[str, Any]) -> Table:
    """The table of a U-Net with spatial transformers; `params` are those of its CompVis config."""
    levels, blocks = len(params["channel_mult"]), int(params["num_res_blocks"])
    attended = {int(r) for r in params["attention_resolutions"]}
    res_block = TABLES["unet"]["layers"]
    table = {
        **TABLES["unet"]["names"],
        **_block("middle_block.0.", "mid_block.resnets.0.", res_block),
        **_block("middle_block.2.", "mid_block.resnets.1.", res_block),
    }
    number = 0  # of the block in CompVis's flat list; block 0 is the first convolution
    for level in range(levels):
        for i in range(blocks):
            number += 1
            theirs = f"down_blocks.{level}."
            table |= _block(f"input_blocks.{number}.0.", f"{theirs}resnets.{i}.", res_block)
            if 2**level in attended:
                table[f"input_blocks.{number}.1."] = f"{theirs}attentions.{i}."
        if level < levels - 1:
            number += 1
            table[f"input_blocks.{number}.0.op."] = f"down_blocks.{level}.downsamplers.0.conv."
    number = 0
    for up, level in enumerate(reversed(range(levels))):  # diffusers counts the way up from the bottom
        for i in range(blocks + 1):
            theirs = f"up_blocks.{up}."
            table |= _block(f"output_blocks.{number}.0.", f"{theirs}resnets.{i}.", res_block)
            attention = 2**level in attended
            if attention:
                table[f"output_blocks.{number}.1."] = f"{theirs}attentions.{i}."
            if level and i == blocks:
                table[f"output_blocks.{number}.{1 + attention}.conv."] = f"{theirs}upsamplers.0.conv."
            number += 1
    return table


def vae_table(ddconfig: Mapping[str, Any]) -> Table:
    """The table of a KL autoencoder without attention in its levels; `ddconfig` as in its CompVis config."""
    levels, blocks = len(ddconfig["ch_mult"]), int(ddconfig["num_res_blocks"])
    block, attention = TABLES["vae"]["layers"], TABLES["vae"]["attention"]
    table = {"quant_conv.": "quant_conv.", "post_quant_conv.": "post_quant_conv."}
    for half in ("encoder.", "decoder."):
        table |= {f"{half}conv_in.": f"{half}conv_in.", f"{half}conv_out.": f"{half}conv_out."}
        table[f"{half}norm_out."] = f"{half}conv_norm_out."
        table |= _block(f"{half}mid.block_1.", f"{half}mid_block.resnets.0.", block)
        table |= _block(f"{half}mid.attn_1.", f"{half}mid_block.attentions.0.", attention)
        table |= _block(f"{half}mid.block_2.", f"{half}mid_block.resnets.1.", block)
    for level in range(levels):
        for i in range(blocks):
            theirs = f"encoder.down_blocks.{level}."
            table |= _block(f"encoder.down.{level}.block.{i}.", f"{theirs}resnets.{i}.", block)
        if level < levels - 1:
            table[f"encoder.down.{level}.downsample.conv."] = f"encoder.down_blocks.{level}.downsamplers.0.conv."
        up = levels - 1 - level
        for i in range(blocks + 1):
            theirs = f"decoder.up_blocks.{up}."
            table |= _block(f"decoder.up.{level}.block.{i}.", f"{theirs}resnets.{i}.", block)
        if level:
            table[f"decoder.up.{level}.upsample.conv."] = f"decoder.up_blocks.{up}.upsamplers.0.conv."
    return table


def _block(ours: str, theirs: str, layers: Mapping[str, str]) -> Table:
    return {ours + a: theirs + b for a, b in layers.items()}


def rename(state: State, table: Table, source: str) -> dict[str, torch.Tensor]:
    """`state` with the prefixes of `table` replaced.

    Raises:
        UserError: naming the first few names that no rule knows: a network of another kind.
    """
    renamed, unknown = {}, []
    by_length = sorted(table, key=len, reverse=True)
    for name, value in state.items():
        prefix = next((p for p in by_length if name.startswith(p)), None)
        if prefix is None:
            unknown.append(name)
        else:
            renamed[table[prefix] + name.removeprefix(prefix)] = value
    if unknown:
        first = ", ".join(unknown[:3])
        raise UserError(f"{source} is of another architecture: {len(unknown)} names have no counterpart ({first})")
    return renamed


def inverse(table: Table) -> Table:
    """The table read from the right."""
    return {theirs: ours for ours, theirs in table.items()}


def modern_vae_names(state: State) -> dict[str, torch.Tensor]:
    """A diffusers VAE's state with the attention's old names replaced."""
    where, renamed = "mid_block.attentions.0.", {}
    for name, value in state.items():
        for old, new in TABLES["vae"]["old_attention"].items():
            name = name.replace(where + old, where + new)
        renamed[name] = value
    return renamed


def pointwise(state: State, names: Iterable[str], convolution: bool) -> dict[str, torch.Tensor]:
    """`state` with the weights of `names` as 1x1 convolutions (O, I, 1, 1), or else as matrices (O, I)."""
    chosen, extra = set(names), (1, 1) if convolution else ()
    return {k: v.reshape(*v.shape[:2], *extra) if k in chosen else v for k, v in state.items()}


def vae_attention_weights(state: State) -> list[str]:
    """Weights that are 1x1 convolutions in CompVis and matrices in diffusers, by their CompVis names."""
    return [k for k in state if ".attn_1." in k and k.endswith(".weight") and not k.endswith("norm.weight")]


def projection_weights(state: State) -> list[str]:
    """The projections into and out of the U-Net's transformers, by their CompVis names."""
    return [k for k in state if k.endswith((".proj_in.weight", ".proj_out.weight"))]
