from operator import attrgetter
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cfamc_ray.config.attacks import PgdConfig
from cfamc_ray.config.trial import TrialConfig, trial_keys

COUNTS = st.integers(1, 12)
PGD: dict[str, Any] = {"perturbation.attack": "pgd", "pretraining.replays": 1}
SIMCLR_PGD: dict[str, Any] = {
    "crops.views": 2,
    "loss.name": "nt_xent",
    "perturbation.attack": "pgd",
    "perturbation.clean_views": 1,
    "pretraining.replays": 1,
}


def trial(**sections: Any) -> TrialConfig:
    return TrialConfig.model_validate(sections)


def other_value(key: str, default: TrialConfig) -> Any:
    """A valid value other than the default."""
    section, _, leaf = key.rpartition(".")
    model = type(attrgetter(section)(default)) if section else TrialConfig
    value, choices = default.value_of(key), get_args(model.model_fields[leaf].annotation)
    components: dict[str, Any] = {"loss.name": "nt_xent", "data.name": "digits", "perturbation.attack": "none"}
    components |= {"encoder.architecture": "resnet50", "evaluation.attack.name": "autoattack"}
    components |= {"optimizer.name": "adamw", "optimizer.warm_up": 0.1}
    if key in components:
        return components[key]
    match value:
        case "auto" if bool in choices:
            return False
        case str():
            return next(choice for choice in choices if choice not in (value, "pgd"))
        case bool():
            return not value
        case int():
            return value + 4
        case float():
            return value / 2
        case () if key == "stages":
            return [{"epochs": 1, "values": {"pretraining.replays": 1}}]
        case ():
            return ["effective_rank"]
        case low, high:
            return (low, (low + high) / 2)
        case (*strengths, _) if key == "evaluation.head.l2":
            return strengths
        case None:
            others = {"evaluation.transfer": {"name": "cifar100"}, "evaluation.attack.step_size": 0.01}
            return others.get(key, 3)
    raise AssertionError(f"{key} has a default of a new kind: {value!r}")


@given(views=st.integers(2, 9), replays=COUNTS, epochs=COUNTS, images=st.integers(2, 60), batch=st.integers(2, 60))
def test_free_replay_costs_views_times_replays_per_image(
    views: int, replays: int, epochs: int, images: int, batch: int
) -> None:
    batch = min(batch, images)
    free = trial(
        data={"pretrain_images": images},
        crops={"views": views},
        pretraining={"epochs": epochs, "replays": replays, "batch_images": batch},
    )
    complete = images - images % batch
    assert free.minibatches_per_epoch * batch == complete
    assert free.updates == epochs * replays * complete // batch
    assert free.attack_passes_per_epoch == 0
    assert free.crop_passes == epochs * views * replays * complete
    assert free.with_values({"perturbation.attack": "none"}).crop_passes == free.crop_passes


@given(views=st.integers(2, 9), steps=COUNTS, epochs=COUNTS, batches=COUNTS)
def test_pgd_costs_views_times_steps_plus_one_per_image(views: int, steps: int, epochs: int, batches: int) -> None:
    pgd = trial(
        data={"pretrain_images": 10 * batches + 7},
        crops={"views": views},
        perturbation={"attack": "pgd", "steps": steps},
        pretraining={"epochs": epochs, "replays": 1, "batch_images": 10},
    )
    assert pgd.updates == epochs * batches
    assert pgd.attack_passes_per_epoch == views * steps * 10 * batches
    assert pgd.crop_passes == epochs * views * (steps + 1) * 10 * batches


def test_the_default_is_the_paper_s_recipe() -> None:
    paper = TrialConfig().with_values({"pretraining.epochs": 10, "pretraining.replays": 3, "crops.views": 16})
    assert paper == TrialConfig()
    assert paper.crop_passes == 16 * 3 * 10 * 45_000
    assert paper.perturbation.radii(2) == [8 / 255, 8 / 255]
    assert paper.value_of("perturbation.step_size") == pytest.approx(0.01)


@pytest.mark.parametrize("key", [key for key in trial_keys() if key != "data.path"])
def test_every_key_changes_the_fingerprint(key: str) -> None:
    default = TrialConfig()
    needed: dict[str, dict[str, Any]] = {
        "loss.name": {"crops.views": 2},
        "loss.temperature": {"loss.name": "sup_con"},
        "pretraining.activation_checkpointing": {"pretraining.views_at_once": 4},
        "perturbation.attack_positive": SIMCLR_PGD,
        **{f"perturbation.{key}": PGD for key in ("steps", "keep_attack_gradients", "attack_in_train_mode")},
        "data.image_size": {"data.name": "digits"},
        "optimizer.betas": {"optimizer.name": "adamw"},
        **{f"evaluation.attack.{key}": {"evaluation.attack.name": "pgd"} for key in PgdConfig.own_keys()},
    }
    default = default.with_values(needed.get(key, {}))
    changed = default.with_values({key: other_value(key, default)})
    assert changed != default
    assert changed.fingerprint != default.fingerprint


