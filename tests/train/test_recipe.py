"""Recipes: what a file says, what the command line puts in its place, and how faults are told."""

from pathlib import Path
from typing import Any

import pytest

from amma.manifests.errors import ConfigError, UsageError
from amma.train.model.config import PRESETS
from amma.train.run.config import RunConfig
from amma.train.run.recipe import built_in, find_recipe, resolve


def made(text: str, tmp_path: Path, **chosen: Any) -> RunConfig:
    """The settings by a file with this text and these options."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return resolve({"recipe": str(file), **chosen}, stores=["s.zarr"])


def faults(text: str, tmp_path: Path, **chosen: Any) -> list[str]:
    """The lines of the refusal after the first, which names the file."""
    with pytest.raises(ConfigError) as caught:
        made(text, tmp_path, **chosen)
    first, *others = str(caught.value).split("\n")
    assert first == f"recipe {tmp_path / 'mine.toml'}{' with these options' if chosen else ''} is not valid:"
    return others


def test_a_preset_gives_model_and_mask_and_single_values_replace_theirs() -> None:
    chosen = {"preset": "tiny", "model": {"global_token": True}, "mask": {"visible_tokens": 20}}
    config = resolve(chosen, stores=["s.zarr"])
    assert config.model == PRESETS["tiny"].model.model_copy(update={"global_token": True})
    assert config.mask.visible_tokens == 20
    assert config.mask.alpha == PRESETS["tiny"].mask.alpha


def test_what_the_paper_states_is_the_default() -> None:
    config = resolve({}, stores=["s.zarr"])
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.lr_gamma) == (1e-4, 0.05, 0.5)
    assert (config.epochs, config.mix.batch_size, config.mask.visible_tokens) == (10, 4, 160)
    assert config.mask.alpha == (1.0, 2.0, 2.0)


def test_all_faults_of_options_are_told_at_once() -> None:
    chosen = {"epochs": -1, "mix": {"weights": {"seq-str": -1, "pairs": 1}}, "mask": {"visible_tokens": 0}}
    with pytest.raises(ConfigError) as caught:
        resolve(chosen, stores=[""])
    for key in ("epochs", "mix.weights.seq-str", "mix.weights.pairs", "mask.visible_tokens"):
        assert f"\n  {key}" in str(caught.value)


def test_what_was_typed_replaces_single_values_of_a_recipe_and_leaves_the_others(tmp_path: Path) -> None:
    text = 'epochs = 7\nexclude = ["a.txt", "b.txt"]\n[mix]\nmixing = "sum"\nweights = { triplet = 0, seq-str = 2 }\n'
    chosen: dict[str, Any] = {"mix": {"weights": {"seq-str": 3.0}}, "exclude": [Path("b.txt"), Path("c.txt")]}
    config = made(text, tmp_path, **chosen)
    assert (config.epochs, config.mix.mixing) == (7, "sum")
    assert config.mix.weights == {"triplet": 0.0, "seq-str": 3.0}
    # What a recipe keeps out stays out.
    assert config.exclude == (Path("a.txt"), Path("b.txt"), Path("c.txt"))


def test_a_preset_that_was_typed_stands_for_all_sizes_and_for_nothing_else(tmp_path: Path) -> None:
    text = '[recipe]\npreset = "uniform-768"\n[model]\nfamily = "symmetric"\nwidth = 96\n[mask]\nvisible_tokens = 9\n'
    config = made(text, tmp_path)
    assert (config.model.width, config.model.ffn, config.mask.visible_tokens) == (96, 3072, 9)
    config = made(text, tmp_path, preset="tiny")
    assert config.model == PRESETS["tiny"].model.model_copy(update={"family": "symmetric"})
    assert config.mask.visible_tokens == 48
    config = made(text, tmp_path, preset="tiny", model={"width": 32})
    assert (config.model.width, config.model.ffn) == (32, 256)


def test_every_fault_of_a_file_is_told_at_once_with_its_line_and_what_may_have_been_meant(tmp_path: Path) -> None:
    text = """
# a comment
lr = 1e-3
batch-size = 4
exclude = [
    "held.txt",
    7,
]
epochs = 0

[recipe]
abuot = "typing fast"

[mask]
alpha = [1, 2]

[objective]
zzz = 1
mix.weights = 3
"""
    found = faults(text, tmp_path, log_every=0)
    for line in (
        "  line 12, recipe.abuot: there is no such key. Did you mean 'about'?",
        "  line 3, lr: there is no such key. Did you mean 'optimizer.lr'?",
        "  line 4, batch-size: there is no such key. Did you mean 'mix.batch_size'?",
        "  line 9, epochs: Input should be greater than 0",
        "  log_every: Input should be greater than 0",
        "  line 18, objective.zzz: there is no such key. Known here: loss_on, targets, temperature, normalise.",
        "  line 19, objective.mix: there is no such key. Did you mean 'mix'?",
    ):
        assert line in found
    assert any(line.startswith("  line 5, exclude.1: ") for line in found)
    assert any(line.startswith("  line 15, mask.alpha") for line in found)


def test_a_fault_of_what_was_typed_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    assert faults("epochs = 3\n", tmp_path, epochs=0) == ["  epochs: Input should be greater than 0"]


def test_a_section_that_is_no_table_is_a_fault_like_any_other(tmp_path: Path) -> None:
    found = faults('mask = 3\nrecipe = "me"\n', tmp_path)
    assert [line.split(":")[0] for line in found] == ["  line 2, recipe", "  line 1, mask"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pretrainig", r"there is no recipe 'pretrainig'\. Did you mean 'pretraining'\?"),
        ("nowhere.toml", r"--recipe nowhere\.toml: cannot be read"),
    ],
)
def test_a_recipe_that_is_not_there_is_said_so(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve({"recipe": name}, stores=["s.zarr"])


def test_a_file_that_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml is no TOML: .*line 2"):
        made("epochs = 1\nseed =\n", tmp_path)


def test_a_preset_that_is_not_there_is_a_fault_of_the_file_or_of_the_option(tmp_path: Path) -> None:
    text = 'epochs = 0\n[recipe]\npreset = "tinny"\n'
    found = faults(text, tmp_path)
    assert found[0].startswith("  line 3, recipe.preset: there is no model preset 'tinny'. Did you mean 'tiny'?")
    assert found[1].startswith("  line 1, epochs: ")
    assert faults(text, tmp_path, preset="papper")[0].startswith("  there is no model preset 'papper'.")


def test_stores_may_be_named_in_a_recipe_and_are_replaced_by_those_that_were_typed(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('stores = ["a.zarr", "s3://bucket/b.zarr"]\n')
    assert resolve({"recipe": str(file)}).stores == (Path("a.zarr"), "s3://bucket/b.zarr")
    assert resolve({"recipe": str(file)}, stores=["c.zarr"]).stores == (Path("c.zarr"),)
    with pytest.raises(UsageError, match="no feature store is named"):
        resolve({})


@pytest.mark.parametrize("name", built_in())
def test_every_recipe_of_ours_makes_a_run_and_says_what_it_is(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.head["about"].startswith("Table ")
    config = resolve({"recipe": name}, stores=["s.zarr"], require=False)
    assert config.recipe == name
    assert resolve({"recipe": name, "preset": "tiny"}, stores=["s.zarr"], require=False).model.width == 64
