"""Scores without the names of cases and patients, for those who may not know them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcalib.engine.parts import Part, Refusal, check_out, read_parts, write_part
from medcalib.errors import ConfigError, DataRefusedError, Problem, in_words
from medcalib.files import make_folder
from medcalib.metrics import CaseScores

MIN_KEY = 16  # bytes
WITHHELD = "its text may name the case; it is in the scores with names"


class Pseudonyms:
    """HMAC-SHA256 of ids under a secret key: the same key gives the same pseudonyms, without it nobody can guess."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY:
            raise ConfigError(
                f"a key needs {MIN_KEY} bytes or more, got {len(key)}; make one: "
                'python -c "import secrets; print(secrets.token_hex(32))" > KEYFILE'
            )
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """The key is the content of a file, without the space around it."""
        try:
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise ConfigError(f"the key file {path} cannot be read: {in_words(error)}") from error

    def case(self, name: str) -> str:
        """Of a case id."""
        return f"case-{self._digest('case', name)}"

    def patient(self, name: str) -> str:
        """Of a patient id; a patient and a case of the same id have different ones."""
        return f"patient-{self._digest('patient', name)}"

    def _digest(self, kind: str, name: str) -> str:
        return hmac.new(self._key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:16]


def pseudonymize(scores: Path, out: Path, names: Pseudonyms) -> dict[str, Any]:
    """Write the scores folder of a whole run again into `out` under pseudonyms; returns its `scores.json`.

    The numbers are the same to the last bit. Texts of refusals and warnings, and hashes of the scored files, by which
    cases could be recognized, are left out.
    """
    part = _whole(read_parts(scores), scores)
    check_out(out, map(names.case, part.cases), [scores])
    make_folder(out)
    for case in part.cases:
        renamed(CaseScores.load(scores / f"{case}.npz"), names).save(out / f"{names.case(case)}.npz")
    refused = tuple(_renamed_refusal(entry, names) for entry in part.refused)
    cases = tuple(sorted(map(names.case, part.cases)))
    return write_part(replace(part, folder=out, cases=cases, refused=refused))


def renamed(case: CaseScores, names: Pseudonyms) -> CaseScores:
    """The same counts under a pseudonym."""
    return replace(
        case,
        case_id=names.case(case.case_id),
        patient_id=names.patient(case.patient_id),
        warnings=tuple(f"a warning: {WITHHELD}" for _ in case.warnings[:1]),
        inputs={},
    )


def _renamed_refusal(entry: Refusal, names: Pseudonyms) -> Refusal:
    return {"case": names.case(entry["case"]), "reason": entry["reason"], "message": WITHHELD}


def _whole(parts: Sequence[Part], folder: Path) -> Part:
    whole = [part for part in parts if part.shard is None]
    if not whole:
        text = "it holds shards only; make the whole of them by `medcalib merge` first"
        raise DataRefusedError([Problem(str(folder), "missing_file", text)])
    return whole[0]
