"""Encoders that are not trained but are as hard to copy: with random weights and statistics of random images."""

from typing import Any

import torch

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method.encoder import SelfSupervisedEncoder

NARROW = {"width": 8, "prefeature_width": 16, "hidden_width": 8, "embedding_width": 4}


def random_encoder(**changes: Any) -> SelfSupervisedEncoder:
    """A narrow ResNet-18 in evaluation mode, or what the changes make of its config."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        encoder = SelfSupervisedEncoder(EncoderConfig.model_validate({**NARROW, **changes}))
        for _ in range(10):
            encoder(torch.rand(8, 3, 32, 32))
        for norm in encoder.modules():
            if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.GroupNorm | torch.nn.LayerNorm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.1, 0.1)
        return encoder.eval()
