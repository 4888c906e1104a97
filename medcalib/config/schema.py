"""The config of a run: closed pydantic models. Choices (layout, split, network, loss ...) come from signatures."""

from __future__ import annotations

import re
from collections import Counter
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from medcalib.config.messages import shown
from medcalib.config.unions import Choice, Closed, parameters_of, union
from medcalib.data.intensity import INTENSITIES
from medcalib.data.labels import CONVENTIONS, IGNORE, LabelMap
from medcalib.data.layouts import LAYOUTS
from medcalib.data.splits import SPLITS
from medcalib.errors import ConfigError
from medcalib.losses import RECIPES, TERMS, Objective, build, build_terms, parameters, term_parameters
from medcalib.metrics.protocols import PROTOCOLS
from medcalib.metrics.regions import BOUNDARY_MM, REGIONS
from medcalib.metrics.surface import TOLERANCE_MM
from medcalib.networks import NETWORKS

Layout: Any = union("layout", {name: parameters_of(layout) for name, layout in LAYOUTS.items()})
Split: Any = union("split", {name: parameters_of(split) for name, split in SPLITS.items()})
Intensity: Any = union("intensity", {name: parameters_of(build) for name, build in INTENSITIES.items()})
Model: Any = union("model", {name: parameters_of(network.build) for name, network in NETWORKS.items()})
Term: Any = union("term", {name: term_parameters(name) for name in TERMS})


def _codes(value: Any) -> Any:
    """One code stands for a list of one."""
    if isinstance(value, (tuple, list)):
        return value
    if type(value) is not int:
        raise ValueError(f"expected a code such as 1, or a list of codes, got {shown(value)}")
    return (value,)


def _form(pattern: str, words: str) -> Any:
    """Text that fits a pattern; what does not is told so in words."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and not re.search(pattern, value):
            raise ValueError(f"expected {words}, got {shown(value)}")
        return value

    return Annotated[str, Field(pattern=pattern), BeforeValidator(check)]


Code = Annotated[int, Field(ge=0, le=65535)]
Codes = Annotated[tuple[Code, ...], BeforeValidator(_codes, int | list[int])]
RunName: Any = _form(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "letters, digits, '.', '_' and '-', the first a letter or digit")
AxisCodes: Any = _form("^(?:[RL]|[AP]|[SI]){3}$", "three capital letters, such as RAS or LPS")
Device: Any = _form(r"^(auto|cpu|cuda(:[0-9]+)?)$", "auto, cpu, cuda or a numbered one, such as cuda:0")
Size3 = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Millimeters = Annotated[float, Field(gt=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class TermConfig(Closed):
    """One summand of a loss that is put together by hand."""

    term: Term = Field(description="a name, or a mapping with its options")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="factor of the term")


_CUSTOM = {"terms": Parameter("terms", Parameter.KEYWORD_ONLY, annotation=tuple[TermConfig, ...])}
Loss: Any = union("loss", {name: parameters(name) for name in RECIPES} | {"custom": _CUSTOM})


class DataConfig(Closed):
    """Where the volumes are and what their labels mean."""

    layout: Layout = Field(description="how the folder is laid out")
    labels: dict[str, Codes] = Field(description="class name -> code(s) in the label files; background first")
    root: str | None = Field(None, description="dataset folder; --data takes its place")
    convention: Literal[tuple(CONVENTIONS)] | None = Field(  # type: ignore[valid-type]
        None, description="published meaning of the codes, checked against `labels`"
    )
    ignore_label: Annotated[int, Field(ge=-32768, le=65535)] | None = Field(
        None, description="code of voxels that count nowhere"
    )
    composites: dict[str, tuple[str, ...]] = Field({}, description="unions of classes that are scored too")
    exclude: tuple[str, ...] = Field((), description="case or patient ids to leave out")
    skip_unpaired: bool = Field(False, description="leave out images without a label and the reverse")
    nonfinite: Literal["refuse", "zero"] = Field("refuse", description="what to do with NaN and Inf in images")

    @field_validator("labels", mode="before")
    @classmethod
    def _names_of_codes(cls, labels: Any) -> Any:
        """Other ways to say what the classes are, told apart before each entry is refused on its own."""
        if not isinstance(labels, dict):
            raise ValueError(
                f"expected the code of each class, such as {{background: 0, tumor: 1}}, got {shown(labels)}"
            )
        if labels and all(key.isdecimal() and isinstance(name, str) for key, name in labels.items()):
            key, name = next(iter(labels.items()))
            raise ValueError(f"expected name: code, such as {{{name}: {key}}}, got code: name, {shown(labels)}")
        return labels

    @field_validator("labels")
    @classmethod
    def _usable_labels(cls, labels: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        counts = Counter(code for codes in labels.values() for code in codes)
        twice = sorted(code for code, count in counts.items() if count > 1)
        if not 2 <= len(labels) <= 255:
            raise ValueError(f"expected 2 to 255 classes, background included, got {len(labels)}")
        if twice:
            raise ValueError(f"code {twice[0]} belongs to two classes; each code belongs to one")
        if 0 not in next(iter(labels.values())):
            raise ValueError(f"the first class must be the background, with code 0, got {next(iter(labels))!r} first")
        if empty := [name for name, codes in labels.items() if not codes]:
            raise ValueError(f"every class needs at least one code, got none for {empty[0]!r}")
        if any(not name.strip() for name in labels):
            raise ValueError("every class needs a name, got one of blanks")
        return labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in order, background first."""
        return tuple(self.labels)

    @property
    def label_map(self) -> LabelMap:
        """The mapping between file codes and class indices."""
        return LabelMap(self.class_names, tuple(self.labels.values()), self.ignore_label)

    @property
    def composite_indices(self) -> dict[str, tuple[int, ...]]:
        """Composites as class indices."""
        return {name: tuple(self.class_names.index(c) for c in of) for name, of in self.composites.items()}


