"""What the page is made from: one method a scores folder, with its numbers, the counts of its cases and its maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcalib.errors import DataError
from medcalib.files import read_json
from medcalib.metrics.case import CaseScores
from medcalib.report.plots import main_region

Numbers = dict[str, Any]
REGION_WORDS = {
    "all": "over all voxels",
    "foreground": "in the foreground of reference or prediction",
    "gt_foreground": "in the reference foreground",
    "pred_foreground": "in the predicted foreground",
    "boundary": "near the reference boundaries",
}
KEYS = ("n_expected", "n_scored", "refused", "settings", "pooled", "mean", "cases")


@dataclass(frozen=True)
class Method:
    """One scores folder: its numbers, the counts of its cases, and its maps where there are any."""

    name: str
    scores: Numbers
    cases: tuple[CaseScores, ...]
    maps: Path | None

    @property
    def region(self) -> str | None:
        """The region that the summary speaks of."""
        return main_region(self.scores)

    @property
    def main(self) -> Numbers:
        """Pooled numbers of the main region; empty where nothing was scored."""
        return self.scores["pooled"][self.region] if self.region else {}

    @property
    def where(self) -> str:
        """The main region in the words of a sentence."""
        return in_words(str(self.region))

    @property
    def binary(self) -> bool:
        """Whether channels are independent regions, without a top label."""
        return bool(self.scores["settings"].get("independent_channels"))

    @property
    def regions(self) -> list[str]:
        """Scored regions, the main one first."""
        return sorted(self.scores["pooled"], key=lambda name: name != self.region)

    @property
    def patients(self) -> int:
        """How many patients the scored cases come from."""
        return len({case.patient_id for case in self.cases})


def in_words(region: str) -> str:
    """A region in the words of a sentence."""
    return REGION_WORDS.get(region, f"in region {region}")


def read_methods(scores: Sequence[Path], maps: Sequence[Path] = ()) -> list[Method]:
    """Scores folders as methods; names that occur twice are numbered."""
    found: list[Method] = []
    for folder, images in itertools.zip_longest(scores, maps):
        if not (folder / "scores.json").exists():
            shards = any(folder.glob("shard-*-of-*.json"))
            fix = "it holds shards only, make the whole of them by `medcalib merge`" if shards else "`score` writes it"
            raise DataError("missing_file", f"{folder / 'scores.json'} does not exist; {fix}")
        numbers = read_json(folder / "scores.json")
        lacks = [key for key in KEYS if not isinstance(numbers, dict) or key not in numbers]
        if lacks:
            raise DataError("broken_scores", f"{folder / 'scores.json'} lacks {', '.join(lacks)}; score again")
        if not isinstance(numbers["cases"], dict) or not isinstance(numbers["settings"], dict):
            raise DataError("broken_scores", f"{folder / 'scores.json'}: cases and settings are no tables; score again")
        name = str(numbers.get("method", {}).get("name") or folder.name)
        taken = sum(method.name == name or method.name.startswith(f"{name} (") for method in found)
        name = f"{name} ({taken + 1})" if taken else name
        numbers["method"] = {**numbers.get("method", {}), "name": name}
        stored = [CaseScores.load(p) for p in sorted(folder.glob("*.npz")) if not p.name.startswith(".")]
        cases = tuple(sorted((c for c in stored if c.case_id in numbers["cases"]), key=lambda c: c.case_id))
        absent = sorted(set(numbers["cases"]) - {case.case_id for case in cases})
        if absent:
            named = ", ".join(absent[:5])
            raise DataError("missing_file", f"{folder} lacks the counts of {named}; score again")
        found.append(Method(name, numbers, cases, images))
    return found
