"""Which classes, unions of classes or independent regions get maps of their own, and under which file name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medcalib.data.predictions import Channels
from medcalib.errors import ConfigError, DataError
from medcalib.files import check_case_id
from medcalib.options import suggestion
from medcalib.report.maps.kinds import CHANNEL_KINDS, KINDS

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Channel:
    """A class, a union of classes, or a region: its name, the name in files, the predicted channels that are added
    for its probability, and the label values that are its reference."""

    name: str
    file: str
    sources: tuple[int, ...]
    members: tuple[int, ...]


def chosen_channels(
    channels: Channels, composites: Mapping[str, Sequence[int]], names: Sequence[str]
) -> tuple[Channel, ...]:
    """The channels named; `all` is every one but the background. Of independent regions, all when none is named.

    Raises `ConfigError` for a name that does not exist, and for names that would share a file.
    """
    known: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]  # name: channels that are added, values of the label
    if channels.groups is not None:
        known = {name: ((k,), channels.groups[k]) for k, name in enumerate(channels.names)}
        wanted = list(names) or list(known)
    else:
        known = {name: ((k,), (k,)) for k, name in enumerate(channels.names)}
        known |= {name: (tuple(of), tuple(of)) for name, of in composites.items()}
        wanted = list(names)
    if wanted == ["all"] and "all" not in known:
        wanted = [name for name, (_, members) in known.items() if members != (0,)]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"unknown class {name!r}; {suggestion(name, list(known))}")
    found = tuple(Channel(name, file_name(name), *known[name]) for name in dict.fromkeys(wanted))
    _check_files(found)
    return found


def file_name(name: str) -> str:
    """A class name as part of a file name: what a case id may not hold becomes `_`. Raises `ConfigError`."""
    try:
        return check_case_id(_UNSAFE.sub("_", name).strip("._-"))
    except DataError as error:
        raise ConfigError(
            f"class {name!r} cannot be part of a file name; rename it in the config or sidecar"
        ) from error


def _check_files(channels: Sequence[Channel]) -> None:
    taken: dict[str, str] = {name: f"the map {name!r}" for name in KINDS}
    for channel in channels:
        for kind in CHANNEL_KINDS:
            other = taken.setdefault(f"{channel.file}_{kind}", f"class {channel.name!r}")
            if other != f"class {channel.name!r}":
                raise ConfigError(
                    f"the maps of class {channel.name!r} and {other} would share a file; rename the class"
                )
