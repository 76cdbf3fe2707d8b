"""Hyperparameter and scaling studies of adversarially robust self-supervised learning, on Ray."""

__version__ = "0.1.0"
