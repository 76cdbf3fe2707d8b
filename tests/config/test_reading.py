from pathlib import Path
from typing import NamedTuple

import pytest

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.ranges import dump_range
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.search import RandomConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.space.reading import read_study

SPACE = "name: a\nspace: {crops.views: {int: [2, 4]}, pretraining.replays: {int: [1, 3]}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "space.yaml"


def read(path: Path, text: str, *overrides: str) -> StudyConfig:
    path.write_text(text, encoding="utf-8")
    return read_study(path, overrides)


def refusal(path: Path, text: str, *overrides: str) -> str:
    """The one line that a person sees."""
    with pytest.raises(InputError) as caught:
        read(path, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


class Bad(NamedTuple):
    """What a file holds besides its name, and what the message has to name: key, value, remedy."""

    text: str
    named: tuple[str, ...]


BAD_VALUES = [
    Bad("seed: 1", ("unknown key seed", "did you mean trial.seed?")),
    Bad("trail: {seed: 1}", ("unknown key trail", "did you mean trial?")),
    Bad("budget: {trial: 3}", ("unknown key budget.trial", "did you mean trials?")),
    Bad("resources: {cpus: 3}", ("unknown key resources.cpus", "cpus_per_worker")),
    Bad("conditions: [crops.views <= 4]", ("unknown key conditions", "did you mean constraints?")),
    Bad("dialect: published", ("unknown key dialect", "did you mean variant?")),
    Bad("search: {halving: {keep: 0.5}}", ("unknown key search.halving", "did you mean mo_asha?")),
    Bad("trial: {pretraining: {recompute: true}}", ("pretraining.recompute", "mean activation_checkpointing?")),
    Bad("trial: {evaluation: {attack_steps: 3}}", ("evaluation.attack_steps", "did you mean attack.steps?")),
    Bad("trial: {evaluation: {attack_restarts: 3}}", ("attack_restarts", "did you mean attack.restarts?")),
    Bad("plugins: my_loss", ("plugins: must be a list, [my_loss]",)),
    Bad("trial: {evaluation: {measures: effective_rank}}", ("measures: must be a list", "it is 'effective_rank'")),
    Bad("trial: {crop: {views: 3}}", ("unknown key trial.crop", "did you mean crops?")),
    Bad("trial: {crops: {veiws: 3}}", ("unknown key trial.crops.veiws", "did you mean views?")),
    Bad("trial: {loss: {zzz: 3}}", ("unknown key trial.loss.zzz", "known here: name, invariance_weight")),
    Bad("space: {crops.viewz: {int: [2, 4]}}", ("space.crops.viewz", "did you mean crops.views?")),
    Bad("objectives: {robust_acuracy: maximize}", ("objectives", "'robust_acuracy'", "did you mean robust_accuracy?")),
    Bad("objectives: {train_seconds: minimize}", ("objectives", "no trial reports 'train_seconds'", "peak_memory_byt")),
    Bad("objectives: {eval_seconds: minimize}", ("objectives", "no trial reports 'eval_seconds'", "known here: ")),
    Bad("objectives: {clean_accuracy: up}", ("objectives.clean_accuracy", "'up'", "'maximize' or 'minimize'")),
    Bad("objectives: {}", ("objectives", "at least 1")),
    Bad("objectives: [flops]", ("objectives", "['flops']", "dictionary")),
    Bad("reference: {flops: 1}", ("reference", "flops", "clean_accuracy, robust_accuracy")),
    Bad("trial: 3", ("trial", "it is 3")),
    Bad("trial: {crops: [views]}", ("trial.crops", "['views']")),
    Bad("trial: {crops: {views: many}}", ("trial.crops.views", "'many'", "valid integer")),
    Bad("trial: {crops: {views: '4'}}", ("trial.crops.views", "'4'", "valid integer")),
    Bad("trial: {crops: {views: true}}", ("trial.crops.views", "True", "valid integer")),
    Bad("trial: {crops: {views: 4.0}}", ("trial.crops.views", "4.0", "valid integer")),
    Bad("trial: {crops: {views: 1}}", ("trial.crops.views", "it is 1", "greater than or equal to 2")),
    Bad("trial: {crops: {scale: [0.9, 0.1]}}", ("trial.crops", "scale", "[0.9, 0.1]", "the smaller first")),
    Bad(
        "trial: {optimizer: {lr: fast}}",
        ("trial.optimizer.lr", "'fast'", "a number such as 1.5 or a fraction such as 8/255"),
    ),
    Bad("trial: {optimizer: {lr: true}}", ("trial.optimizer.lr", "True", "valid number")),
    Bad("trial: {perturbation: {carry: yes}}", ("trial.perturbation.carry", "'yes'", "must be true or false")),
    Bad("budget: {hours: 1:30}", ("budget.hours", "'1:30'", "a number such as 1.5")),
    Bad("budget: {trials: 1:30}", ("budget.trials", "'1:30'", "valid integer")),
    Bad("trial: {optimizer: {lr: .inf}}", ("trial.optimizer.lr", "inf", "finite")),
    Bad("trial: {optimizer: {lr: .nan}}", ("trial.optimizer.lr", "nan", "greater than 0")),
    Bad("trial: {crops: {grayscale_probability: .nan}}", ("trial.crops.grayscale_probability", "nan", "finite")),
    Bad("trial: {perturbation: {epsilon: -8/255}}", ("trial.perturbation.epsilon", "-8/255", "greater than or equal")),
    Bad("trial: {perturbation: {epsilon: 8}}", ("trial.perturbation.epsilon", "it is 8", "less than or equal to 1")),
    Bad("trial: {perturbation: {epsilon: 8/0}}", ("trial.perturbation.epsilon", "'8/0'", "such as 8/255")),
    Bad("trial: {pretraining: {replays: 0}}", ("trial.pretraining.replays", "it is 0", "greater than or equal to 1")),
    Bad("trial: {perturbation: {attack: pgd}}", ("pretraining.replays must be 1", "not 3", "perturbation.steps")),
    Bad("trial: {data: {pretrain_images: 10}}", ("pretraining.batch_images 100", "data.pretrain_images 10")),
    Bad("trial: {data: {name: npz}}", ("the key trial.data.path is missing",)),
    Bad("trial: {data: {name: imagefolder}}", ("the key trial.data.path is missing",)),
    Bad("trial: {data: {name: digits, path: x}}", ("unknown key trial.data.path",)),
    Bad("trial: {data: {name: mnist}}", ("trial.data", "there is no data set 'mnist'", "cifar10, cifar100, digits")),
    Bad("search: {sampler: cmaes}", ("search.sampler", "'cmaes'", "tpe, nsga2")),
    Bad("budget: {trials: 0}", ("budget.trials", "it is 0", "greater than or equal to 1")),
    Bad("resources: {gpus_per_worker: 2}", ("gpus_per_worker", "not 2.0", "add workers instead")),
    Bad("resources: {workers_per_trial: 3}", ("batch_images 100", "resources.workers_per_trial 3", "evenly")),
    Bad("resources: {minutes_per_trial: -1}", ("resources.minutes_per_trial", "it is -1", "greater than 0")),
    Bad("keep_encoders: none", ("keep_encoders", "'none'", "'front' or 'all'")),
    Bad("space: 3", ("space", "it is 3", "dictionary")),
    Bad("space: {crops.views: {int: [4, 2]}}", ("space", "crops.views", "reversed: 4 must be smaller than 2")),
    Bad("space: {crops.views: [2, 4]}", ("space", "crops.views", "write a value, or exactly one of int, float")),
    Bad("space: {crops.views: {int: [1, 4]}}", ("space.crops.views", "it is 1", "greater than or equal to 2")),
    Bad("space: {crops.views: {choice: [2, 2]}}", ("space", "crops.views", "[2, 2]", "twice")),
    Bad("constraints: [crops.views > 99]", ("constraints", "none of 4096", "crops.views > 99")),
    Bad("constraints: [crops.veiws > 99]", ("constraints", "'crops.veiws > 99'", "which no trial has")),
    Bad("constraints: [f(3) > 1]", ("constraints", "'f(3)'", "only keys, numbers")),
    Bad("constraints: [crops.views]", ("constraints", "is 16", "compare two things")),
    Bad("constraints: ['crops.views >']", ("constraints", "crops.views >", "cannot be read as a constraint")),
    Bad("constraints: ['1 / 0 > 1']", ("constraints", "'1 / 0 > 1'", "division by zero")),
    Bad("constraints: crops.views > 3", ("constraints", "'crops.views > 3'")),
]


@pytest.mark.parametrize("bad", BAD_VALUES, ids=lambda bad: bad.text)
def test_one_line_names_file_key_value_and_remedy(path: Path, bad: Bad) -> None:
    message = refusal(path, f"name: a\n{bad.text}\n")
    assert message.startswith(f"{path}: ")
    assert [part for part in bad.named if part not in message] == [], message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ("must hold keys of a study", "name, question, plugins", "not None")),
        ("# only a comment\n", ("must hold keys of a study", "not None")),
        ("- name: a\n", ("must hold keys of a study", "[{'name': 'a'}]")),
        ("name", ("must hold keys of a study", "not 'name'")),
        ("question: Why?\n", ("the key name is missing",)),
        ("name: 2024\n", ("name", "it is 2024", "valid string")),
        ("name: a b\n", ("name", "'a b'", "letters, digits")),
        ("name: [a\n", ("line 2, column 1", "not valid YAML")),
        ("name: a\nquestion: why: not\n", ("line 2, column 14", "not valid YAML")),
        ("name: a\n\tb: c\n", ("line 2, column 1", "not valid YAML", r"'\t'")),
        ("name: a\nname: b\n", ("line 2, column 1", "the key 'name' occurs twice")),
        ("name: a\ntrial:\n  seed: 1\n  seed: 1\n", ("line 4, column 3", "the key 'seed' occurs twice")),
        ("name: a\n---\nname: b\n", ("line 2, column 1", "a second document")),
        ("name: !!python/name:os.system\n", ("line 1, column 7", "python/name:os.system")),
    ],
)
def test_one_line_says_where_a_file_is_no_study(path: Path, text: str, named: tuple[str, ...]) -> None:
    message = refusal(path, text)
    assert message.startswith(f"{path}:")
    assert [part for part in named if part not in message] == [], message


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: .*No such file") as caught:
        read_study(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_space_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: .*directory"):
        read_study(tmp_path)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match=r"cannot be read: .*utf-8"):
        read_study(path)


