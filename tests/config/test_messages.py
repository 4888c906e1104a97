"""Each mistake is one line, `file:line:col: path: what was expected, what came`, and all come at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcalib.config import load
from medcalib.config.messages import dotted, shown
from medcalib.errors import ConfigError

GOOD = """\
name: trial
data:
  layout: acdc
  labels: {background: 0, RV: 1, MYO: 2}
train: {patch_size: [32, 32, 8]}
"""
TRAIN, LABELS, LAYOUT = "train: {patch_size: [32, 32, 8]}", "{background: 0, RV: 1, MYO: 2}", "layout: acdc"


def complaint(tmp_path: Path, text: str, **options: object) -> list[str]:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    assert caught.value.exit_code == 2
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]


def test_the_good_config_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    assert load(tmp_path / "good.yaml").num_classes == 3


NO_CODE = "configs are data and execute nothing; name a choice, such as `loss: mbls`"
TOP = "known: name, data, split, preprocess, augment, model, loss, train, predict, score"


@pytest.mark.fault(1, 5, 9)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trian: {}", "6:1: trian: unknown key; did you mean 'train'?"),
        ("zzz: 1", f"6:1: zzz: unknown key; {TOP}"),
        ("_target_: os.system", f"6:1: _target_: {NO_CODE}"),
        ("$import: os", f"6:1: $import: {NO_CODE}"),
        ("loss: {_target_: os.system}", f"6:1: loss: {NO_CODE}"),
        ("loss: {name: mbls, _target_: os.system}", f"6:20: loss._target_: {NO_CODE}"),
        ("loss: mblss", "6:1: loss: unknown name 'mblss'; did you mean 'mbls'?"),
        ("loss: {name: mbls, margn: 3}", "6:20: loss.margn: unknown key; did you mean 'margin'?"),
        ("loss: {name: mbls, margin: 0}", "6:20: loss.margin: margin must be positive, got 0.0"),
        ("loss: {margin: 3}", '6:1: loss: expected a name, or a mapping with the key `name`, got {"margin": 3}'),
        ("loss:", "6:1: loss: expected a name, or a mapping with the key `name`, got null"),
        ("loss: [ce]", '6:1: loss: expected a name, or a mapping with the key `name`, got ["ce"]'),
        ("loss: {name: custom}", "6:1: loss.terms: is required, but missing"),
        ("loss: {name: custom, terms: []}", "6:1: loss: an objective needs at least one term, got none"),
        (
            "loss: {name: custom, terms: [{term: cross_entropy}, {term: focal}]}",
            "6:1: loss: cross_entropy and focal are both likelihoods; keep one of them",
        ),
        (
            "loss: {name: custom, terms: [{term: cross_entropy}, {term: margin, weight: -1}]}",
            "6:68: loss.terms[1].weight: must be greater than or equal to 0, got -1",
        ),
        (
            "loss: {name: custom, terms: [{term: margins}]}",
            "6:31: loss.terms[0].term: unknown name 'margins'; did you mean 'margin'?",
        ),
        ("split: {name: kfold, fold: 7}", "6:22: split.fold: fold must lie in 0..4, got 7"),
        ("split: {name: kfold, test: 1}", "6:22: split.test: test must be a share in [0, 1) or 'layout', got 1.0"),
        ("split: {name: listed, train: [a]}", "6:1: split.val: is required, but missing"),
        (
            "model: {name: unet, channels: [8, 16], strides: [2, 2]}",
            "6:40: model.strides: strides needs one entry fewer than channels (1), got 2",
        ),
        (
            "model: {name: unet, channels: [8], strides: []}",
            "6:21: model.channels: channels needs at least two levels, got 1; add a level, such as [16, 32]",
        ),
        (
            "model: {name: unet, channels: [8, 0], strides: [2]}",
            "6:21: model.channels: channels needs a positive number a level, got 0",
        ),
        (
            "model: {name: dynunet, filters: [8, 16], kernel_size: [3, 3], strides: [1, 2]}",
            "6:24: model.filters: filters needs at least three levels, and so do kernel_size and strides, got 2; add a "
            "level, or take the network 'unet', which may have two",
        ),
        (
            "score: {edges: rihgt}",
            "6:9: score.edges: expected one of right, left, got text 'rihgt'; did you mean 'right'?",
        ),
        ("score: {regions: []}", "6:9: score.regions: expected each region once, and at least one, got []"),
        ("predict: {overlap: 1}", "6:11: predict.overlap: must be less than 1, got 1"),
        ("predict: 3", "6:1: predict: expected a mapping of keys (overlap, blend, batch_size) to values, got 3"),
        (
            "preprocess: {orientation: ras}",
            "6:14: preprocess.orientation: expected three capital letters, such as RAS or LPS, got text 'ras'",
        ),
        (
            "preprocess: {orientation: RLA}",
            "6:14: preprocess.orientation: expected one of R/L, one of A/P and one of S/I, got 'RLA'",
        ),
        ("preprocess: {spacing_mm: [1, 1]}", "6:14: preprocess.spacing_mm: entry 3 is missing, got [1, 1]"),
        ("preprocess: {spacing_mm: [1, 1, 1, 1]}", "6:14: preprocess.spacing_mm: expected 3 entries, got [1, 1, 1, 1]"),
        ("preprocess: {spacing_mm: [1, 0, 1]}", "6:30: preprocess.spacing_mm[1]: must be greater than 0, got 0"),
        (
            "preprocess: {intensity: {name: window, low: 5, high: 1}}",
            "6:40: preprocess.intensity.low: low must be below high, got 5.0 and 1.0",
        ),
    ],
)
def test_a_mistake_is_one_line_at_its_place(tmp_path: Path, line: str, expected: str) -> None:
    assert complaint(tmp_path, GOOD + line + "\n") == [f"bad.yaml:{expected}"]


@pytest.mark.fault(9)
@pytest.mark.parametrize("bins", [0, -15, 7, 10**9])
def test_a_number_of_bins_is_refused_with_those_that_work(tmp_path: Path, bins: int) -> None:
    [line] = complaint(tmp_path, GOOD + f"score: {{bins: {bins}}}\n")
    assert line.startswith("bad.yaml:6:9: score.bins: bins must be one of [1, 2, 3, 4, 5, 6, 10, 12, 15,")
    assert line.endswith(f"got {bins}")


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("lr: .nan", "lr: expected a finite number, got NaN"),
        ("lr: .inf", "lr: expected a finite number, got Infinity"),
        ("lr: 1e999", "lr: expected a finite number, got Infinity"),
        ("lr: -1", "lr: must be greater than 0, got -1"),
        ("lr: nan", "lr: expected a number, got text 'nan'"),
        ("lr: no", "lr: expected a number, got text 'no'"),
        ("lr: '1e-3'", "lr: expected a number, got text '1e-3'"),
        ("epochs: 1.5", "epochs: expected a whole number, got 1.5"),
        ("epochs: true", "epochs: expected a whole number, got true"),
        ("epochs: 0", "epochs: must be greater than or equal to 1, got 0"),
        ("epoch: 3", "epoch: unknown key; did you mean 'epochs'?"),
        ("device: gpu", "device: expected auto, cpu, cuda or a numbered one, such as cuda:0, got text 'gpu'"),
        ("clip_norm: 0", "clip_norm: must be greater than 0, got 0"),
    ],
)
def test_a_number_or_word_of_the_training_is_refused(tmp_path: Path, entry: str, expected: str) -> None:
    text = GOOD.replace(TRAIN, TRAIN.replace("}", f", {entry}}}"))
    assert complaint(tmp_path, text) == [f"bad.yaml:5:34: train.{expected}"]


@pytest.mark.fault(10)
def test_a_patch_that_the_network_cannot_halve_is_refused_with_the_nearest_sizes(tmp_path: Path) -> None:
    text = GOOD.replace("[32, 32, 8]", "[30, 33, 8]")
    assert complaint(tmp_path, text) == [
        "bad.yaml:5:9: train.patch_size: must be divisible by [8, 8, 8] (the network's strides), got [30, 33, 8]; "
        "nearest: [24, 32, 8] or [32, 40, 8]"
    ]


@pytest.mark.fault(2, 11)
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            "{RV: 1, background: 0}",
            "4:3: data.labels: the first class must be the background, with code 0, got 'RV' first",
        ),
        ("{RV: 1, LV: 2}", "4:3: data.labels: the first class must be the background, with code 0, got 'RV' first"),
        ("{background: 0}", "4:3: data.labels: expected 2 to 255 classes, background included, got 1"),
        ("{background: 0, RV: 1, LV: 1}", "4:3: data.labels: code 1 belongs to two classes; each code belongs to one"),
        ("{background: 0, RV: 1, RV: 2}", "4:34: key 'RV' stands twice, first in line 4"),
        ("{background: 0, RV: []}", "4:3: data.labels: every class needs at least one code, got none for 'RV'"),
        ("{background: 0, ' ': 1}", "4:3: data.labels: every class needs a name, got one of blanks"),
        ("{background: 0, RV: -1}", "4:27: data.labels.RV: must be greater than or equal to 0, got -1"),
        (
            "{background: 0, RV: one}",
            "4:27: data.labels.RV: expected a code such as 1, or a list of codes, got text 'one'",
        ),
        ("{background: 0, RV: [1, 2.5]}", "4:35: data.labels.RV[1]: expected a whole number, got 2.5"),
        (
            "[background, RV]",
            "4:3: data.labels: expected the code of each class, such as {background: 0, tumor: 1}, "
            'got ["background", "RV"]',
        ),
        ("3", "4:3: data.labels: expected the code of each class, such as {background: 0, tumor: 1}, got 3"),
        (
            "{0: background, 1: RV}",
            "4:3: data.labels: expected name: code, such as {background: 0}, got code: name, "
            '{"0": "background", "1": "RV"}',
        ),
    ],
)
def test_labels_that_make_no_classes_are_refused(tmp_path: Path, labels: str, expected: str) -> None:
    assert complaint(tmp_path, GOOD.replace(LABELS, labels)) == [f"bad.yaml:{expected}"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("convention: acdcc", "data.convention: expected one of acdc, brats2013,"),
        ("ignore_label: 1", "data.ignore_label: code 1 is also the code of a class"),
        ("composites: {WT: [RV, XX]}", "data.composites.WT: expected names of classes (background, RV, MYO), got XX"),
        ("composites: {WT: []}", "data.composites.WT: expected names of classes (background, RV, MYO), got none"),
        ("composites: {RV: [RV, MYO]}", "data.composites.RV: is also the name of a class; name the union differently"),
        ("composites: {W: [RV, RV]}", "data.composites.W: names a class twice, which would add its probability twice"),
        ("skip_unpaired: 1", "data.skip_unpaired: expected true or false, got 1"),
        ("exclude: [7]", "data.exclude[0]: expected text; put it in quotes if it looks like a number, got 7"),
    ],
)
def test_data_that_contradicts_itself_is_refused(tmp_path: Path, entry: str, expected: str) -> None:
    [line] = complaint(tmp_path, GOOD.replace("train:", f"  {entry}\ntrain:"))
    assert line.startswith("bad.yaml:5:")
    assert expected in line


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("acdcc", "3:3: data.layout: unknown name 'acdcc'; did you mean 'acdc'?"),
        ("{name: acdc, phases: [ED, EX]}", "3:37: data.layout.phases[1]: expected one of ED, ES, got text 'EX'"),
        (
            "{name: files, patient: 'a'}",
            "3:25: data.layout.patient: patient needs one group in parentheses, such as (sub-[0-9]+)_.*, got 'a'",
        ),
        (
            "{name: flare, labelled_classes: {c1: [RV, livr]}}",
            "3:44: data.layout.labelled_classes.c1: expected names of classes (background, RV, MYO), got livr",
        ),
    ],
)
def test_a_layout_that_cannot_work_is_refused(tmp_path: Path, layout: str, expected: str) -> None:
    assert complaint(tmp_path, GOOD.replace(LAYOUT, f"layout: {layout}")) == [f"bad.yaml:{expected}"]


def test_codes_that_contradict_the_convention_are_refused_at_the_class(tmp_path: Path) -> None:
    text = GOOD.replace(LABELS, "{background: 0, NCR: 1, ET: 4}\n  convention: brats2023")
    assert complaint(tmp_path, text) == [
        "bad.yaml:4:35: data.labels.ET: ET has code 4, but convention 'brats2023' says ET is 3"
    ]


def test_brats_needs_a_named_convention(tmp_path: Path) -> None:
    [line] = complaint(tmp_path, GOOD.replace(LAYOUT, "layout: brats"))
    assert line.startswith("bad.yaml:2:1: data: the layout 'brats' needs `convention`: code 4 is enhancing tumor")


@pytest.mark.fault(1)
def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: my trial
data:
  layout: acdc
  labels: {background: 0, RV: one}
  skip: true
preprocess:
  spacing_mm: [1, 1]
model: {name: unett}
loss: {name: mbls, margn: 3}
train:
  patch_size: 32
  lr: .nan
  epochs: 0
"""
    lines = complaint(tmp_path, text)
    assert [line.split(": ")[1] for line in lines] == [
        "name",
        "data.labels.RV",
        "data.skip",
        "preprocess.spacing_mm",
        "model",
        "loss.margn",
        "train.patch_size",
        "train.lr",
        "train.epochs",
    ]
    assert [int(line.split(":")[1]) for line in lines] == [1, 4, 5, 7, 8, 9, 11, 12, 13]


