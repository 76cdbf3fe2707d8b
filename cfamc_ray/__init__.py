"""Hyperparameter and scaling studies of adversarially robust self-supervised learning, on Ray."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]

if TYPE_CHECKING:
    from cfamc_ray.method.encoder import load_encoder
else:

    def __getattr__(name: str) -> object:
        """Import what needs torch when it is first asked for (PEP 562)."""
        if name != "load_encoder":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from cfamc_ray.method.encoder import load_encoder  # noqa: PLC0415 (torch is slow to import)

        return load_encoder

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
