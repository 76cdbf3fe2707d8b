"""How a finished encoder is evaluated on the test split: the protocols, by name.

The field docstrings are the reference of every key of `cfamc evaluate --set KEY=VALUE`.
"""

from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from cfamc_ray.config.attacks import ATTACKS, AttackConfig, AutoAttackConfig, MarginsConfig, PgdConfig
from cfamc_ray.config.components import ComponentField
from cfamc_ray.config.corruptions import CORRUPTIONS, SEVERITIES, Corruption, Severity
from cfamc_ray.config.digests import digest_of
from cfamc_ray.config.finetune import FinetuneConfig
from cfamc_ray.config.heads import HEADS, HeadConfig
from cfamc_ray.config.types import Norm, NormKey, Radius, Strict

AUTOATTACK = AutoAttackConfig()
PGD_20 = PgdConfig(steps=20, step_size=2 / 255, loss="cross_entropy", every_step=False)
"""The PGD attack on finalists, in the l∞ norm."""
SELECTION = MarginsConfig()
"""Attack, at the first of a protocol's radii, under which L2 strengths are compared; that of a search by default."""


def _scaled(radius: float, epsilon: float) -> float:
    """A radius in l2 that is to epsilon as a radius in l∞ is to 4/255."""
    return round(radius / (4 / 255), 9) * epsilon


def pgd_20(norm: Norm) -> PgdConfig:
    """The PGD attack on finalists: `PGD_20` in the l∞ norm, with steps of a quarter of the radius in the l2 norm."""
    return PGD_20 if norm == "linf" else PGD_20.model_copy(update={"step_size": None})


class AttackStage(NamedTuple):
    """One of the attacks that a protocol runs at a radius."""

    attack: AttackConfig
    images: int
    """Size of the sample; of it, only images that are still classified correctly after earlier stages are attacked."""


