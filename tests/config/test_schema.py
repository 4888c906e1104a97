"""A config is complete, frozen, written and read back equal, and described for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medcalib.config import RunConfig, dump, json_schema, load
from medcalib.config.bundled import bundled
from medcalib.config.reader import parse_yaml, read_yaml
from medcalib.data.labels import IGNORE
from medcalib.data.layouts import LAYOUTS
from medcalib.errors import ConfigError
from medcalib.losses import RECIPES

MINIMAL: dict[str, Any] = {
    "name": "trial",
    "data": {"layout": "acdc", "labels": {"background": 0, "RV": 1, "MYO": [2, 3]}},
    "train": {"patch_size": [32, 32, 8]},
}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    found = json_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def written(tmp_path: Path, text: str) -> RunConfig:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return load(tmp_path / "c.yaml")


def minimal(tmp_path: Path, extra: str = "", **options: Any) -> RunConfig:
    text = "name: trial\ndata:\n  layout: acdc\n  labels: {background: 0, RV: 1, MYO: [2, 3]}\n"
    (tmp_path / "c.yaml").write_text(f"{text}train: {{patch_size: [32, 32, 8]}}\n{extra}\n")
    return load(tmp_path / "c.yaml", **options)


@pytest.mark.parametrize("name", bundled())
def test_a_shipped_config_loads_and_is_written_and_read_back_equal(
    tmp_path: Path, name: str, schema: jsonschema.Draft202012Validator
) -> None:
    config = load(bundled()[name])
    assert written(tmp_path, dump(config)) == config
    assert config.name == name
    schema.validate(read_yaml(bundled()[name]).data)
    schema.validate(parse_yaml(dump(config), "dump").data)


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(str.strip)
odd = st.sampled_from(
    ["?x", ":0", "no", "1e3", "~", "0x1", "a: b", "# x", "- x", "{", "*a", "&a", "!t", "'", '"', "a\u2028b"]
)


@given(st.lists(names | odd, min_size=1, max_size=4, unique=True), st.floats(1e-12, 10))
@settings(max_examples=60, deadline=None)
def test_any_names_and_numbers_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, classes: list[str], lr: float
) -> None:
    labels = {"background": (0,)} | {name: (code,) for code, name in enumerate(classes, 1) if name != "background"}
    if len(labels) < 2:
        return
    config = RunConfig.model_validate(
        {
            "name": "trial",
            "data": {"layout": "acdc", "labels": labels, "exclude": tuple(classes), "root": classes[0]},
            "train": {"patch_size": (32, 32, 8), "lr": lr},
        }
    )
    assert written(tmp_path_factory.mktemp("c"), dump(config)) == config


def test_the_minimal_config_is_complete(tmp_path: Path) -> None:
    config = minimal(tmp_path)
    assert (config.split.name, config.model.name, config.loss.name) == ("kfold", "unet", "ce")
    assert config.num_classes == 3
    assert config.data.label_map.codes == ((0,), (1,), (2, 3))
    assert config.build_objective().num_classes == 3
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0


@pytest.mark.fault(3)
def test_numbers_and_words_mean_what_they_look_like(tmp_path: Path) -> None:
    config = minimal(tmp_path, overrides=["train.lr=1e-3", "train.weight_decay=0", "data.labels.no=4", "data.root=no"])
    assert config.train.lr == 0.001
    assert config.train.weight_decay == 0
    assert config.data.class_names == ("background", "RV", "MYO", "no")
    assert config.data.root == "no"


def test_the_short_and_the_long_form_are_one_config(tmp_path: Path) -> None:
    assert minimal(tmp_path, "loss: mbls") == minimal(tmp_path, "loss: {name: mbls}")
    assert minimal(tmp_path, "loss: mbls", overrides=["loss.margin=5"]) == minimal(
        tmp_path, "loss: {name: mbls, margin: 5}"
    )


def test_options_of_the_command_line_come_last(tmp_path: Path) -> None:
    config = minimal(tmp_path, overrides=["train.epochs=5", "data.root=/a"], data="/b", loss="mbls")
    assert (config.train.epochs, config.data.root, config.loss.name) == (5, "/b", "mbls")


def test_naming_the_loss_of_the_file_keeps_its_options(tmp_path: Path) -> None:
    assert minimal(tmp_path, "loss: {name: mbls, margin: 5}", loss="mbls").loss.margin == 5
    assert minimal(tmp_path, "loss: {name: mbls, margin: 5}", loss="ce").loss.name == "ce"


def test_options_of_the_loss_named_on_the_command_line_hold(tmp_path: Path) -> None:
    config = minimal(tmp_path, "loss: {name: mbls, margin: 5}", loss="nacl", overrides=["loss.kernel=svls"])
    assert (config.loss.name, config.loss.kernel) == ("nacl", "svls")
    with pytest.raises(ConfigError, match=r"loss\.nonsense: unknown key"):
        minimal(tmp_path, loss="nacl", overrides=["loss.nonsense=7"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_loss_is_chosen_by_its_name(tmp_path: Path, name: str) -> None:
    config = minimal(tmp_path, loss=name)
    assert config.build_objective().ignore_index == IGNORE
    assert written(tmp_path, dump(config)) == config


def test_a_loss_is_put_together_by_hand(tmp_path: Path) -> None:
    config = minimal(
        tmp_path, "loss: {name: custom, terms: [{term: cross_entropy}, {term: {name: margin, margin: 5}, weight: 0.1}]}"
    )
    recipe = minimal(tmp_path, "loss: {name: mbls, margin: 5, weight: 0.1}")
    logits, labels = torch.randn(1, 3, 4, 4, 4) * 9, torch.randint(0, 3, (1, 4, 4, 4))
    values = [c.build_objective()(logits, labels) for c in (config, recipe)]
    assert torch.equal(*values)
    assert values[0] > minimal(tmp_path).build_objective()(logits, labels)
    assert written(tmp_path, dump(config)) == config


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("{name: nacl, kernel_size: [3, 3]}", r"loss\.kernel_size: kernel_size must be one number or 3 of them"),
        ("{name: nacl, kernel_size: 4}", r"loss\.kernel_size: kernel_size must be odd and positive, got 4"),
        ("{name: crac, rho_max: 0.01}", r"loss\.rho_max: rho_max must be at least rho \(0\.1\), got 0\.01"),
        ("{name: svls, sigma: 0.01}", r"loss\.sigma: sigma must lie in \[0\.1, 100\] voxels, got 0\.01"),
        ("{name: flsd53, gamma: 1.0e300}", r"loss: cannot be computed: .*overflow"),
        ("{name: svls, padding: mirror}", r"loss\.padding: expected one of background, replicate, zeros"),
    ],
)
def test_a_loss_that_cannot_work_is_found_before_the_data_is_read(tmp_path: Path, loss: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        minimal(tmp_path, f"loss: {loss}")


def test_the_schema_accepts_short_and_long_forms(tmp_path: Path, schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(MINIMAL)
    assert written(tmp_path, json.dumps(MINIMAL)).name == "trial"
    for choice in ("mbls", {"name": "mbls"}, {"name": "mbls", "margin": 5}):
        schema.validate(MINIMAL | {"loss": choice})
    for layout in LAYOUTS:
        schema.validate(MINIMAL | {"data": MINIMAL["data"] | {"layout": layout}})


@pytest.mark.parametrize(
    "change",
    [
        {"trian": {}},
        {"loss": "mblss"},
        {"loss": {"name": "mbls", "margn": 3}},
        {"loss": {"margin": 3}},
        {"loss": {"_target_": "os.system"}},
        {"score": {"edges": "rihgt"}},
        {"train": {"patch_size": [32, 32]}},
        {"train": {"patch_size": [32, 32, 8], "lr": "1e-3"}},
        {"train": {"patch_size": [32, 32, 8], "device": "gpu"}},
        {"train": {"patch_size": [32, 32, 8], "epochs": 0}},
        {"data": MINIMAL["data"] | {"labels": {"background": 0, "RV": "one"}}},
        {"data": {"layout": "acdc"}},
        {"name": "a b"},
    ],
)
def test_the_schema_rejects_what_the_reader_rejects(
    tmp_path: Path, schema: jsonschema.Draft202012Validator, change: dict[str, Any]
) -> None:
    assert not schema.is_valid(MINIMAL | change)
    with pytest.raises(ConfigError):
        written(tmp_path, json.dumps(MINIMAL | change))


def test_the_schema_says_what_each_key_is() -> None:
    """Those of losses and terms are explained by their formulas (`medcalib losses`)."""
    schema = json_schema()
    parts = {"": schema} | {n: p for n, p in schema["$defs"].items() if not n.startswith(("loss_", "term_"))}
    assert {"layout_acdc", "model_unet", "split_kfold", "intensity_window", "TrainConfig"} < parts.keys()
    untold = [
        f"{name}.{key}"
        for name, part in parts.items()
        for key, value in part.get("properties", {}).items()
        if (key != "name" or not name) and not value.get("description")
    ]
    assert untold == []
