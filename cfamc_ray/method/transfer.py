"""Copies to a GPU that the host does not wait for."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait for a GPU, since only from pinned memory a copy is asynchronous."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
