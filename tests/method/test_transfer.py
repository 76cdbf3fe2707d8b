import pytest
import torch

from cfamc_ray.method.transfer import to_device


def test_a_copy_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(("pin", None))
        return tensor

    def move(tensor: torch.Tensor, device: torch.device, **how: object) -> torch.Tensor:
        calls.append((device.type, how))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", move)
    to_device(torch.zeros(2), torch.device("cuda"))
    assert calls == [("pin", None), ("cuda", {"non_blocking": True})]
    calls.clear()
    to_device(torch.zeros(2), torch.device("cpu"))
    assert [name for name, _ in calls] == ["cpu"]
