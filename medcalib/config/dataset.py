"""A config's cases and splits."""

from __future__ import annotations

import logging
from pathlib import Path

from medcalib import distributed
from medcalib.config.schema import DataConfig, RunConfig
from medcalib.data.case import Case
from medcalib.data.check import find_cases, require
from medcalib.data.layouts import LAYOUTS
from medcalib.data.splits import SPLITS, Split, checked
from medcalib.errors import DataRefusedError, Problem, grouped

log = logging.getLogger(__name__)


def scan(data: DataConfig, root: Path) -> tuple[list[Case], list[Problem]]:
    """Cases below `root` and every problem of the folder."""
    layout = data.layout
    return find_cases(
        LAYOUTS[layout.name], root, layout.options(), exclude=data.exclude, skip_unpaired=data.skip_unpaired
    )


def split_of(config: RunConfig, cases: list[Case]) -> Split:
    """Train, val and test cases. Training cases need a complete label; others may lack one."""
    split = checked(SPLITS[config.split.name](cases, **config.split.options()))
    problems = []
    foreground = set(config.data.class_names[1:])
    for name in ("train", "val"):
        for case in split[name]:
            if case.label is None:
                problems.append(
                    Problem(
                        case.id,
                        "no_label",
                        f"is in {name} but has no label; add the label, or the case to `data.exclude`",
                    )
                )
            elif case.labelled_classes is not None and not foreground <= set(case.labelled_classes):
                missing = sorted(foreground - set(case.labelled_classes))
                problems.append(
                    Problem(
                        case.id,
                        "partial_label",
                        f"is in {name}, but {', '.join(missing)} was not annotated; add the case to `data.exclude`",
                    )
                )
    if problems:
        raise DataRefusedError(problems)
    return split


def cases_and_split(config: RunConfig) -> Split:
    """The split of a config whose data folder is sound, warnings in the log; raises with every problem otherwise."""
    cases, problems = scan(config.data, config.root)
    require(problems)
    for problem in grouped(problems) if distributed.is_main() else ():
        log.warning("%s", problem)
    return split_of(config, cases)


def with_root(config: RunConfig, root: str) -> RunConfig:
    """The same config with another data folder."""
    data = config.data.model_copy(update={"root": root})
    return config.model_copy(update={"data": data})


def only_ids(cases: list[Case], ids: list[str]) -> list[Case]:
    """Cases by id, in the order of `ids`; missing ones are a refusal."""
    by_id = {case.id: case for case in cases}
    missing = [i for i in ids if i not in by_id]
    if missing:
        fix = "add it, or pass with --data the folder that the run was trained on"
        raise DataRefusedError(
            [Problem(i, "missing_case", f"is in the run's split but not in the data folder; {fix}") for i in missing]
        )
    return [by_id[i] for i in ids]
