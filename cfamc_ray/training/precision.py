"""The precision of a trial's arithmetic, and the name of its device."""

import torch


def resolve_precision(precision: str, device: torch.device) -> tuple[torch.dtype, torch.dtype | None]:
    """Type of the weights, and of the matrix products if it differs, else None."""
    if precision == "auto":
        precision = "bfloat16" if _fast_bfloat16(device) else "float32"
    if precision == "bfloat16":
        return torch.float32, torch.bfloat16
    return {"float32": torch.float32, "float64": torch.float64}[precision], None


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16"))  # with only AVX-512, float32 was faster (LOG.md, 2026-11-23)


def device_name(device: torch.device) -> str:
    """Name of the device in tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