@pytest.mark.fault(1)
def test_what_parts_demand_of_each_other_comes_at_once_too(tmp_path: Path) -> None:
    text = GOOD.replace("[32, 32, 8]", "[30, 32, 8]") + "score: {bins: 7}\nsplit: {name: kfold, folds: 1}\n"
    lines = complaint(tmp_path, text)
    assert [line.split(":")[1] for line in lines] == ["5", "6", "7"]


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("content", "came"), [("", "an empty file"), ("# nothing\n", "an empty file"), ("- a\n", '["a"]'), ("3\n", "3")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, came: str) -> None:
    expected = f"bad.yaml:1:1: expected a mapping of keys to values, got {came}"
    assert complaint(tmp_path, content) == [expected]


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "--set train.epochs: expected key=value, such as --set train.epochs=5"),
        ("=3", "--set =3: expected key=value, such as --set train.epochs=5"),
        ("a..b=3", "--set a..b=3: expected key=value, such as --set train.epochs=5"),
        ("train.epohs=3", "--set train.epohs: train.epohs: unknown key; did you mean 'epochs'?"),
        ("epochs=3", "--set epochs: epochs: unknown key; did you mean 'train.epochs'?"),
        ("epoch=3", "--set epoch: epoch: unknown key; did you mean 'train.epochs'?"),
        ("train.spacing=3", "--set train.spacing: train.spacing: unknown key; did you mean 'preprocess.spacing_mm'?"),
        ("train.loss=ce", "--set train.loss: train.loss: unknown key; did you mean 'loss' at the top level?"),
        ("data.name=x", "--set data.name: data.name: unknown key; did you mean 'name' at the top level?"),
        (
            "data.label=x",
            "--set data.label: data.label: unknown key; did you mean 'data.layout.label' or 'data.labels'?",
        ),
        (
            "batch_size=3",
            "--set batch_size: batch_size: unknown key; did you mean 'train.batch_size' or 'predict.batch_size'?",
        ),
        (
            "score.zzz=3",
            "--set score.zzz: score.zzz: unknown key; known: bins, edges, regions, distances, boundary_mm, "
            "surface_tolerance_mm, protocols",
        ),
        ("train.epochs=abc", "--set train.epochs: train.epochs: expected a whole number, got text 'abc'"),
        ("train.epochs=5=6", "--set train.epochs: train.epochs: expected a whole number, got text '5=6'"),
        ("train.lr=", "--set train.lr: train.lr: expected a number, got null"),
        (
            "train.lr=!!int 3",
            "--set train.lr:1:1: the tag tag:yaml.org,2002:int is not allowed; a config holds plain data",
        ),
        (
            "train.epochs=[1",
            "--set train.epochs:1:3: not valid YAML: expected ',' or ']' ([ was opened in line 1), got the end",
        ),
        ("train.patch_size.0=3", "--set train.patch_size.0: train.patch_size holds no keys, but [32, 32, 8]"),
        (
            "train=3",
            "--set train: train: expected a mapping of keys (patch_size, epochs, steps_per_epoch, ...) to values, "
            "got 3",
        ),
        (
            "loss.margin=5",
            '--set loss.margin: loss: expected a name, or a mapping with the key `name`, got {"margin": 5}',
        ),
        (
            "name.x=3",
            "--set name.x: name: expected text; put it in quotes if it looks like a number, got "
            '{"name": "trial", "x": 3}',
        ),
    ],
)
def test_an_override_is_judged_like_the_file(tmp_path: Path, override: str, expected: str) -> None:
    assert complaint(tmp_path, GOOD, overrides=[override]) == [expected]


def test_an_unknown_loss_of_the_command_line_is_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path, GOOD, loss="mblss") == ["--loss: loss: unknown name 'mblss'; did you mean 'mbls'?"]


def test_paths_and_values_are_written_as_in_a_config() -> None:
    assert dotted(("loss", "terms", 2, "weight")) == "loss.terms[2].weight"
    assert dotted(()) == "config"
    assert [shown(v) for v in (None, True, "no", 1.5, (1, "a"))] == ["null", "true", "text 'no'", "1.5", '[1, "a"]']
    assert len(shown(list(range(1000)))) == 80
