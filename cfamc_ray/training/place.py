"""Where a worker stands among the workers of a trial."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Place:
    """Where a worker stands among the workers of a trial, and what it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def device_name(device: torch.device) -> str:
    """What a table shows as the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
