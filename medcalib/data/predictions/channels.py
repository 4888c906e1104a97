"""What the channels of a prediction mean: from its sidecar, from nnU-Net's dataset.json, or from the config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.nifti import read_header
from medcalib.data.predictions.nnunet import code_of, description_of, own_names, reader_of
from medcalib.errors import DataError
from medcalib.files import read_json

Activation = Literal["softmax", "logits", "sigmoid"]
ACTIVATIONS = ("softmax", "logits", "sigmoid")
MAX_VALUES = 1 << 40  # only against overflow: shapes are compared with the reference before anything is read
SUFFIXES = (".nii.gz", ".nii", ".npz", ".npy")


@dataclass(frozen=True)
class Channels:
    """Names and meaning of a prediction's channels.

    `groups` holds, for independent binary channels (sigmoid), the class indices that each channel unites; `painted`
    the class index that nnU-Net writes for each of them. `scale` divides the stored values. `axes` is the declared
    order of an array (`ijk` or `kji`). `activation` is None where nobody said it: then it is softmax.
    """

    label_map: LabelMap
    names: tuple[str, ...]
    activation: Activation | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    painted: tuple[int, ...] = ()
    scale: float = 1.0
    axes: Literal["ijk", "kji"] | None = None
    reader: str | None = None
    sidecar: bool = False

    def declared(self, *, assume_logits: bool) -> Activation:
        """The activation; `assume_logits` may fill a gap but contradict nothing."""
        if not assume_logits:
            return self.activation or "softmax"
        if self.activation in (None, "logits"):
            return "logits"
        raise DataError(
            "activation_conflict",
            f"logits were asked for, but the prediction's own description says {self.activation}; leave out --logits, "
            "or correct `activation` in the sidecar",
        )


def prediction_stem(path: Path) -> str:
    """The name of a prediction file, or of a folder or prefix of class files, without its ending."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def sidecar_of(prediction: Path) -> Path:
    """Where the sidecar `<case>.json` of a prediction lies."""
    return prediction.with_name(f"{prediction_stem(prediction)}.json")


def label_map_of(prediction: Path) -> LabelMap:
    """Class names and codes by a prediction's own description: its sidecar, else nnU-Net's dataset.json."""
    return channels_of(prediction, None).label_map


def labels_for(prediction: Path, configured: LabelMap | None) -> LabelMap:
    """The classes of a prediction: the config's, which its own description may not contradict, else the latter's."""
    return channels_of(prediction, configured).label_map


def channels_of(prediction: Path, configured: LabelMap | None) -> Channels:
    """What the channels mean. Raises `DataError`: missing_sidecar, bad_sidecar, bad_dataset_json, class_order.

    Keys of the sidecar beside `class_names`, `codes` and `ignore_code`: `activation` (softmax, logits, sigmoid),
    `groups` (sigmoid: name of each channel -> codes that it unites), `scale` (the stored value of probability 1)
    and `axes` of a `.npy` (`ijk` or `kji`).
    """
    path = sidecar_of(prediction)
    meta = _sidecar(path)
    if meta is not None and (meta.keys() & {"class_names", "codes"} or (configured is None and not _described(path))):
        found = _from_sidecar(path, meta)
        return replace(_agreeing(found, configured, path), reader=reader_of(path.parent))
    found = _undeclared(path, configured)
    return found if meta is None else _with_options(found, path, meta)


def _described(path: Path) -> bool:
    return description_of(path.parent) is not None


def _undeclared(path: Path, configured: LabelMap | None) -> Channels:
    """Without class names in a sidecar: by dataset.json, checked against the config, else by the config alone."""
    described = description_of(path.parent)
    if described is not None:
        found = Channels(
            described.label_map,
            described.names,
            None if described.regions is None else "sigmoid",
            described.regions,
            described.painted,
            reader=reader_of(path.parent),
        )
        return _agreeing(found, configured, described.path)
    if configured is None:
        raise DataError(
            "missing_sidecar",
            f"neither {path} nor a dataset.json of nnU-Net beside it names classes and codes; {_described_by(path)}",
        )
    return Channels(configured, configured.class_names, reader=reader_of(path.parent))


def _described_by(sidecar: Path) -> str:
    """What will name the classes."""
    if sidecar.with_suffix(".npz").is_file():
        return (
            "copy dataset.json, and plans.json, which nnU-Net writes beside its predictions and in the folder of its "
            "training, there, or pass --config"
        )
    return f"pass --config{_swapped(sidecar)}"


def _swapped(sidecar: Path) -> str:
    """A hint where the prediction is a label map."""
    files = [path for path in (sidecar.with_suffix(ending) for ending in (".nii.gz", ".nii")) if path.is_file()]
    try:
        flat = bool(files) and len(read_header(files[0], max_voxels=MAX_VALUES).shape) == 3
    except DataError:
        return ""
    return f" ({files[0].name} is a label map: are predictions and labels swapped?)" if flat else ""


