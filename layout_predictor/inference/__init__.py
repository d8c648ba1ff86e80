"""Sentence to layout: `from layout_predictor.inference import predict_layout`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layout_predictor.inference.predictor import Prediction, Predictor, load_predictor, predict_layout

__all__ = ["Prediction", "Predictor", "load_predictor", "predict_layout"]


def __getattr__(name: str) -> Any:
    """The names above, loaded when they are asked for: the commands in this folder answer at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from layout_predictor.inference import predictor

    return getattr(predictor, name)
