from typing import Any

import pytest
from pydantic import ValidationError

from cfamc_ray.config.attacks import PgdConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.heads import HEADS, HeadConfig
from cfamc_ray.config.protocol import COMPARED, PROTOCOLS, ProtocolConfig
from cfamc_ray.config.reading import resolve_protocol


@pytest.mark.parametrize(
    "values",
    [
        {"fit": "lbfgs"},
        {"features": "projector"},
        {"l2": 0},
        {"l2": float("nan")},
        {"tolerance": 0},
        {"iterations": 0},
        {"phases": ["clean", "dirty"]},
        {"phases": "clean"},
        {"epochs": 0},
        {"epochs": 2.0},
        {"lr": 0},
        {"momentum": 1},
        {"momentum": -0.1},
        {"weight_decay": -1},
        {"cosine_epochs": 0},
        {"batch_images": 0},
        {"epsilon": 8},
        {"epsilon": "8/0"},
        {"attack": {"steps": 0}},
        {"attack": {"step_size": -0.1}},
        {"attack": {"restarts": 0}},
        {"attack": {"start": "random"}},
        {"attack": {"epsilon": 0.1}},
        {"heads": 1},
    ],
    ids=str,
)
def test_a_head_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HeadConfig.model_validate(values)


@pytest.mark.parametrize("fit", ["adam", "sgd"])
def test_a_head_that_would_never_learn_is_refused(fit: str) -> None:
    with pytest.raises(ValidationError, match=rf"phases is empty, so a head with fit {fit} .* write \[clean\]"):
        HeadConfig.model_validate({"fit": fit})
    assert HeadConfig.model_validate({"fit": fit, "phases": ["clean"]}).phases == ("clean",)
    assert HeadConfig(fit="converged").phases == ()


@pytest.mark.parametrize(
    "values",
    [
        {"crops": -1},
        {"images": 0},
        {"attacked_images": 0},
        {"epsilons": [2]},
        {"epsilons": ["a"]},
        {"epsilons": "4/255"},
        {"attack": {"steps": 0}},
        {"autoattack_images": -1},
        {"seed": -1},
        {"margin_check": 1},
        {"nothing": 1},
        {"head": {"fit": "adam"}},
        {"name": 3},
    ],
    ids=str,
)
def test_a_protocol_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProtocolConfig.model_validate({"name": "a", **values})


def test_a_protocol_needs_a_name() -> None:
    with pytest.raises(ValidationError, match="name"):
        ProtocolConfig.model_validate({})


def test_crops_cannot_be_attacked_where_there_are_none() -> None:
    with pytest.raises(ValidationError, match="attack_each_crop needs crops"):
        ProtocolConfig(name="a", attack_each_crop=True, autoattack_images=0)


def test_autoattack_cannot_attack_crops() -> None:
    with pytest.raises(ValidationError, match="autoattack_images must be 0 with attack_each_crop"):
        ProtocolConfig(name="a", attack_each_crop=True, crops=2)
    assert ProtocolConfig(name="a", attack_each_crop=True, crops=2, autoattack_images=0).crops == 2


def test_autoattack_runs_where_pgd_ran_before_it() -> None:
    with pytest.raises(ValidationError, match=r"autoattack_epsilons: 2/255, 16/255 is not among epsilons"):
        ProtocolConfig(name="a", epsilons=(4 / 255,), autoattack_epsilons=(16 / 255, 4 / 255, 2 / 255))
    unused = ProtocolConfig(name="a", epsilons=(4 / 255,), autoattack_epsilons=(1.0,), autoattack_images=0)
    assert unused.autoattack_images == 0


def test_the_standard_protocol_is_stronger_than_what_is_published() -> None:
    standard = PROTOCOLS["standard"]
    assert standard.attack == PgdConfig(
        steps=20, step_size=2 / 255, restarts=5, start="uniform", loss="cross_entropy", every_step=False
    )
    assert standard.margin_check
    assert standard.autoattack_epsilons == (4 / 255, 8 / 255)
    assert standard.autoattack_images == 1000
    assert standard.head == HEADS["standard"] == HeadConfig()