def test_several_problems_are_told_at_once_one_a_line(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(path, "name: a b\nbudget: {trials: 0}\nsede: 1\n")
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}: ").split(":")[0] for line in lines] == [
        "name",
        "budget.trials",
        "unknown key sede; known here",
    ]


def test_numbers_mean_what_they_say_and_words_are_words(path: Path) -> None:
    config = read(
        path, "name: 2024-01-02\nquestion: no\nbudget: {trials: 010}\ntrial: {seed: 0123}\n", "search.seed=010"
    )
    assert (config.name, config.question) == ("2024-01-02", "no")
    assert (config.budget.trials, config.trial.seed, config.search.seed) == (10, 123, 10)


def test_a_long_value_is_repeated_in_part(path: Path) -> None:
    message = refusal(path, f"name: a\nquestion: [{', '.join(['*a'] * 999)}]\n".replace("*a", "&a 1", 1))
    assert message.startswith(f"{path}: question: input should be a valid string (it is [1, 1, 1")
    assert message.endswith("…)")
    assert len(message) < 400


def test_merge_keys_are_merged(path: Path) -> None:
    assert read(path, "name: a\nresources: {<<: {restarts: 1}, trials_at_once: 2}\n").resources.restarts == 1


@pytest.mark.parametrize(
    ("written", "named"),
    [("{int: [2, 4], lgo: true}", "lgo"), ("{int: [2.5, 4]}", "2.5"), ("{int: 5}", "5"), ("{int: [2]}", "[2]")],
)
def test_what_is_wrong_within_a_range_is_named(path: Path, written: str, named: str) -> None:
    message = refusal(path, f"name: a\nspace: {{crops.views: {written}}}\n")
    assert named in message.removeprefix(str(path))


