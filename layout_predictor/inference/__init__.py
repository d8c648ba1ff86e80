"""Sentence to layout: `from layout_predictor.inference import predict_layout`."""

from layout_predictor.inference.predictor import Prediction, Predictor, load_predictor, predict_layout

__all__ = ["Prediction", "Predictor", "load_predictor", "predict_layout"]