def test_an_optimizer_is_written_so_that_it_is_read_back_and_what_was_recorded_stays_equal() -> None:
    lars, adamw = trial(optimizer={"lr": 0.1}), trial(optimizer={"name": "adamw", "warm_up": 0.1})
    assert lars.model_dump(mode="json")["optimizer"] == {
        **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "trust_coefficient": 0.005, "schedule": "updates"}
    }
    assert (lars.fingerprint, lars.value_of("optimizer.name")) == ("a2c56bce0255", "lars")
    assert adamw.model_dump(mode="json")["optimizer"] == {
        **{"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "updates", "warm_up": 0.1},
        "betas": [0.9, 0.999],
    }
    for each in (lars, adamw):
        assert TrialConfig.model_validate(each.model_dump(mode="json")) == each
    assert lars.with_values({"optimizer.name": "adamw", "optimizer.warm_up": 0.1}).optimizer.name == "adamw"
    with pytest.raises(ValidationError, match="betas must be at least 0 and below 1"):
        trial(optimizer={"name": "adamw", "betas": [0.9, 1.0]})


def test_equal_configs_have_equal_fingerprints() -> None:
    whole = trial(optimizer={"lr": 1}, crops={"scale": [0.25, 1]})
    assert whole == trial(optimizer={"lr": 1.0}, crops={"scale": (1 / 4, 1.0)})
    assert whole.fingerprint == trial(optimizer={"lr": 1.0}, crops={"scale": (1 / 4, 1.0)}).fingerprint
    assert len(whole.fingerprint) == 12
    assert int(whole.fingerprint, 16) >= 0


def test_values_replace_keys_and_leave_the_rest_and_the_original() -> None:
    default = TrialConfig()
    changed = default.with_values({"crops.views": 4, "seed": 7, "perturbation.epsilon": "8/255"})
    assert (changed.crops.views, changed.seed, changed.value_of("perturbation.epsilon")) == (4, 7, 8 / 255)
    assert changed.with_values({"crops.views": 16, "seed": 0}) == default == TrialConfig()


@pytest.mark.parametrize(
    "values",
    [
        {"crops.viws": 4},
        {"crop.views": 4},
        {"nothing": 4},
        {"crops.views": 1},
        {"crops.views": True},
        {"crops.views": 4.0},
        {"crops.views": "4"},
        {"crops.scale": (0.5, 0.1)},
        {"crops.scale": (0, 1)},
        {"crops.scale": (0.1, 1.5)},
        {"crops.ratio": (-1, 1)},
        {"crops.blur_sigma": (0, 1)},
        {"crops.flip_probability": 1.01},
        {"crops.flip_probability": -0.01},
        {"crops.hue": 0.6},
        {"perturbation.epsilon": -0.1},
        {"perturbation.epsilon": 8},
        {"perturbation.epsilon": float("nan")},
        {"perturbation.step_ratio": 0},
        {"encoder.width": 6},
        {"optimizer.momentum": 1.0},
        {"optimizer.lr": float("inf")},
        {"evaluation.head.l2": 0},
        {"pretraining.replays": 0},
        {"perturbation.attack": "pgd"},
        {"pretraining.batch_images": 45_001},
        {"data.name": "npz"},
        {"data.path": "images.npz"},
    ],
    ids=str,
)
def test_values_that_are_out_of_bounds_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrialConfig().with_values(values)


def test_a_config_cannot_be_changed() -> None:
    config = TrialConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.crops.views = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"loss.name": "emp_ssl"}, "not emp_ssl and 1"),
        ({"perturbation.clean_views": 0}, "not nt_xent and 0"),
    ],
    ids=str,
)
def test_only_simclr_with_pgd_contrasts_a_view_with_itself(changed: dict[str, Any], found: str) -> None:
    simclr = TrialConfig().with_values(SIMCLR_PGD)
    itself = {"perturbation.attack_positive": "self"}
    assert simclr.with_values(itself).value_of("perturbation.attack_positive") == "self"
    assert simclr.with_values(changed).value_of("perturbation.attack_positive") == "first"
    with pytest.raises(ValidationError, match=f"perturbation.attack_positive self needs .* {found}: set it to first"):
        simclr.with_values({**changed, **itself})


def test_recomputing_needs_chunks() -> None:
    with pytest.raises(ValidationError, match="activation_checkpointing needs views_at_once"):
        trial(pretraining={"activation_checkpointing": True})
    assert trial(
        pretraining={"activation_checkpointing": True, "views_at_once": 2}
    ).pretraining.activation_checkpointing