def test_an_unknown_metric_of_the_reference_is_told_as_such(path: Path) -> None:
    assert refusal(path, "name: a\nreference: {flopz: 1}\n").startswith(f"{path}: reference")


class TestOverrides:
    def test_keys_of_a_study_are_set_in_order(self, path: Path) -> None:
        config = read(path, SPACE, "budget.trials=20", "search={sampler: random}", "search.seed=4", "budget.trials=21")
        assert (config.budget.trials, config.search.sampler, config.search.seed) == (21, RandomConfig(), 4)

    @pytest.mark.parametrize("key", ["crops.views", "trial.crops.views"])
    def test_a_trial_s_key_is_no_longer_searched(self, path: Path, key: str) -> None:
        config = read(path, SPACE, f"{key}=7")
        assert config.trial.crops.views == 7
        assert list(config.space) == ["pretraining.replays"]

    def test_seed_is_the_trial_s(self, path: Path) -> None:
        config = read(path, SPACE, "seed=5")
        assert (config.trial.seed, config.search.seed) == (5, 0)

    @pytest.mark.parametrize("text", ["{int: [3, 9]}", "{float: [1/255, 8/255], log: true}", "0.25"])
    def test_a_range_is_set_under_space(self, path: Path, text: str) -> None:
        key = "crops.views" if "int" in text else "perturbation.epsilon"
        given = read(path, SPACE, f"space.{key}={text}").space
        written = read(path, f"name: a\nspace: {{{key}: {text}}}\n").space
        assert dump_range(given[key]) == dump_range(written[key])
        assert given.keys() == {"crops.views", "pretraining.replays", key}

    @pytest.mark.parametrize(
        ("text", "path_read"),
        [
            ("a b.npz", "a b.npz"),
            ("a #b: c.npz", "a #b: c.npz"),
            ("[a]", "[a]"),
            ("{a", "{a"),
            ("123", "123"),
            ("&a=b", "&a=b"),
            ("%a", "%a"),
            ("it's", "it's"),
            ("'a #b'", "a #b"),
            ('"a\\tb"', "a\tb"),
        ],
    )
    def test_a_path_is_taken_as_it_is_unless_it_is_quoted(self, path: Path, text: str, path_read: str) -> None:
        config = read(path, "name: a", "data.name=npz", f"data.path={text}")
        assert config.trial.data.location == path_read

    def test_another_data_set_takes_the_path_away_and_leaves_the_rest(self, path: Path) -> None:
        written = "name: a\ntrial: {data: {name: npz, path: a.npz, split_seed: 3}}"
        data = read(path, written, "data.name=digits").trial.data
        assert (data.location, data.split_seed) == (None, 3)

    def test_values_are_yaml(self, path: Path) -> None:
        config = read(path, SPACE, "question=Is 1 + 1 = 2?", "optimizer.trust_coefficient=null", "crops.scale=[0.2, 1]")
        assert config.question == "Is 1 + 1 = 2?"
        assert (config.trial.value_of("optimizer.trust_coefficient"), config.trial.crops.scale) == (None, (0.2, 1.0))

    @pytest.mark.parametrize("written", ["name: a", "name: a\nconfirm: null"])
    def test_a_key_of_a_section_that_is_off_turns_it_on(self, path: Path, written: str) -> None:
        confirm = read(path, written, "confirm.seeds=3", "confirm.images=50").confirm
        assert confirm is not None
        assert (confirm.seeds, confirm.images, confirm.attacked_images) == (3, 50, 1000)

    @pytest.mark.parametrize(
        ("override", "named"),
        [
            ("budget.trials", "write key=value, as in --set budget.trials=20"),
            ("", "write key=value"),
            ("=3", "there is no key ''"),
            ("budgt.trials=3", "there is no key 'budgt'; did you mean budget?"),
            ("crop.views=3", "there is no key 'crop'; did you mean crops?"),
            ("views=3", "there is no key 'views'"),
            ("budget.trials=[", "in its value, line 1, column 2: not valid YAML"),
            ("question=why: not: so", "in its value, line 1, column 9: not valid YAML"),
            ("space={a: 1, a: 2}", "in its value, line 1, column 8: not valid YAML: the key 'a' occurs twice"),
            (f"trial={'[' * 9999}", "nested more than 32 levels deep"),
            ("name.first=3", "name holds the value 'a', so it has no keys"),
            ("trial=5", "trial: "),
            ("trial=null", "trial: "),
            ("optimizer.name=[adamw]", "trial.optimizer: there is no optimizer ['adamw']"),
            ("loss.name={a: b}", "trial.loss: there is no loss {'a': 'b'}"),
            ("space.crops.views.int=3", "space.crops.views.int: no such key"),
        ],
    )
    def test_what_cannot_be_set_is_refused_with_the_override(self, path: Path, override: str, named: str) -> None:
        message = refusal(path, SPACE, override)
        assert named in message
        assert message.startswith((f"--set {override}: ", f"{path} with --set {override}: "))

    @pytest.mark.parametrize(
        ("override", "named"),
        [
            ("budget.trial=3", "unknown key budget.trial; did you mean trials?"),
            ("crops.veiws=3", "unknown key trial.crops.veiws; did you mean views?"),
            ("budget.trials=many", "budget.trials: input should be a valid integer (it is 'many')"),
            ("budget.trials=", "budget.trials: input should be a valid integer (it is None)"),
            ("budget.trials.more=3", "budget.trials: input should be a valid integer"),
            ("crops.views=1", "trial.crops.views: input should be greater than or equal to 2 (it is 1)"),
            ("space.crops.views={int: [9, 3]}", "crops.views is empty or reversed"),
            ("constraints=[crops.views > 99]", "none of 4096 random points"),
        ],
    )
    def test_a_bad_value_is_refused_as_in_the_file(self, path: Path, override: str, named: str) -> None:
        assert named in refusal(path, SPACE, override)

    def test_a_change_leaves_an_alias_of_the_section_alone(self, path: Path) -> None:
        text = "name: a\ntrial: {data: &images {name: npz, path: a}, evaluation: {transfer: *images}}\n"
        trial = read(path, text, "data.path=b").trial
        assert trial.evaluation.transfer is not None
        assert (trial.data.location, trial.evaluation.transfer.location) == ("b", "a")

    def test_keys_of_a_section_that_is_set_are_no_longer_searched(self, path: Path) -> None:
        assert "crops.views" not in read(path, SPACE, "crops={views: 3}").space


