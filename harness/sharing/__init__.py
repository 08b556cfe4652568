"""Trained models as they are used and passed on: the model itself, files of samples, weights with a model card."""
