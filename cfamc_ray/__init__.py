"""Hyperparameter and scaling studies of adversarially robust self-supervised learning, on Ray."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["InputError", "Study", "__version__", "evaluate", "load_encoder", "open_study", "run_study", "train"]

if TYPE_CHECKING:
    from cfamc_ray.api import Study, evaluate, open_study, run_study, train
    from cfamc_ray.config.errors import InputError
    from cfamc_ray.method.encoder import load_encoder
else:
    _HOMES = {
        **dict.fromkeys(("Study", "evaluate", "open_study", "run_study", "train"), "cfamc_ray.api"),
        "InputError": "cfamc_ray.config.errors",
        "load_encoder": "cfamc_ray.method.encoder",
    }

    class _Package(ModuleType):
        """Imports what is slow to import when it is first asked for."""

        def __getattr__(self, name: str) -> object:
            if name not in _HOMES:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
            return getattr(import_module(_HOMES[name]), name)

        def __setattr__(self, name: str, value: object) -> None:
            """A command's module, once imported, does not take the place of the function of its name."""
            if not (name in _HOMES and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*self.__dict__, *__all__})

    sys.modules[__name__].__class__ = _Package
