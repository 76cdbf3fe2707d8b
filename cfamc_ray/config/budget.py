"""When a study ends."""

from pydantic import Field

from cfamc_ray.config.types import Real, Strict


class PlateauConfig(Strict):
    """When a front counts as no longer growing."""

    trials: int = Field(default=16, ge=1)
    """Number of the latest trials that are looked at."""
    tolerance: Real = Field(default=0.01, ge=0)
    """The front is on a plateau when they add less than this share of its hypervolume together."""


class BudgetConfig(Strict):
    """When the study ends: whichever limit is reached first."""

    trials: int = Field(default=16, ge=1)
    """Number of trials, failed and stopped ones included; warm-started trials and refused points do not count."""
    crop_passes: Real | None = Field(default=None, gt=0)
    """Crop passes over all trials; a point that needs more than is left is refused before it starts. Null: no limit."""
    flops: Real | None = Field(default=None, gt=0)
    """Training FLOPs over all trials, likewise."""
    hours: Real | None = Field(default=None, gt=0)
    """Hours of all trials divided by `resources.trials_at_once`, which is about the time of the study; likewise, with
    times that are fitted to the trials so far."""
    plateau: PlateauConfig | None = None
    """Ends the study when its front no longer grows. Null: it goes on."""