class PreprocessConfig(Closed):
    """What every volume goes through before the network, in training and prediction alike."""

    orientation: AxisCodes = Field("RAS", description="axis codes of the array order")
    spacing_mm: tuple[Millimeters, Millimeters, Millimeters] | None = Field(
        None,
        description="resample to this voxel size along the reoriented axes; null keeps each volume's own",
    )
    intensity: Intensity = Field({"name": "zscore"}, validate_default=True, description="scaling of the images")

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, code: str) -> str:
        if len({next(pair for pair in ("RL", "AP", "SI") if c in pair) for c in code}) < 3:
            raise ValueError(f"expected one of R/L, one of A/P and one of S/I, got {code!r}")
        return code


class AugmentConfig(Closed):
    """Random changes of training patches; probability 0 or size 0 turns one off."""

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field((), description="axes flipped at random")
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="in the plane of axes 0 and 1")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="0.1 scales by 0.9 to 1.1")
    noise_std: Annotated[float, Field(ge=0)] = Field(0.0, description="of Gaussian noise, in scaled intensities")
    intensity_shift: Annotated[float, Field(ge=0)] = Field(0.0, description="added: at most so much, either way")
    intensity_scale: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="0.1 multiplies by 0.9 to 1.1")
    probability: Share = Field(0.3, description="of rotation/zoom, noise and intensity changes; flips have 0.5")


class TrainConfig(Closed):
    """The training loop."""

    patch_size: Size3 = Field(description="voxels of a training patch, on the preprocessed grid")
    epochs: Positive = Field(100, description="of steps_per_epoch steps")
    steps_per_epoch: Positive | None = Field(None, description="null: one pass over the training cases")
    batch_size: Positive = Field(2, description="patches that a rank takes at once")
    accumulate: Positive = Field(
        1, description="batches whose gradients make one step; it sees batch_size x accumulate x ranks patches"
    )
    foreground_share: Share = Field(0.5, description="share of patches centered on a foreground voxel")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="those of torch")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(1e-3, description="learning rate before the schedule")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-5, description="as the optimizer takes it")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="of sgd (Nesterov)")
    schedule: Literal["cosine", "poly", "step", "constant"] = Field("cosine", description="of lr, epoch by epoch")
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(0, description="epochs in which lr rises to its value")
    step_epochs: Positive = Field(50, description="of the step schedule: times 0.1 after so many epochs")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(12.0, description="largest gradient norm")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the network; auto: bf16 on a CUDA device that computes it, else fp32. Losses: float32"
    )
    channels_last: Literal["auto"] | bool = Field(
        "auto", description="memory format of network and images; auto: channels last on CUDA"
    )
    compile: bool = Field(False, description="torch.compile the network for training; needs minutes and a C++ compiler")
    deterministic: bool = Field(
        True, description="the same numbers from the same seed on one GPU; false lets cuDNN try out what is fastest"
    )
    device: Device = Field("auto", description="auto: a CUDA device where there is one, else cpu")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="of weights, patches and augmentation")
    workers: Annotated[int, Field(ge=0, le=64)] = Field(0, description="processes that load; at most one a core")
    cache: Literal["memory", "disk", "none"] = Field(
        "memory", description="where preprocessed volumes are kept; disk: in cache_dir, for this and all later runs"
    )
    cache_dir: str | None = Field(None, description="folder of `cache: disk`; it holds copies of your images")
    multipliers: Literal["validation", "train"] = Field(
        "validation", description="data that drives terms with state (cals_*, crac, adafocal, schedules)"
    )
    validate_every: Positive = Field(1, description="epochs between validations; the last epoch always validates")
    checkpoint_steps: Positive | None = Field(
        None,
        description="steps between checkpoints within an epoch; null: one an epoch, and one when a signal comes",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="services that get the numbers of metrics.jsonl too; each is an extra of that name"
    )
    rank_timeout_s: Annotated[float, Field(gt=0, le=86400)] = Field(
        1800.0, description="how long a rank waits for the others before it ends"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, values: Any) -> Any:
        """`tensorboard: true` is a tracker now; `deprecated.KEYS` says so to who writes it, run folders keep it."""
        if not isinstance(values, dict) or not isinstance(values.get("tensorboard"), bool):
            return values
        others = {key: value for key, value in values.items() if key != "tensorboard"}
        return others | ({"trackers": (*others.get("trackers", ()), "tensorboard")} if values["tensorboard"] else {})


