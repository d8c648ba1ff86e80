"""Stable Diffusion checkpoints in CompVis names, and the folders of the `diffusers` library: both ways."""