class ProtocolConfig(Strict):
    """How an encoder is evaluated on the test split: frozen, unless it is fine-tuned."""

    name: str
    head: HeadConfig = HeadConfig()
    """Linear head on the frozen encoder. Of several L2 strengths of a converged fit, the one with the largest sum of
    clean and robust accuracy on a fifth of the training images, held out of the fit, is fitted again on all of them."""
    labels_per_class: int | None = Field(default=None, ge=1)
    """Number of training images of each class on which the head is fitted, and the network fine-tuned; null: all."""
    draws: int = Field(default=5, ge=1)
    """Number of times that `labels_per_class` images are drawn; everything is measured with each draw."""
    finetune: FinetuneConfig = FinetuneConfig()
    """How the encoder is trained further, together with its head, before both are measured; its file never changes."""
    crops: int = Field(default=0, ge=0)
    """Number of crops, at fixed positions and sizes, whose mean feature the head reads; 0: the whole image."""
    attack_each_crop: bool = False
    """Whether each crop is attacked separately, as published, instead of the image through its crops."""
    images: int = Field(default=10_000, ge=1)
    """Number of test images for clean accuracy; all of them if there are fewer. `images`, `attacked_images` and
    `autoattack_images` are stratified samples seeded by `data.split_seed`, each a subset of the one before; a count
    that exceeds the one before means all of its images."""
    attacked_images: int = Field(default=10_000, ge=1)
    """Number of `images` that `attack` attacks."""
    norm: NormKey = "linf"
    """Norm of the balls of the attacks; if it is not given, that of the run's `evaluation.norm`, except in published
    protocols."""
    epsilons: tuple[Radius, ...] = Field(default=(4 / 255, 8 / 255, 16 / 255), strict=False)
    """Radii of the balls of the attacks."""
    attack: Annotated[AttackConfig, ComponentField(ATTACKS, PgdConfig)] = PGD_20.model_copy(update={"restarts": 5})
    """First attack at each radius."""
    margin_check: bool = True
    """Whether to run the same attack on the logit margin too, to reveal where gradients of the cross-entropy vanish."""
    autoattack_images: int = Field(default=1_000, ge=0)
    """Number of `attacked_images` for AutoAttack's standard version, which attacks only those that are still classified
    correctly after earlier attacks; 0: none."""
    autoattack_epsilons: tuple[Radius, ...] = Field(default=(4 / 255, 8 / 255), strict=False)
    """Radii at which AutoAttack runs."""
    corruptions: tuple[Corruption, ...] = Field(default=(), strict=False)
    """Common corruptions of the `images` under which accuracy is measured, without an attack."""
    severities: tuple[Severity, ...] = Field(default=SEVERITIES, strict=False)
    """Severities of each corruption, from 1 to 5."""
    batch_images: int | None = Field(default=None, ge=1, le=250)
    """Images that the encoder processes at once. It sets the memory used and, up to rounding, changes no result. Null:
    as many as fit into 2 GB of an attack's activations, from 1 to 250."""
    seed: int = Field(default=0, ge=0)
    """Seed of heads, attacks, crops, corruptions, and the order and draws of training images."""

    @model_validator(mode="after")
    def _consistent(self) -> "ProtocolConfig":
        attack = self.attack.component_name()
        if self.attack_each_crop and self.crops == 0:
            raise ValueError("attack_each_crop needs crops, the number of crops of an image, which is 0")
        if self.attack_each_crop and self.autoattack_images:
            raise ValueError("autoattack_images must be 0 with attack_each_crop: AutoAttack attacks images")
        if self.attack_each_crop and self.attack.images_only:
            raise ValueError(f"attack_each_crop must be false with attack.name {attack}, which attacks images")
        if self.margin_check and self.attack.on_margin() is None:
            raise ValueError(
                f"margin_check must be false with attack {self.attack.id}, which has no other loss to check"
            )
        if self.autoattack_images and self.attack.id == AUTOATTACK.id:
            raise ValueError(f"autoattack_images must be 0 with attack.name {attack}, which would run twice")
        if self.head.selects_l2 and not self.epsilons:
            raise ValueError(
                "epsilons is empty, but several strengths of head.l2 are compared at the first radius: set head.l2 to "
                "one strength"
            )
        if self.labels_per_class and self.head.selects_l2:
            raise ValueError(
                "labels_per_class leaves too few images to choose among several strengths of head.l2: set head.l2 to "
                "one strength, such as 0.1, or use the protocol few-labels"
            )
        if self.corruptions and not self.severities:
            raise ValueError("severities is empty, but corruptions has kinds: write [1, 2, 3, 4, 5]")
        missing = sorted(set(self.autoattack_epsilons) - set(self.epsilons))
        if self.autoattack_images and missing:
            shown = ", ".join(f"{e:g}" if self.norm == "l2" else f"{e * 255:g}/255" for e in missing)
            raise ValueError(f"autoattack_epsilons: {shown} is not among epsilons: AutoAttack continues after PGD")
        for key in ("epsilons", "autoattack_epsilons", "corruptions", "severities"):
            if len(set(values := getattr(self, key))) < len(values):
                raise ValueError(f"{key} must not repeat a value")
        self.attack.check_norm(self.norm)
        self.finetune.check_norm(self.norm)
        return self

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that differ between protocols that measure something else."""
        return digest_of(self.model_dump(mode="json", exclude={"name", "batch_images"}, exclude_defaults=True))

    def in_l2(self, epsilon: float) -> "ProtocolConfig":
        """A protocol of ours, with any of `HEADS`, in the l2 norm: a step of PGD is a quarter of the radius.

        Args:
            epsilon: radius in place of 4/255 in l∞; the others grow alike.
        """
        in_steps = {"step_size": None}
        of_head = {
            "norm": "l2",
            "epsilon": _scaled(self.head.epsilon, epsilon),
            "attack": self.head.attack.model_copy(update=in_steps),
        }
        return self.model_copy(
            update={
                "norm": "l2",
                "head": self.head.model_copy(update=of_head),
                "epsilons": tuple(_scaled(each, epsilon) for each in self.epsilons),
                "attack": self.attack.model_copy(update=in_steps),
                "autoattack_epsilons": tuple(_scaled(each, epsilon) for each in self.autoattack_epsilons),
            }
        )

    @property
    def attacks(self) -> list[AttackConfig]:
        """All attacks that the protocol runs, including those of adversarial training."""
        training = [self.head.attack] if "adversarial" in self.head.phases else []
        if self.finetune.training == "adversarial":
            training.append(self.finetune.attack)
        return [*training, *(stage.attack for epsilon in self.epsilons for stage in self.stages(epsilon))]

    def stages(self, epsilon: float) -> tuple[AttackStage, ...]:
        """The attacks at a radius in order; each attacks only images that are still classified correctly.

        Args:
            epsilon: one of `epsilons`.
        """
        stages = [AttackStage(self.attack, self.attacked_images)]
        margin = self.attack.on_margin() if self.margin_check else None
        if margin is not None:
            stages.append(AttackStage(margin, self.attacked_images))
        if self.autoattack_images and epsilon in self.autoattack_epsilons:
            stages.append(AttackStage(AUTOATTACK, self.autoattack_images))
        return tuple(stages)


def _published(name: str, *, steps: int) -> ProtocolConfig:
    """The evaluation of a published script: few steps from zero, at the radii of the paper's table."""
    return ProtocolConfig(
        name=name,
        head=HEADS[name],
        epsilons=(4 / 255, 8 / 255),
        attack=PgdConfig(steps=steps, step_size=0.01, start="zero", loss="cross_entropy", every_step=False),
        margin_check=False,
        autoattack_images=0,
        autoattack_epsilons=(),
    )


PROTOCOLS = {
    "standard": ProtocolConfig(name="standard"),
    "published-emp": _published("published-emp", steps=2),
    "published-simclr": _published("published-simclr", steps=20),
    "few-labels": ProtocolConfig(
        name="few-labels",
        head=HeadConfig(l2=(1e-1,)),
        labels_per_class=5,
        attacked_images=1_000,
        epsilons=(4 / 255, 8 / 255),
        autoattack_images=0,
    ),
    "corruptions": ProtocolConfig(
        name="corruptions",
        corruptions=CORRUPTIONS,
        attacked_images=1_000,
        epsilons=(4 / 255, 8 / 255),
        autoattack_images=0,
    ),
}
"""Protocols by name. The published ones are weaker than stated: 2 steps of 0.01 reach 5.1/255 of a ball of 8/255."""
PUBLISHED = ("published-emp", "published-simclr")
COMPARED = ("standard", *PUBLISHED)
"""Protocols of ``--protocol all``: those that measure the same thing, the accuracy of a head on all labels."""
