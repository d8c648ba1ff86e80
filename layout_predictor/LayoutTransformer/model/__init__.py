"""The layout model: encoder, mixture head and the published names."""

from layout_predictor.LayoutTransformer.model.config import LayoutConfig
from layout_predictor.LayoutTransformer.model.mixture import Mixture, pick_centers, split_mixture
from layout_predictor.LayoutTransformer.model.network import LayoutModel, build_model

__all__ = ["LayoutConfig", "LayoutModel", "Mixture", "build_model", "pick_centers", "split_mixture"]
