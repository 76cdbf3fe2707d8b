"""An attack that a module outside the package registers, in a search and in a protocol."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_protocols import CLASSES, CROPS, ENCODER, PROBE, TEST, TRAIN, VALIDATION

from cfamc_ray.config.attacks import ATTACKS, AttackConfig, AutoAttackConfig, PgdConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import resolve_protocol
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.counting import pixel_gradient
from cfamc_ray.cost.work import evaluation_work
from cfamc_ray.evaluation.batches import encode, predicted_right
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.probe import fit_converged
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.lifecycle.evaluation_plan import planned_evaluations
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.space.search_space import SearchSpace

MODULE = '''
from typing import ClassVar, Literal

from cfamc_ray.config.attacks import ATTACKS, AttackConfig, AttackPasses


@ATTACKS.register
class DarkenConfig(AttackConfig):
    """All pixels darker by a share of the radius."""

    implementation: ClassVar[str] = "darkening:Darken"

    name: Literal["darken"] = "darken"
    share: float = 1.0
    """Share of the radius."""

    @property
    def label(self):
        return f"darkening by {self.share:g}"

    def passes(self):
        return AttackPasses(forward=3, backward=2)


class Darken:
    def __init__(self, config):
        self.config = config

    def __call__(self, logits_of, images, labels, *, epsilon, generator, at_once, workers=None):
        return (images - self.config.share * epsilon).clamp(min=0)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "darkening.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "darkening"
    sys.modules.pop("darkening", None)
    ATTACKS.classes.pop("darken", None)


@pytest.fixture
def encoder() -> SelfSupervisedEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfSupervisedEncoder(ENCODER)


def study(module: str, **changes: Any) -> StudyConfig:
    evaluation = {"attack": {"name": "darken"}, "epsilon": 0.3, "attacked_images": 10, "head": {"l2": 1e-2}}
    tree = {"name": "dark", "plugins": [module], "trial": {"evaluation": evaluation}, **changes}
    return resolve_study(tree, source="dark.yaml")


def right_when_darker(encoder: SelfSupervisedEncoder, share: float) -> tuple[int, int]:
    """How many of the first 10 validation images are right, and how many of them stay so when they are darker."""
    classifier = LinearClassifier(encoder.eval().requires_grad_(False), torch.nn.Identity())
    head_config = study("darkening").trial.evaluation.head
    features_NF = encode(classifier, PROBE.images_NCHW)
    (classifier.head,) = fit_converged(features_NF, PROBE.labels_N, classes=CLASSES, config=head_config)
    right_N = predicted_right(classifier, VALIDATION)[:10]
    darker = (VALIDATION.images_NCHW[:10] / 255 - share * 0.3).clamp(min=0)
    still_N = right_N & (classifier(darker).argmax(-1) == VALIDATION.labels_N[:10])
    return int(right_N.sum()), int(still_N.sum())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_search_measures_under_it_with_the_values_of_a_point(
    module: str, encoder: SelfSupervisedEncoder, share: float
) -> None:
    searched = study(module, space={"evaluation.attack.share": {"choice": [0.0, 1.0]}})
    trial = searched.trial_at({"evaluation.attack.share": share})
    found = search_scores(
        encoder, PROBE, VALIDATION, classes=CLASSES, config=trial.evaluation, generator=torch.Generator()
    )
    clean, still = right_when_darker(encoder, share)
    assert found.balanced.robust_accuracy == still / 10
    assert (still < clean) is (share > 0)
    one = pixel_gradient(trial.encoder, 32)
    work, data = evaluation_work(trial), trial.data
    passes = data.probe_images + data.validation_images + 10 * (1 + 3)
    assert work.flops == passes * one.forward_flops + 10 * 2 * (one.flops - one.forward_flops)


def test_a_study_with_it_is_written_and_read_back(module: str) -> None:
    config = study(module)
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.trial.value_of("evaluation.attack.share") == 1.0
    assert config.trial.value_of("evaluation.attack.steps") is None


def test_a_protocol_runs_it_and_what_follows_sees_what_it_left(module: str, encoder: SelfSupervisedEncoder) -> None:
    study(module)
    own = ["attack=darken", "attack.share=0.5", "margin_check=false", "autoattack_images=0", "epsilons=[0.0, 0.3]"]
    protocol = resolve_protocol("standard", overrides=own)
    clean, none, some = run_protocol(encoder, TRAIN, TEST, classes=CLASSES, protocol=protocol, crops=CROPS)
    assert [(found.attack, found.label, found.after) for found in (none, some)] == [
        ("darken", "darkening by 0.5", ()),
        ("darken", "darkening by 0.5", ()),
    ]
    assert clean.right == none.right > some.right


def test_a_protocol_refuses_what_its_attack_cannot_do(module: str) -> None:
    study(module)
    with pytest.raises(InputError, match="margin_check must be false with attack darken, which has no other loss"):
        resolve_protocol("standard", overrides=["attack=darken"])
    with pytest.raises(InputError, match=r"autoattack_images must be 0 with attack\.name autoattack"):
        resolve_protocol("standard", overrides=["attack=autoattack", "margin_check=false"])
    overrides = [
        *("attack=autoattack", "margin_check=false", "autoattack_images=0"),
        "crops=2",
        "attack_each_crop=true",
    ]
    with pytest.raises(InputError, match=r"attack_each_crop must be false with attack\.name autoattack"):
        resolve_protocol("standard", overrides=overrides)


def test_an_evaluation_imports_the_modules_that_it_is_given(module: str) -> None:
    overrides = ["attack=darken", "margin_check=false"]
    with pytest.raises(InputError, match="there is no attack 'darken'"):
        planned_evaluations("cf-amc-ssl", ["standard"], overrides=overrides, untrained=True, device="cpu")
    (plan,) = planned_evaluations(
        "cf-amc-ssl", ["standard"], overrides=overrides, untrained=True, device="cpu", plugins=[module]
    )
    assert plan.protocol.attack.id == "darken"


def test_an_attack_on_encoders_in_float64_is_refused_where_it_needs_float32(encoder: SelfSupervisedEncoder) -> None:
    config = study_of("autoattack")
    with pytest.raises(ValueError, match=r"attack autoattack needs weights in torch\.float32"):
        search_scores(
            encoder.double(),
            PROBE,
            VALIDATION,
            classes=CLASSES,
            config=config.trial.evaluation,
            generator=torch.Generator(),
        )
    with pytest.raises(InputError, match=r"precision must not be float64 with evaluation\.attack\.name autoattack"):
        study_of("autoattack", pretraining={"precision": "float64"})


@pytest.mark.parametrize("written", ["pgd", {"name": "pgd"}, {"name": "pgd", "restarts": 1}], ids=str)
def test_an_override_reaches_an_attack_however_it_was_written(written: Any) -> None:
    tree = {"name": "a", "trial": {"evaluation": {"attack": written}}}
    config = resolve_study(tree, ["evaluation.attack.steps=3", "evaluation.head.l2=1/2"], source="a.yaml")
    assert config.trial.evaluation.attack == PgdConfig(steps=3)
    assert config.trial.evaluation.head.l2 == (0.5,)


def test_constraints_reach_its_keys() -> None:
    tree = {
        "name": "a",
        "trial": {"evaluation": {"attack": "pgd"}},
        "space": {"evaluation.attack.steps": {"int": [1, 9]}, "evaluation.attack.restarts": {"int": [1, 9]}},
        "constraints": ["evaluation.attack.steps * evaluation.attack.restarts <= 9"],
    }
    products = [point.values() for point in SearchSpace(resolve_study(tree, source="a.yaml")).points()]
    assert max(a * b for a, b in products) == 9  # type: ignore[operator]


def study_of(attack: str, **trial: Any) -> StudyConfig:
    return resolve_study({"name": "a", "trial": {"evaluation": {"attack": attack}, **trial}}, source="a.yaml")


def test_a_step_is_a_share_of_the_radius_or_the_same_at_every_radius() -> None:
    assert [PgdConfig().step_at(epsilon) for epsilon in (4 / 255, 0.4)] == [0.25 * 4 / 255, 0.1]
    assert [PgdConfig(step_size=0.01).step_at(epsilon) for epsilon in (4 / 255, 0.4)] == [0.01, 0.01]


def test_ids_and_labels_tell_attacks_apart() -> None:
    attacks: list[AttackConfig | None] = [
        PgdConfig(steps=20, loss="cross_entropy"),
        PgdConfig(steps=20, loss="cross_entropy").on_margin(),
    ]
    attacks += [PgdConfig(), AutoAttackConfig()]
    assert [(attack.id, attack.label) for attack in attacks if attack] == [
        ("pgd", "PGD-20"),
        ("pgd_margin", "PGD-20 on the margin"),
        ("pgd_margin", "PGD-10 on the margin"),
        ("autoattack", "AutoAttack"),
    ]