@pytest.mark.parametrize(("name", "steps"), [("published-emp", 2), ("published-simclr", 20)])
def test_the_published_protocols_are_as_their_code_has_them(name: str, steps: int) -> None:
    protocol = PROTOCOLS[name]
    assert (protocol.name, protocol.head) == (name, HEADS[name])
    assert protocol.attack == PgdConfig(
        steps=steps, step_size=0.01, restarts=1, start="zero", loss="cross_entropy", every_step=False
    )
    assert protocol.epsilons == (4 / 255, 8 / 255)
    assert (protocol.margin_check, protocol.autoattack_images, protocol.crops) == (False, 0, 0)


def test_the_published_heads_are_as_their_code_has_them() -> None:
    emp, simclr, robust, crops = (HEADS[f"published-{name}"] for name in ("emp", "simclr", "simclr-robust", "crops"))
    assert (emp.phases, emp.epochs) == (("clean", "adversarial", "clean"), 2)
    assert (simclr.phases, simclr.epochs) == (("clean",), 20)
    assert (robust.phases, robust.epochs) == (("adversarial",), 20)
    for head in (emp, simclr, robust):
        assert (head.fit, head.lr, head.batch_images, head.features) == ("adam", 3e-4, 256, "prefeature")
        assert head.cosine_epochs is None
    for head in (emp, robust):
        assert head.attack == PgdConfig(
            steps=5, step_size=0.01, restarts=1, start="zero", loss="cross_entropy", every_step=False
        )
        assert head.epsilon == 8 / 255
    assert (crops.fit, crops.lr, crops.phases) == ("sgd", 0.03, ("clean",))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_without_overrides_a_protocol_is_the_one_of_its_name(name: str) -> None:
    assert PROTOCOLS[name].name == name
    assert resolve_protocol(name) == PROTOCOLS[name]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("head.epochs=3", {"head": HEADS["published-emp"].model_copy(update={"epochs": 3})}),
        (
            "head.attack.steps=9",
            {
                "head": HEADS["published-emp"].model_copy(
                    update={
                        "attack": PgdConfig(
                            steps=9, step_size=0.01, start="zero", loss="cross_entropy", every_step=False
                        )
                    }
                )
            },
        ),
        (
            "attack.steps=7",
            {"attack": PgdConfig(steps=7, step_size=0.01, start="zero", loss="cross_entropy", every_step=False)},
        ),
        (
            "attack.step_size=2/255",
            {"attack": PgdConfig(steps=2, step_size=2 / 255, start="zero", loss="cross_entropy", every_step=False)},
        ),
        ("epsilons=[4/255]", {"epsilons": (4 / 255,)}),
        ("epsilons=[0.5, 1/255]", {"epsilons": (0.5, 1 / 255)}),
        ("head.phases=[clean]", {"head": HEADS["published-emp"].model_copy(update={"phases": ("clean",)})}),
        ("margin_check=true", {"margin_check": True}),
        ("seed=4", {"seed": 4}),
    ],
)
def test_an_override_changes_its_key_alone(override: str, changed: dict[str, Any]) -> None:
    expected = PROTOCOLS["published-emp"].model_copy(update=changed)
    assert expected != PROTOCOLS["published-emp"]
    assert resolve_protocol("published-emp", overrides=[override]) == expected


def test_severities_are_needed_where_something_is_corrupted() -> None:
    with pytest.raises(InputError, match=r"severities is empty, but corruptions has kinds: write \[1, 2, 3, 4, 5\]"):
        resolve_protocol("corruptions", overrides=["severities=[]"])
    assert resolve_protocol("standard", overrides=["severities=[]"]).severities == ()


def test_the_protocol_of_corruptions_measures_all_of_them_with_the_head_of_the_standard_one() -> None:
    protocol, standard = PROTOCOLS["corruptions"], PROTOCOLS["standard"]
    assert (len(protocol.corruptions), protocol.severities) == (15, (1, 2, 3, 4, 5))
    assert (protocol.head, protocol.epsilons[0], protocol.images) == (
        standard.head,
        standard.epsilons[0],
        standard.images,
    )
    assert standard.corruptions == ()


def test_the_protocol_of_few_labels_needs_no_further_key() -> None:
    protocol = resolve_protocol("few-labels", overrides=["labels_per_class=1"])
    assert (protocol.labels_per_class, protocol.draws, protocol.head.l2) == (1, 5, (0.1,))