def test_keys_name_every_setting_once() -> None:
    keys = trial_keys()
    assert len(set(keys)) == len(keys)
    assert {"seed", "crops.views", "perturbation.epsilon", "evaluation.attacked_images"} <= set(keys)
    unset = {key for key in keys if TrialConfig().value_of(key) is None}
    of_others = {"loss.temperature", "data.path", "data.image_size", "optimizer.betas"}
    of_pgd = {f"perturbation.{key}" for key in ("steps", "keep_attack_gradients", "attack_in_train_mode")}
    of_pgd.add("perturbation.attack_positive")
    of_attack = {f"evaluation.attack.{key}" for key in PgdConfig.own_keys()}
    assert unset - of_others - of_pgd - of_attack == {
        "pretraining.views_at_once",
        "evaluation.transfer",
        "evaluation.batch_images",
    }


TRANSFER = {"name": "digits", "image_size": 32, "pretrain_images": 100, "probe_images": 100, "validation_images": 50}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"data.validation_images": 1}, "data"),
        ({"evaluation.transfer": {**TRANSFER, "validation_images": 1}}, "evaluation.transfer"),
    ],
)
def test_a_single_validation_image_is_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}\.validation_images must be 0 or at least 2, not 1"):
        TrialConfig().with_values(values)


@pytest.mark.parametrize("count", [0, 2])
def test_none_or_two_validation_images_are_allowed(count: int) -> None:
    assert TrialConfig().with_values({"data.validation_images": count}).data.validation_images == count


VIT = {"encoder.architecture": "vit"}
LARGE_VIT = {**VIT, "encoder.stem": "large"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**VIT, "crops.size": 30}, r"crops\.size must be a multiple of 4, .* encoder\.stem small, not 30"),
        ({**LARGE_VIT, "crops.size": 40}, r"crops\.size must be a multiple of 16, .* encoder\.stem large, not 40"),
        (
            {**VIT, "data.name": "digits", "data.image_size": 30},
            r"data\.image_size must be a multiple of 4, .* not 30",
        ),
        (
            {**LARGE_VIT, "data.name": "imagefolder", "data.path": "x", "data.image_size": 40},
            r"data\.image_size must be a multiple of 16, .* not 40",
        ),
        (
            {**VIT, "evaluation.transfer": {**TRANSFER, "image_size": 30}},
            r"evaluation\.transfer\.image_size must be a multiple of 4, .* not 30",
        ),
    ],
)
def test_sides_that_a_vit_cannot_cut_into_patches_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig().with_values(values)


@pytest.mark.parametrize(
    "values",
    [
        {"crops.size": 30},
        {"encoder.stem": "large", "crops.size": 30, "data.name": "digits", "data.image_size": 30},
        {**VIT, "crops.size": 28, "data.name": "cifar100"},
        {**LARGE_VIT, "crops.size": 48},
    ],
    ids=["resnet", "large resnet", "cifar is not resized", "large vit"],
)
def test_sides_that_fit_are_allowed(values: dict[str, Any]) -> None:
    assert TrialConfig().with_values(values).crops.size == values["crops.size"]


@pytest.mark.parametrize(
    ("architecture", "stem", "patch"),
    [("resnet18", "small", 1), ("resnet50", "large", 1), ("vit", "small", 4), ("vit", "large", 16)],
)
def test_only_a_vit_has_patches(architecture: str, stem: str, patch: int) -> None:
    values = {"encoder.architecture": architecture, "encoder.stem": stem}
    assert TrialConfig().with_values(values).encoder.patch == patch


def test_a_trial_is_judged_on_its_own_data_or_on_that_of_its_transfer() -> None:
    own = TrialConfig()
    transferred = own.with_values({"evaluation.transfer": TRANSFER})
    assert own.judged_on == own.data
    assert transferred.judged_on == transferred.evaluation.transfer
    assert transferred.judged_on.name == "digits"
    assert transferred.data == own.data


@pytest.mark.parametrize(
    ("epochs", "every", "due"),
    [(6, 1, [1, 2, 3, 4, 5, 6]), (6, 2, [2, 4, 6]), (6, 4, [4, 6]), (6, 7, [6]), (1, 25, [1])],
)
def test_an_epoch_is_measured_where_due_and_the_last_always(epochs: int, every: int, due: list[int]) -> None:
    config = TrialConfig().with_values({"pretraining.epochs": epochs, "evaluation.every_epochs": every})
    assert [epoch for epoch in range(1, epochs + 1) if config.evaluates(epoch)] == due


@pytest.mark.parametrize(
    ("own", "transfer", "measured"), [(0, None, False), (9, None, True), (0, 9, True), (9, 0, False)]
)
def test_a_trial_is_measured_where_what_it_is_judged_on_has_validation_images(
    own: int, transfer: int | None, measured: bool
) -> None:
    other = None if transfer is None else {**TRANSFER, "validation_images": transfer}
    config = TrialConfig().with_values({"data.validation_images": own, "evaluation.transfer": other})
    assert any(config.evaluates(epoch) for epoch in range(1, 11)) is measured
