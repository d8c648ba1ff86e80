"""Sentence to layout: `from layout_predictor.inference import predict_layout`."""

from layout_predictor.inference.predictor import Predictor, load_predictor, predict_layout

__all__ = ["Predictor", "load_predictor", "predict_layout"]