def test_the_attack_of_adversarial_fine_tuning_is_among_the_attacks_of_a_protocol() -> None:
    keys = ["finetune.layers=all", "finetune.attack.steps=3"]
    protocol = resolve_protocol("standard", overrides=[*keys, "finetune.training=adversarial"])
    assert (
        protocol.attacks[0]
        == protocol.finetune.attack
        == PROTOCOLS["standard"].finetune.attack.model_copy(update={"steps": 3})
    )
    standard = resolve_protocol("standard", overrides=["finetune.layers=all"])
    assert standard.finetune.attack not in standard.attacks


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune.layers=all", "finetune.epsilon=4/255"], "epsilon is set, but training is standard"),
        (["finetune.layers=all", "finetune.attack.steps=3"], "attack is set, but training is standard"),
        (["epsilons=[4/255, 8/255, 4/255]"], "epsilons must not repeat a value"),
        (["corruptions=[snow, snow]"], "corruptions must not repeat a value"),
        (["corruptions=[snow]", "severities=[1, 1]"], "severities must not repeat a value"),
    ],
)
def test_what_would_change_nothing_or_count_twice_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_protocol("standard", overrides=overrides)


def test_all_protocols_together_are_those_that_were_compared() -> None:
    assert COMPARED == ("standard", "published-emp", "published-simclr")
    assert set(COMPARED) < set(PROTOCOLS)


def test_overrides_are_checked_together_and_the_last_of_a_key_counts() -> None:
    protocol = resolve_protocol(
        "standard", overrides=["epsilons=[1/255]", "autoattack_epsilons=[1/255]", "seed=1", "seed=2"]
    )
    assert (protocol.epsilons, protocol.autoattack_epsilons, protocol.seed) == ((1 / 255,), (1 / 255,), 2)
    assert PROTOCOLS["standard"].seed == 0


@pytest.mark.parametrize("head", HEADS)
def test_another_head_comes_by_its_name_and_can_be_changed(head: str) -> None:
    assert resolve_protocol("standard", head=head) == PROTOCOLS["standard"].model_copy(update={"head": HEADS[head]})
    assert resolve_protocol("standard", head=head, overrides=["head.lr=0.5"]).head == HEADS[head].model_copy(
        update={"lr": 0.5}
    )


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sede=1", ("unknown key sede", "did you mean seed?")),
        ("head.epoch=3", ("unknown key head.epoch", "did you mean epochs?")),
        ("attack.stepz=3", ("unknown key attack.stepz", "did you mean steps?")),
        ("head.attack.restart=3", ("unknown key head.attack.restart", "did you mean restarts?")),
        ("zzz=3", ("unknown key zzz", "known here: name, head, labels_per_class")),
        ("attack.steps=0", ("attack.steps", "greater than or equal to 1", "it is 0")),
        ("attack=3", ("attack", "it is 3")),
        ("attack.steps.more=3", ("attack.steps", "valid integer")),
        ("epsilons=[4]", ("epsilons.0", "less than or equal to 1", "it is 4")),
        ("epsilons=[4/255]", ("autoattack_epsilons: 8/255 is not among epsilons",)),
        ("head.fit=sgd", ("head", "phases is empty", "write [clean]")),
        ("attack_each_crop=true", ("attack_each_crop needs crops",)),
        ("labels_per_class=5", ("several strengths of head.l2", "one strength, such as 0.1", "protocol few-labels")),
        ("labels_per_class=0", ("labels_per_class", "greater than or equal to 1", "it is 0")),
        ("corruptions=[rain]", ("corruptions.0", "'gaussian_noise'", "'fog'", "it is 'rain'")),
        ("severities=[6]", ("severities.0", "less than or equal to 5", "it is 6")),
        ("finetune.layers=some", ("finetune.layers", "'none', 'last_block' or 'all'", "it is 'some'")),
        ("finetune.layer=all", ("unknown key finetune.layer", "did you mean layers?")),
        ("finetune.epochs=3", ("finetune: epochs is set, but layers is none", "set layers to all or last_block")),
        ("finetune.attack.steps=3", ("finetune: attack is set, but layers is none",)),
    ],
)
def test_a_bad_override_is_refused_in_one_line_with_protocol_key_and_remedy(
    override: str, named: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        resolve_protocol("standard", overrides=[override])
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"protocol standard with --set {override}: ")
    assert [part for part in named if part not in message] == [], message


@pytest.mark.parametrize("override", ["seed", "epsilons=[", "=3"])
def test_what_is_no_override_is_refused(override: str) -> None:
    with pytest.raises(InputError, match="--set"):
        resolve_protocol("standard", overrides=[override])
