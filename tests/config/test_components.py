"""What a component must have to be registered."""

from typing import Any, Literal

import pytest

from cfamc_ray.config.attacks import ATTACKS, AttackConfig
from cfamc_ray.config.components import Component, Registry
from cfamc_ray.config.losses import LOSSES, LossConfig


@pytest.mark.parametrize(
    ("registry", "base", "method"), [(LOSSES, LossConfig, "flops"), (ATTACKS, AttackConfig, "passes")]
)
def test_a_component_without_a_method_that_its_kind_needs_is_refused_when_it_is_registered(
    registry: Registry[Any], base: type[Component], method: str
) -> None:
    class Incomplete(base):  # type: ignore[misc, valid-type]
        name: Literal["incomplete"] = "incomplete"

    with pytest.raises(ValueError, match=f"the {registry.kind} 'incomplete' must define {method}: .*Incomplete"):
        registry.register(Incomplete)
    assert "incomplete" not in registry.classes
