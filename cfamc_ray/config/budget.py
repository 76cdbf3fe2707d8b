"""The budget of a study."""

from pydantic import Field

from cfamc_ray.config.types import Real, Strict


class PlateauConfig(Strict):
    """When the front counts as no longer growing."""

    trials: int = Field(default=16, ge=1)
    """Number of latest trials to compare with the trials before them."""
    tolerance: Real = Field(default=0.01, ge=0)
    """The front is on a plateau if these trials together add less than this share of its hypervolume."""


class BudgetConfig(Strict):
    """When the study ends: whichever limit is reached first."""

    trials: int = Field(default=16, ge=1)
    """Number of trials, including failed and stopped ones; warm-started trials and refused points do not count."""
    crop_passes: Real | None = Field(default=None, gt=0)
    """Crop passes of all trials; a point that needs more than remain is refused before it starts. Null: no limit."""
    flops: Real | None = Field(default=None, gt=0)
    """Training FLOPs of all trials; a point that needs more than remain is refused before it starts. Null: no limit."""
    hours: Real | None = Field(default=None, gt=0)
    """Hours of all trials divided by `resources.trials_at_once`, which is about the duration of the study; a point that
    needs more than remain, by times fitted to the trials so far, is refused before it starts. Null: no limit."""
    plateau: PlateauConfig | None = None
    """Ends the study when its front no longer grows. Null: a plateau does not end it."""
