"""Tools that make the layout predictor's data."""
