"""The norm of radii: in training, in the evaluation of a search, in protocols and in confirmation."""

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from cfamc_ray.config.attacks import AttackConfig, PgdConfig
from cfamc_ray.config.confirm import ConfirmConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.heads import HEADS
from cfamc_ray.config.protocol import PROTOCOLS
from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.reading import resolve_protocol
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.space.reading import resolve_study

L2: dict[str, Any] = {"perturbation": {"norm": "l2", "epsilon": 1}, "evaluation": {"norm": "l2", "epsilon": 0.5}}


def digest(tree: object) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def trial(**sections: Any) -> TrialConfig:
    return TrialConfig.model_validate(sections)


def study(trial: dict[str, Any] | None = None, space: dict[str, Any] | None = None) -> StudyConfig:
    return resolve_study({"name": "norms", "trial": trial or {}, "space": space or {}}, source="norms.yaml")


class TestWhatWasRecordedBefore:
    """Digests of the configs before there was a norm."""

    def test_the_default_trial_is_written_as_it_was(self) -> None:
        assert TrialConfig().fingerprint == "44136fa355b3"
        assert digest(TrialConfig().model_dump(mode="json")) == "0772a5917449"

    @pytest.mark.parametrize(
        ("name", "before"),
        [("standard", "eaa0be6e0259"), ("published-emp", "c5619e329e15"), ("published-simclr", "baa7511a71ce")],
    )
    def test_protocols_are_written_as_they_were(self, name: str, before: str) -> None:
        later = {"labels_per_class", "draws", "finetune", "corruptions", "severities"}
        assert digest(PROTOCOLS[name].model_dump(mode="json", exclude=later)) == before

    def test_a_trial_that_names_the_default_norm_is_the_same(self) -> None:
        named = trial(perturbation={"norm": "linf"}, evaluation={"norm": "linf"})
        assert named == TrialConfig()
        assert named.model_dump(mode="json") == TrialConfig().model_dump(mode="json")

    def test_l2_is_written_and_read_back(self) -> None:
        config = study(L2)
        again = StudyConfig.model_validate(config.model_dump(mode="json"))
        assert again == config
        assert (again.trial.perturbation.radii_norm, again.trial.evaluation.norm) == ("l2", "l2")
        assert config.trial.fingerprint != trial(perturbation={"epsilon": 1}).fingerprint


