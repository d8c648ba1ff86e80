"""Model, data and training of the layout predictor."""
