import dataclasses
import inspect
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from riffusion_train.config.compose import compose, conf_dir, config_keys, load_saved, search_path, write_config
from riffusion_train.config.model import ExportConfig, ImportConfig, ModelName
from riffusion_train.config.prepare import CaptionSource, MergeConfig, PageConfig, PrepareConfig
from riffusion_train.config.reference import key_rows
from riffusion_train.config.sample import DemoConfig, GridConfig, PlayConfig, SampleConfig, SamplerConfig
from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.runtime.errors import InputError

ROOTS = {
    "train": (TrainConfig, ["dataset=d"]),
    "prepare": (PrepareConfig, ["audio=a", "out=o"]),
    "merge": (MergeConfig, ["out=o"]),
    "page": (PageConfig, ["out=o"]),
    "sample": (SampleConfig, ["out=o"]),
    "export": (ExportConfig, ["run=r", "out=o"]),
    "import": (ImportConfig, ["out=o"]),
    "demo": (DemoConfig, []),
    "grid": (GridConfig, ["out=o"]),
    "play": (PlayConfig, []),
}
GROUPS = sorted(path for path in conf_dir().rglob("*.yaml") if path.parent != conf_dir())


def test_commands_with_preset_groups_and_only_these_have_a_root_file() -> None:
    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    with_groups = {
        verb for verb, (root, _) in ROOTS.items() if groups & {field.name for field in dataclasses.fields(root)}
    }
    assert {path.stem for path in conf_dir().glob("*.yaml")} == with_groups
    assert len(GROUPS) >= 20


@pytest.mark.parametrize("verb", ROOTS)
def test_every_command_composes_from_its_mandatory_keys(verb: str) -> None:
    root, words = ROOTS[verb]
    assert isinstance(compose(verb, root, words), root)


@pytest.mark.parametrize("preset", GROUPS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_preset_composes_in_the_commands_that_have_its_group(preset: Path) -> None:
    group = preset.parent.name
    verbs = [path.stem for path in conf_dir().glob("*.yaml") if f"{group}:" in path.read_text()]
    assert verbs, f"no command uses conf/{group}"
    for verb in verbs:
        root, words = ROOTS[verb]
        compose(verb, root, [*words, f"{group}={preset.stem}"])


def test_no_preset_names_code_to_run() -> None:
    assert not [path for path in conf_dir().rglob("*.yaml") if "_target_:" in path.read_text()]


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("max_train_step=3", "unknown key 'max_train_step'; did you mean 'max_train_steps'?"),
        ("method.rank=3", "unknown key 'method.rank'; did you mean 'method.lora_rank'?"),
        ("method=foo", "unknown preset 'method=foo'; choose from: distill, full, lora, vae"),
        ("optimizer.lr=fast", "optimizer.lr: Value 'fast'"),
        ("mixed_precision=fp17", "mixed_precision: Invalid value 'fp17', expected one of"),
        ("seed", "'seed' is not key=value"),
        ("=3", "'=3' is not key=value"),
        ("+new.key=1", "unknown key 'new.key'"),
        ("++optimizer.lrr=1", "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("++optimzer.lr=1", "unknown key 'optimzer.lr'; did you mean 'optimizer.lr'?"),
        ("++optimizer={lrr: 1}", "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("experimnt=tiny_cpu", "unknown key 'experimnt'; did you mean 'experiment'?"),
        ("optimizer@other=adamw", "unknown key 'optimizer@other'"),
        ("~tracker=files", "'~tracker' would remove a key"),
        ("hydra.run.dir=x", "'hydra.run.dir' is a key of Hydra's own"),
        ("+hydra/launcher=joblib", "'hydra/launcher' is a key of Hydra's own"),
        ("hydra.searchpath=x", "give a list, hydra.searchpath=[file:///DIR], or --config-dir DIR"),
        ("hydra.searchpath=[file:///nowhere]", "/nowhere: no such folder"),
        ("optimizer.lr=${oc.env:UNSET_LR}", "optimizer.lr: Environment variable 'UNSET_LR' not found"),
    ],
)
def test_a_mistyped_argument_is_one_line_that_names_it(word: str, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        compose("train", TrainConfig, ["dataset=d", word])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("guidance_scal=3", "unknown key 'guidance_scal'; did you mean 'guidance_scale'?"),
        ("seed=x", "seed: Value 'x'"),
        ("quality=loud", "quality: Invalid value 'loud', expected one of"),
    ],
)
def test_a_mistyped_argument_is_one_line_without_a_root_file_too(word: str, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        compose("sample", SampleConfig, ["out=o", word])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_signs_of_hydra_before_a_known_key_change_nothing() -> None:
    plain = compose("train", TrainConfig, ["dataset=a, b", "experiment=tiny_cpu", "optimizer.lr=2", "model=x (y)"])
    signed = ["++dataset=a, b", "+experiment=tiny_cpu", "++optimizer.lr=2", "+model=x (y)"]
    assert compose("train", TrainConfig, signed) == plain


def test_presets_of_ones_own_are_found_and_checked(tmp_path: Path) -> None:
    own = tmp_path / "own, 'new'"
    for group, text in {"experiment": "# @package _global_\nseed: 77\n", "model": "name: random\n"}.items():
        (own / group).mkdir(parents=True)
        (own / group / "mine.yaml").write_text(text)
    (own / "experiment" / "wrong.yaml").write_text("# @package _global_\nsed: 77\n")
    found = search_path([str(own)])
    config = compose("train", TrainConfig, ["dataset=d", "model=mine", "experiment=mine", *found])
    assert (config.seed, config.model.name) == (77, ModelName.random)
    assert compose("train", TrainConfig, ["dataset=d", "model=mine"]).model.path == "mine"
    with pytest.raises(InputError, match="preset experiment/wrong: unknown key 'sed'; did you mean 'seed'"):
        compose("train", TrainConfig, ["dataset=d", "experiment=wrong", *found])
    with pytest.raises(InputError, match=r"unknown preset 'experiment=min'; choose from: demo, .*, mine, "):
        compose("train", TrainConfig, ["dataset=d", "experiment=min", *found])
    with pytest.raises(InputError, match="gone: no such folder"):
        search_path([str(tmp_path / "gone")])


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"prepare needs audio=…, out=…"):
        compose("prepare", PrepareConfig, [])
    with pytest.raises(InputError, match=r"export needs out=…, run=…"):
        compose("export", ExportConfig, [])


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(lambda text: text.strip() == text))
def test_a_path_is_taken_literally(path: str) -> None:
    if path in ("null", "???") or (path[0] == path[-1] and path[0] in "'\""):
        return
    assert compose("train", TrainConfig, [f"dataset={path}"]).dataset == path