class PredictConfig(Closed):
    """Sliding-window inference, used in validation too. Windows are blended as logits."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="share of a window that the next one repeats")
    blend: Literal["gaussian", "constant"] = Field("gaussian", description="weight of a window's voxels")
    batch_size: Positive = Field(2, description="windows at once")


class ScoreConfig(Closed):
    """What is scored."""

    bins: int = Field(15, description="equal bins of confidence that scores are shown for")
    edges: Literal["right", "left"] = Field("right", description="right: (a, b], as in the papers; left: [a, b)")
    regions: tuple[Literal[tuple(REGIONS)], ...] = Field(  # type: ignore[valid-type]
        tuple(REGIONS), description="where calibration is scored"
    )
    distances: bool = Field(True, description="compute HD95 and surface Dice, which cost more than all other scores")
    boundary_mm: Annotated[float, Field(ge=0, le=1000)] = Field(
        BOUNDARY_MM, description="half the width of the region `boundary`, on each side of a label surface"
    )
    surface_tolerance_mm: Annotated[float, Field(ge=0, le=1000)] = Field(
        TOLERANCE_MM, description="surfaces this close count as equal in surface Dice"
    )
    protocols: tuple[Literal[tuple(PROTOCOLS)], ...] = Field(  # type: ignore[valid-type]
        (), description="published evaluations that are reproduced beside the scores; they need the whole prediction"
    )

    @field_validator("regions")
    @classmethod
    def _some_region(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if not regions or len(set(regions)) < len(regions):
            raise ValueError(f"expected each region once, and at least one, got {shown(regions)}")
        return regions


class RunConfig(Closed):
    """Everything that decides a run. Saved, complete, beside its results."""

    name: RunName = Field(description="of the data set, in reports and tables")
    data: DataConfig = Field(description="the data set")
    split: Split = Field({"name": "kfold"}, validate_default=True, description="who trains, validates, tests")
    preprocess: PreprocessConfig = Field(PreprocessConfig(), description="orientation, voxel size, intensities")
    augment: AugmentConfig = Field(AugmentConfig(), description="random changes of training patches")
    model: Model = Field({"name": "unet"}, validate_default=True, description="a network of MONAI")
    loss: Loss = Field({"name": "ce"}, validate_default=True, description="`medcalib losses` explains them")
    train: TrainConfig = Field(description="the training loop")
    predict: PredictConfig = Field(PredictConfig(), description="sliding windows")
    score: ScoreConfig = Field(ScoreConfig(), description="what is scored")

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.data.labels)

    @property
    def root(self) -> Path:
        """The dataset folder. Raises `ConfigError` where none is named."""
        if not self.data.root:
            raise ConfigError("the config names no data.root; pass the dataset folder with --data")
        return Path(self.data.root)

    def build_objective(self) -> Objective:
        """The loss of this run. Raises ValueError for options out of range."""
        if self.loss.name != "custom":
            return build(self.loss.name, self.num_classes, ignore_index=IGNORE, **self.loss.options())
        parts = [(part.term.name, part.weight, part.term.options()) for part in self.loss.terms]
        return build_terms(parts, self.num_classes, ignore_index=IGNORE)


__all__ = ["Choice", "DataConfig", "RunConfig", "TrainConfig"]