def _sidecar(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise _bad(path, f"it holds a {type(meta).__name__}, not a mapping")
    return meta


def _bad(path: Path, why: object) -> DataError:
    return DataError("bad_sidecar", f"{path} describes no usable classes: {why}; correct it, or pass --config")


def _bad_option(path: Path, why: object) -> DataError:
    return DataError("bad_sidecar", f"{path} cannot be used: {why}; correct it")


def _lists(meta: dict[str, Any], key: str, example: str) -> list[Any]:
    """A list of the sidecar. ValueError for what is none."""
    if not isinstance(meta.get(key), list):
        came = f"got {ascii(meta[key])[:60]}" if key in meta else "there is none"
        raise ValueError(f"expected `{key}` such as {example}, {came}")
    return list(meta[key])


def _from_sidecar(path: Path, meta: dict[str, Any]) -> Channels:
    try:
        groups = _lists(meta, "codes", "[[0], [1], [2, 3]]")
        if not all(isinstance(group, list) for group in groups):
            raise ValueError(f"expected `codes` such as [[0], [1], [2, 3]], got {ascii(groups)[:60]}")
        codes = tuple(tuple(code_of(code) for code in group) for group in groups)
        names = own_names(map(str, _lists(meta, "class_names", '["background", "tumor"]')))
        ignored = meta.get("ignore_code")
        flat = [code for group in codes for code in group]
        if not 2 <= len(names) == len(codes) <= IGNORE or not all(codes) or len(set(flat)) < len(flat):
            raise ValueError(
                f"`class_names` has {len(names)} and `codes` {len(codes)} entries; each class needs codes of its own"
            )
        if 0 not in codes[0]:
            raise ValueError(f"the first class must be the background, with code 0, got {list(codes[0])}")
        label_map = LabelMap(names, codes, None if ignored is None else code_of(ignored))
    except ValueError as error:
        raise _bad(path, error) from error
    return _with_options(Channels(label_map, names), path, meta)


def _with_options(found: Channels, path: Path, meta: dict[str, Any]) -> Channels:
    """`found` with what the sidecar says beside the classes."""
    activation, axes = meta.get("activation", found.activation), meta.get("axes")
    if activation not in (None, *ACTIVATIONS):
        raise _bad_option(path, f"expected `activation` of {', '.join(ACTIVATIONS)}, got {ascii(activation)[:40]}")
    if axes not in (None, "ijk", "kji"):
        raise _bad_option(path, f"expected `axes` ijk or kji, got {ascii(axes)[:40]}")
    try:
        scale = _scale(meta.get("scale", 1.0))
        found = replace(found, activation=activation, axes=axes, scale=scale, sidecar=True)
        return found if "groups" not in meta else _with_groups(found, meta["groups"])
    except ValueError as error:
        raise _bad_option(path, error) from error


def _scale(value: Any) -> float:
    try:
        scale = float(value)
    except (OverflowError, TypeError, ValueError):
        scale = float("nan")
    if not 0 < scale < float("inf"):
        raise ValueError(f"expected `scale` above 0, the stored value of probability 1, got {ascii(value)[:40]}")
    return scale


def _with_groups(found: Channels, groups: Any) -> Channels:
    if not isinstance(groups, dict) or not all(isinstance(codes, list) for codes in groups.values()):
        raise ValueError(f'expected `groups` such as {{"whole tumor": [1, 2, 4]}}, got {ascii(groups)[:60]}')
    if found.activation != "sigmoid":
        raise ValueError(f"`groups` need `activation` sigmoid, got {found.activation}")
    members = tuple(indices_of(found.label_map, [code_of(code) for code in codes]) for codes in groups.values())
    return replace(found, names=own_names(map(str, groups)), groups=members)


def indices_of(label_map: LabelMap, codes: list[int]) -> tuple[int, ...]:
    """Class indices that `codes` fill; ValueError when a code is unknown or a class would be split."""
    wanted = set(codes)
    indices = tuple(k for k, group in enumerate(label_map.codes) if wanted & set(group))
    filled = {code for k in indices for code in label_map.codes[k]}
    if not wanted or filled != wanted:
        raise ValueError(f"codes {sorted(wanted)} are no union of the classes' codes {label_map.codes}")
    return indices


def _agreeing(found: Channels, configured: LabelMap | None, path: Path) -> Channels:
    """`found` under the config's label map, unless the two contradict each other."""
    if configured is None:
        return found
    own = found.label_map
    if found.groups is not None:
        try:
            by_code = [[code for k in group for code in own.codes[k]] for group in found.groups]
            groups = tuple(indices_of(configured, codes) for codes in by_code)
            painted = tuple(indices_of(configured, [own.codes[k][0]])[0] for k in found.painted)
        except ValueError as error:
            raise DataError("class_order", f"{path} does not fit the config: {error}") from error
        return replace(found, label_map=configured, groups=groups, painted=painted)
    same_names = [_plain(name) for name in own.class_names] == [_plain(name) for name in configured.class_names]
    if own.codes != configured.codes or not same_names:
        raise DataError(
            "class_order",
            f"{path} says that the channels are {_shown(own)}; the config says {_shown(configured)}; use the config "
            "that the predictions were made with",
        )
    return replace(found, label_map=configured, names=configured.class_names)


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")


def _shown(label_map: LabelMap) -> str:
    pairs = zip(label_map.class_names, label_map.codes, strict=True)
    return ", ".join(f"{name}={'/'.join(map(str, codes))}" for name, codes in pairs)