def test_a_key_may_have_the_name_of_another_commands_group() -> None:
    """captions is a key of prepare and a group of train."""
    words = ["audio=a", "out=o"]
    assert compose("prepare", PrepareConfig, [*words, "captions=tags"]).captions is CaptionSource.tags
    assert (
        compose("prepare", PrepareConfig, [*words, "captions=tags", "++captions=table"]).captions is CaptionSource.table
    )
    with pytest.raises(InputError, match="'default'"):
        compose("prepare", PrepareConfig, [*words, "captions=default"])
    assert compose("train", TrainConfig, ["dataset=d", "captions=tags", "captions.tag_dropout=0"]).captions.shuffle_tags


def test_model_takes_a_preset_or_a_path() -> None:
    assert compose("train", TrainConfig, ["dataset=d", "model=tiny"]).model.name is ModelName.random
    loaded = compose("train", TrainConfig, ["dataset=d", "model=my models/a, b"]).model
    assert (loaded.name, loaded.path) == (ModelName.pretrained, "my models/a, b")


def test_an_experiment_is_a_preset_of_presets() -> None:
    config = compose("train", TrainConfig, ["dataset=d", "experiment=sd15_lora_12gb", "optimizer.lr=3e-5"])
    assert config.method.name is MethodName.lora
    assert config.optimizer.lr == 3e-5


def test_a_saved_config_reads_back_equal(tmp_path: Path) -> None:
    config = compose("train", TrainConfig, ["dataset=d", "model=tiny", "method=lora", "preview.prompts=[a,b]"])
    write_config(tmp_path / "config.yaml", config)
    assert load_saved(tmp_path / "config.yaml", TrainConfig) == config


def test_a_saved_config_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, compose("train", TrainConfig, ["dataset=d"]))
    data = OmegaConf.load(path)
    data["surprise"] = 1
    OmegaConf.save(data, path)
    with pytest.raises(InputError, match="surprise"):
        load_saved(path, TrainConfig)


def test_config_keys_are_dotted_leaves() -> None:
    keys = config_keys(TrainConfig)
    assert "optimizer.lr" in keys
    assert "optimizer" not in keys


def test_a_key_of_version_0_1_0_is_taken_by_its_new_name_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compose("sample", SampleConfig, ["out=o", "lane=3"]).unet_batch_size == 3
    assert capsys.readouterr().err == "lane= is now called unet_batch_size=; the old name still works\n"
    path = tmp_path / "saved.yaml"
    path.write_text("out: o\nlane: 2\n")
    assert load_saved(path, SampleConfig).unet_batch_size == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_option_of_the_sampler_is_spelled_once() -> None:
    shared = {field.name for field in dataclasses.fields(SamplerConfig)}
    for root in (SampleConfig, GridConfig, PlayConfig):
        assert issubclass(root, SamplerConfig)
        # Two have another meaning in the player.
        assert shared & inspect.get_annotations(root).keys() <= {"num_inference_steps", "num_threads"}
    meanings = {key: meaning for key, _, meaning in key_rows(GridConfig)}
    assert meanings["scheduler"].startswith("The solver.")
    assert all(meanings.values())