def test_a_study_survives_being_written_and_read(path: Path) -> None:
    text = """
    name: all
    question: "Überlebt ε = 8/255, # und: alles?"
    objectives: {robust_accuracy: maximize, flops: minimize, peak_memory_bytes: minimize}
    reference: {robust_accuracy: 0.1, flops: 1e12}
    search: {sampler: gp, startup_trials: 3, seed: 5, mo_asha: {rungs: [1/8, 0.5], keep: 1/3}}
    budget: {trials: 7, crop_passes: 1e9, flops: 1e18, hours: 1/2, plateau: {trials: 3, tolerance: 0}}
    resources: {trials_at_once: 2, workers_per_trial: 1, gpus_per_worker: 1/2, minutes_per_trial: 0.5, restarts: 0}
    start_from:
      - {crops.views: 6, pretraining.epochs: 8, perturbation.epsilon: 8/255, perturbation.step_ratio: 0.5,
         perturbation.carry: true, encoder.norm: batch}
    keep_encoders: all
    trial: {seed: 3, crops: {scale: [1/4, 1/4]}, optimizer: {lr: 1e-4, trust_coefficient: null}}
    space:
      crops.views: {int: [2, 10], step: 4}
      pretraining.epochs: {int: [1, 60], log: true}
      perturbation.epsilon: {float: [1/255, 16/255], log: true}
      perturbation.step_ratio: {float: [0.1, 1]}
      perturbation.carry: {choice: [true, false]}
      encoder.norm: {choice: [batch, group]}
      evaluation.epsilon: 4/255
    constraints: [crops.views * pretraining.epochs <= 48, "encoder.norm == 'group' or crops.views > 2"]
    """
    config = read(path, text)
    again = read(path, dump_study(config))
    assert again == config
    assert dump_study(again) == dump_study(config)
