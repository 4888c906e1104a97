"""What the channels of a case are: classes and composites, or the independent regions of a sigmoid model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ACTIVATIONS = ("softmax", "logits", "sigmoid")


@dataclass(frozen=True)
class Channels:
    """Names of the scored channels, and for each the label values that it stands for.

    `labels` is the number of label values, `predicted` that of the prediction's channels. `binary`: they are
    independent; the background, which such a model does not predict, is kept as the first name so that positions
    mean the same everywhere.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    labels: int
    predicted: int
    binary: bool

    @property
    def num_classes(self) -> int:
        """Number of channels before the composites, background included."""
        return self.predicted + self.binary

    def labelled(self, class_names: Sequence[str], annotated: Sequence[str] | None) -> tuple[bool, ...]:
        """Which channels were annotated: all their classes; the background only where every organ was looked for."""
        if annotated is None:
            return (True,) * len(self.names)
        unknown = [name for name in annotated if name not in class_names]
        if unknown:
            raise ValueError(f"labelled_classes names {unknown[0]!r}; the classes are {', '.join(class_names)}")
        complete = set(class_names[1:]) <= set(annotated)
        known = [complete, *(name in annotated for name in class_names[1:])]
        return tuple(all(known[k] for k in members) for members in self.members)


def _check_names(class_names: Sequence[str], composites: Mapping[str, Sequence[int]]) -> None:
    if not isinstance(class_names, Sequence):
        raise ValueError(
            f"class_names must be a list with a name for each class, background first, got {class_names!r}"
        )
    twice = [name for k, name in enumerate(class_names) if name in class_names[:k]]
    if twice:
        raise ValueError(f"class_names names {twice[0]!r} twice; give each class a name of its own")
    for name, members in composites.items():
        if not all(hasattr(k, "__index__") and 0 <= k < len(class_names) for k in members):
            raise ValueError(
                f"composite {name!r} must list classes by their numbers in 0..{len(class_names) - 1}, got {members}"
            )


def channels_of(
    class_names: Sequence[str],
    composites: Mapping[str, Sequence[int]],
    activation: str,
    groups: Sequence[Sequence[int]] | None,
) -> Channels:
    """The channels of a case. `groups`, for sigmoid region models, lists the label values of each channel.

    A group is named after its class, or the composite of the same classes, else by its classes joined by +.
    """
    _check_names(class_names, composites)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if (activation == "sigmoid") != (groups is not None):
        raise ValueError(
            "groups are for activation='sigmoid', which needs them: the label values of each channel, such as "
            f"((1, 2, 3), (1, 3), (3,)); got activation={activation!r} and groups={groups}"
        )
    if groups is None:
        members = [(k,) for k in range(len(class_names))] + [tuple(m) for m in composites.values()]
        return Channels((*class_names, *composites), tuple(members), len(class_names), len(class_names), False)
    if any(not isinstance(group, Sequence) or isinstance(group, str) for group in groups):
        raise ValueError(f"groups must list the label values of each channel, such as ((1, 2, 3), (3,)), got {groups}")
    named = {frozenset(m): name for name, m in composites.items()}
    named |= {frozenset([k]): name for k, name in enumerate(class_names)}
    if any(not 0 <= k < len(class_names) for group in groups for k in group):
        raise ValueError(f"groups must name labels in 0..{len(class_names) - 1}, got {groups}")
    names = [named.get(frozenset(g), "+".join(class_names[k] for k in g)) for g in groups]
    return Channels((class_names[0], *names), ((0,), *map(tuple, groups)), len(class_names), len(groups), True)
