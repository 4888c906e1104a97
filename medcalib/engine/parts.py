"""What a scores folder says of a run, whole or in shards: the cases scored and refused, and those expected."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcalib.config.schema import ScoreConfig
from medcalib.engine.shards import Shard, shard_files
from medcalib.errors import ConfigError, DataError, in_words
from medcalib.files import CASE_ID, check_case_id, read_json, same_place, write_json
from medcalib.metrics import CaseScores
from medcalib.metrics.summary import summarize

SCORES = "scores.json"
SOURCE = ("dataset", "method", "split", "software", "expected_from")
Refusal = dict[str, str]


@dataclass(frozen=True)
class Part:
    """A run (`shard` None) or a shard of it, in one folder that also holds `<case>.npz` of its `cases`.

    `source` says what was scored (the keys `SOURCE`), `score` how. `expected` are all cases of the whole run.
    """

    folder: Path
    source: Mapping[str, Any]
    score: ScoreConfig
    cases: tuple[str, ...]
    refused: tuple[Refusal, ...]
    expected: tuple[str, ...]
    shard: Shard | None = None

    @property
    def file(self) -> Path:
        """Its summary."""
        return self.folder / (SCORES if self.shard is None else self.shard.file)

    @property
    def ids(self) -> set[str]:
        """The cases that it accounts for."""
        return {*self.cases, *(entry["case"] for entry in self.refused)}


def check_out(out: Path, cases: Iterable[str], sources: Iterable[Path] = ()) -> None:
    """Refuse to write scores over what is no score: into a source folder, or over a `<case>.npz` of another kind.

    nnU-Net's predictions bear the names of case scores. Raises `ConfigError`, before anything is written.
    """
    for source in sources:
        if same_place(out, source):
            raise ConfigError(f"{out} is a folder that is read from; choose another one for the scores")
    for case in filter(CASE_ID.match, cases):  # others are refused, and never looked for
        path = out / f"{case}.npz"
        names = _members(path)
        if names and "meta.npy" not in names:
            raise ConfigError(f"{path} holds {', '.join(names[:3])} and no scores; choose another folder")


def _members(path: Path) -> list[str]:
    """The names in an archive; none where there is no file, or one that is damaged and will be made again."""
    try:
        with zipfile.ZipFile(path) as packed:
            return packed.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def write_part(part: Part) -> dict[str, Any]:
    """Write its summary, `scores.json` for a whole run; returns the content. Cases and refusals go by id.

    Raises `DataError` when cases are too different for one table.
    """
    refused = sorted(part.refused, key=lambda entry: entry["case"])
    head = {**{key: part.source[key] for key in SOURCE}, "score": part.score.model_dump(mode="json")}
    count = len(part.cases) + len(refused)
    if part.shard is None:
        scored = [CaseScores.load(part.folder / f"{case}.npz") for case in part.cases]
        try:
            numbers = summarize(scored, bins=part.score.bins, edges=part.score.edges, expected=count, refused=refused)
        except ValueError as error:
            raise DataError("mixed_cases", f"{part.folder}: {error}") from error
    else:
        done = {"n_expected": count, "n_scored": len(part.cases), "refused": refused, "cases": sorted(part.cases)}
        numbers = {"shard": str(part.shard), **done, "expected": list(part.expected)}
    found = {**head, **numbers}
    write_json(part.file, found)
    return found


def read_parts(folder: Path) -> list[Part]:
    """The parts in a scores folder. `DataError` when there is none, or when one is damaged."""
    shards: list[Shard | None] = [*shard_files(folder).values()]
    if (folder / SCORES).is_file():
        shards.append(None)
    if not shards:
        raise DataError("missing_file", f"{folder} holds no {SCORES} and no shard; make them with `medcalib score`")
    return [_read_part(folder, shard) for shard in shards]


def _read_part(folder: Path, shard: Shard | None) -> Part:
    path = folder / (SCORES if shard is None else shard.file)
    found = read_json(path)
    try:
        score = ScoreConfig.model_validate_json(json.dumps(found["score"]))
        source = {key: found[key] for key in SOURCE}
        cases = tuple(check_case_id(case) for case in found["cases"])
        refused = tuple({key: str(entry[key]) for key in ("case", "reason", "message")} for entry in found["refused"])
        expected = found["expected"] if shard is not None else [*cases, *(entry["case"] for entry in refused)]
        return Part(folder, source, score, cases, refused, tuple(sorted(map(str, expected))), shard)
    except (KeyError, TypeError, ValueError, DataError, ConfigError) as error:
        raise DataError(
            "broken_scores", f"{path} is no summary of this version: {in_words(error)}; score again"
        ) from error
