"""Hyperparameter and scaling studies of adversarially robust self-supervised learning, on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Study",
    "__version__",
    "evaluate",
    "export_onnx",
    "load_classifier",
    "load_encoder",
    "open_study",
    "run_scaling",
    "run_study",
    "train",
]

if TYPE_CHECKING:
    from cfamc_ray.api import Study, evaluate, open_study, run_scaling, run_study, train
    from cfamc_ray.config.errors import InputError
    from cfamc_ray.evaluation.classifier import load_classifier
    from cfamc_ray.evaluation.onnx import export_onnx
    from cfamc_ray.method.encoder import load_encoder
else:
    _HOMES = {
        **dict.fromkeys(("Study", "open_study", "run_scaling", "run_study"), "cfamc_ray.api"),
        "InputError": "cfamc_ray.config.errors",
        "export_onnx": "cfamc_ray.evaluation.onnx",
        "load_classifier": "cfamc_ray.evaluation.classifier",
        "load_encoder": "cfamc_ray.method.encoder",
    }

    def __getattr__(name: str) -> object:
        """Import what is slow to import when it is first asked for (PEP 562)."""
        if name in ("evaluate", "train"):  # the commands' modules, which can be called
            return import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
