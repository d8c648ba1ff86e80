"""Losses, schedules and the training loop of the layout predictor."""
