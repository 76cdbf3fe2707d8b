"""How the front is confirmed after the search."""

from typing import Literal

from pydantic import Field

from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.heads import HeadConfig
from cfamc_ray.config.protocol import ProtocolConfig, pgd_20
from cfamc_ray.config.types import Real, Strict


class ConfirmConfig(Strict):
    """How points of the front are trained again with fresh seeds and attacked strongly on the test images."""

    seeds: int = Field(default=5, ge=1)
    """Number of fresh seeds with which each point is trained again."""
    tolerance: Real = Field(default=0.05, ge=0, le=1)
    """Points near the front are confirmed too: those that no trial dominates once all their objectives are improved by
    this fraction of the front's range."""
    points: int = Field(default=12, ge=1)
    """Largest number of points that are confirmed, where a point is a trial with one of its L2 strengths. The ends of
    the front come first, then the rest of the front, then points near it, each time the one farthest from those
    before it."""
    attacks: tuple[Literal["pgd20", "autoattack"], ...] = Field(
        default=("pgd20", "autoattack"), strict=False, min_length=1
    )
    """Attacks at `evaluation.epsilon` in `evaluation.norm`: PGD of 20 steps, then AutoAttack's standard version on the
    images that PGD left. The last one gives the robust accuracy."""
    images: int = Field(default=10_000, ge=1)
    """Number of test images for clean accuracy, a stratified sample seeded by `data.split_seed`; all test images where
    there are fewer."""
    attacked_images: int = Field(default=1_000, ge=1)
    """Number of `images` that are attacked, again a stratified sample."""

    def protocol(self, evaluation: EvaluationConfig, l2: float | None = None) -> ProtocolConfig:
        """The protocol that evaluates an encoder of the front at one operating point.

        Args:
            evaluation: `evaluation` keys of the encoder's trial; its probe, norm, radius and batch size are used.
            l2: L2 strength of the operating point; None for a trial without operating points, whose head is the one
                that confirmed it before there were any.
        """
        head = HeadConfig(l2=(1e-2,))
        if l2 is not None:
            head = HeadConfig.model_validate({**dict(evaluation.head), "l2": l2})
        epsilon = evaluation.epsilon
        automatic = "autoattack" in self.attacks
        return ProtocolConfig(
            name="confirm",
            head=head,
            images=self.images,
            attacked_images=self.attacked_images,
            epsilons=(epsilon,),
            norm=evaluation.norm,
            attack=pgd_20(evaluation.norm),
            autoattack_images=self.attacked_images if automatic else 0,
            autoattack_epsilons=(epsilon,) if automatic else (),
            batch_images=evaluation.batch_images,
        )
