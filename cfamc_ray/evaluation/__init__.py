"""Evaluation of an encoder: linear probe, attacks and protocols."""