class TestRadii:
    @pytest.mark.parametrize("epsilon", [0.5, "128/255", 1, 30.0])
    def test_any_length_is_allowed_in_l2(self, epsilon: Any) -> None:
        config = trial(perturbation={"norm": "l2", "epsilon": epsilon}, evaluation={"norm": "l2", "epsilon": epsilon})
        assert config.perturbation.radii(2)[0] == config.evaluation.epsilon > 0

    @pytest.mark.parametrize("section", ["perturbation", "evaluation"])
    @pytest.mark.parametrize("bad", [{"epsilon": 8}, {"norm": "linf", "epsilon": 1.5}, {"norm": "l2", "epsilon": -1}])
    def test_a_radius_out_of_bounds_is_refused_at_its_key(self, section: str, bad: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as refused:
            trial(**{section: bad})
        assert [problem["loc"][-1] for problem in refused.value.errors()] == ["epsilon"]

    def test_the_step_is_a_share_of_the_radius(self) -> None:
        config = trial(perturbation={"norm": "l2", "epsilon": 2, "step_ratio": 0.25}).perturbation
        assert config.step_size == 0.5  # type: ignore[attr-defined]

    def test_default_radii_of_linf_are_refused_in_l2_with_radii_of_their_size(self) -> None:
        with pytest.raises(InputError) as refused:
            study({"perturbation": {"norm": "l2"}, "evaluation": {"norm": "l2"}})
        for part in ("perturbation.epsilon 8/255", "such as 1,", "evaluation.epsilon 4/255", "such as 0.5,"):
            assert part in str(refused.value)

    def test_where_the_radius_is_searched_none_has_to_be_given(self) -> None:
        config = study({"perturbation": {"norm": "l2"}}, {"perturbation.epsilon": {"float": [0.25, 3]}})
        assert config.trial_at({"perturbation.epsilon": 2.5}).perturbation.radii(1) == [2.5]

    def test_a_searched_norm_needs_radii_that_suit_each(self) -> None:
        norms = {"perturbation.norm": {"choice": ["linf", "l2"]}}
        assert study({}, {**norms, "perturbation.epsilon": {"choice": [0.03, 1.0]}}).space
        with pytest.raises(InputError, match=r"perturbation\.epsilon 8/255 is the default of norm linf"):
            study({}, norms)


class TestAttacks:
    def test_a_step_in_pixels_is_refused_in_l2(self) -> None:
        with pytest.raises(ValidationError, match=r"attack\.step_size must be null with norm l2"):
            EvaluationConfig(norm="l2", epsilon=0.5, attack=PgdConfig(step_size=2 / 255))

    def test_an_attack_in_linf_alone_is_refused_in_l2_and_not_told_its_norm(self) -> None:
        class Corners(PgdConfig):
            norms = ("linf",)

        with pytest.raises(ValidationError, match=r"norm must be linf with attack\.name pgd"):
            EvaluationConfig(norm="l2", epsilon=0.5, attack=Corners())
        assert Corners().ball(0.1, "linf") == {"epsilon": 0.1}
        assert PgdConfig().ball(0.1, "l2") == {"epsilon": 0.1, "norm": "l2"}
        assert AttackConfig.norms == ("linf",)


class TestProtocols:
    def test_the_standard_one_has_the_norm_and_radii_of_the_trial(self) -> None:
        protocol = resolve_protocol("standard", trial=trial(**L2))
        assert (protocol.norm, protocol.epsilons, protocol.autoattack_epsilons) == ("l2", (0.5, 1.0, 2.0), (0.5, 1.0))
        assert protocol.attack == PgdConfig(steps=20, restarts=5, loss="cross_entropy", every_step=False)

    def test_asked_for_at_a_run_in_linf_it_begins_at_a_radius_of_the_same_size(self) -> None:
        protocol = resolve_protocol("standard", overrides=["norm=l2"], trial=trial(crops={"size": 32}))
        assert protocol.epsilons == pytest.approx((128 / 255, 256 / 255, 512 / 255))

    def test_linf_can_be_asked_for_at_a_run_in_l2(self) -> None:
        assert resolve_protocol("standard", overrides=["norm=linf"], trial=trial(**L2)) == PROTOCOLS["standard"]

    @pytest.mark.parametrize("name", ["few-labels", "corruptions"])
    def test_those_of_transfer_and_shift_follow_the_trial_too(self, name: str) -> None:
        protocol = resolve_protocol(name, trial=trial(**L2))
        in_l2 = PgdConfig(steps=20, restarts=5, loss="cross_entropy", every_step=False)
        assert (protocol.norm, protocol.epsilons, protocol.attack) == ("l2", (0.5, 1.0), in_l2)

    def test_adversarial_fine_tuning_needs_a_radius_and_a_step_of_its_own_in_l2(self) -> None:
        tuned = ["finetune.layers=all", "finetune.training=adversarial"]
        with pytest.raises(InputError, match=r"attack\.step_size must be null with norm l2"):
            resolve_protocol("standard", overrides=tuned, trial=trial(**L2))
        tuned += ["finetune.attack.step_size=null"]
        with pytest.raises(InputError, match=r"finetune\.epsilon: give a radius with norm l2"):
            resolve_protocol("standard", overrides=tuned, trial=trial(**L2))
        tuned += ["finetune.epsilon=1.5"]
        assert resolve_protocol("standard", overrides=tuned, trial=trial(**L2)).finetune.epsilon == 1.5
        with pytest.raises(InputError, match=r"finetune\.epsilon must be less than or equal to 1 with norm linf"):
            resolve_protocol("standard", overrides=tuned)

    @pytest.mark.parametrize("name", ["published-emp", "published-simclr"])
    def test_published_ones_stay_in_linf(self, name: str) -> None:
        assert resolve_protocol(name, trial=trial(**L2)) == PROTOCOLS[name]
        with pytest.raises(InputError, match=r"attack\.step_size must be null with norm l2"):
            resolve_protocol(name, overrides=["norm=l2"])

    def test_a_head_is_attacked_in_the_same_norm_at_the_second_radius(self) -> None:
        head = resolve_protocol("standard", head="adversarial", trial=trial(**L2)).head
        assert (head.norm, head.epsilon) == ("l2", 1.0)
        assert head.attack == HEADS["adversarial"].attack.model_copy(update={"step_size": None})

    def test_radii_above_one_are_for_l2(self) -> None:
        radii = ["epsilons=[3]", "autoattack_epsilons=[3]"]
        assert resolve_protocol("standard", overrides=radii, trial=trial(**L2)).epsilons == (3.0,)
        with pytest.raises(InputError, match=r"epsilons\.0.*less than or equal to 1"):
            resolve_protocol("standard", overrides=["epsilons=[3]"])

    def test_an_unknown_radius_of_autoattack_is_named_as_it_is_written(self) -> None:
        with pytest.raises(InputError, match=r"autoattack_epsilons: 0\.7 is not among"):
            resolve_protocol("standard", overrides=["autoattack_epsilons=[0.7]"], trial=trial(**L2))

    def test_confirmation_has_the_norm_of_the_trials_evaluation(self) -> None:
        confirm = ConfirmConfig()
        protocol = confirm.protocol(trial(**L2).evaluation, l2=0.1)
        assert (protocol.norm, protocol.epsilons, protocol.autoattack_epsilons) == ("l2", (0.5,), (0.5,))
        assert protocol.attack == PgdConfig(steps=20, loss="cross_entropy", every_step=False)
        in_linf = confirm.protocol(trial().evaluation, l2=0.1)
        assert (in_linf.norm, in_linf.attack) == (
            "linf",
            PROTOCOLS["standard"].attack.model_copy(update={"restarts": 1}),
        )


class TestNormsOfAStudy:
    def test_in_linf_there_is_nothing_to_tell(self) -> None:
        assert norms_of(study({}, {"perturbation.epsilon": {"float": [0.01, 0.1]}})) == {}
        assert norms_of(study({"perturbation": "none"})) == {}

    def test_each_section_has_its_own(self) -> None:
        shown = norms_of(study({"evaluation": L2["evaluation"]}))
        assert shown == {"evaluation.epsilon": "l2", "trunk.evaluation.epsilon": "l2"}

    def test_one_that_is_searched_is_known_to_the_point_alone(self) -> None:
        norm = {"perturbation.norm": {"choice": ["linf", "l2"]}}
        config = study({}, {**norm, "perturbation.epsilon": {"choice": [0.03, 1.0]}})
        assert norms_of(config)["perturbation.epsilon"] is None
        constant = study({}, {"perturbation.norm": "l2", "perturbation.epsilon": {"choice": [0.3, 1.0]}})
        assert norms_of(constant)["perturbation.epsilon"] == "l2"
