"""What the channels of a prediction mean: from its sidecar, from nnU-Net's dataset.json, or from the config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medcalib.data.labels import IGNORE, LabelMap
from medcalib.data.predictions.nnunet import code_of, description_of, own_names, reader_of
from medcalib.errors import DataError
from medcalib.files import read_json

Activation = Literal["softmax", "logits", "sigmoid"]
ACTIVATIONS = ("softmax", "logits", "sigmoid")
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
            f"neither {path} nor a dataset.json of nnU-Net beside it names classes and codes; pass --config",
        )
    return Channels(configured, configured.class_names, reader=reader_of(path.parent))


def _sidecar(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise _bad(path, "it holds no mapping")
    return meta


def _bad(path: Path, why: object) -> DataError:
    return DataError("bad_sidecar", f"{path} describes no usable classes ({why}); correct it, or pass --config")


def _from_sidecar(path: Path, meta: dict[str, Any]) -> Channels:
    try:
        codes = tuple(tuple(code_of(code) for code in group) for group in meta["codes"])
        names, ignored = own_names(map(str, meta["class_names"])), meta.get("ignore_code")
        flat = [code for group in codes for code in group]
        if not 2 <= len(names) == len(codes) <= IGNORE or not all(codes) or len(set(flat)) < len(flat):
            raise ValueError(f"{len(names)} names, {len(codes)} groups of codes, each code in one group")
        if 0 not in codes[0]:
            raise ValueError("the first class must be the background, with code 0")
        label_map = LabelMap(names, codes, None if ignored is None else code_of(ignored))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _bad(path, error) from error
    return _with_options(Channels(label_map, names), path, meta)


def _with_options(found: Channels, path: Path, meta: dict[str, Any]) -> Channels:
    """`found` with what the sidecar says beside the classes."""
    activation, axes = meta.get("activation", found.activation), meta.get("axes")
    if activation not in (None, *ACTIVATIONS):
        raise _bad(path, f"activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    if axes not in (None, "ijk", "kji"):
        raise _bad(path, f"axes {axes!r}; expected ijk or kji")
    try:
        scale = float(meta.get("scale", 1.0))
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale {scale}")
        found = replace(found, activation=activation, axes=axes, scale=scale, sidecar=True)
        return found if "groups" not in meta else _with_groups(found, meta["groups"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _bad(path, error) from error


def _with_groups(found: Channels, groups: dict[str, list[int]]) -> Channels:
    if found.activation != "sigmoid":
        raise ValueError(f"`groups` need activation sigmoid, not {found.activation}")
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
