"""Score many cases while processes are killed at random moments, and compare with a run that nobody disturbed.

    python tests/soak/soak.py --cases 2000 --kills 16 --seed 0

Every shard is started again after each kill (SIGKILL or SIGTERM of the whole run, or SIGKILL of one worker, which the
run must survive) until it ends by itself; then the merge is killed and done again. The result must be, to the last
byte, that of the undisturbed run, whose memory is watched meanwhile. Distances are left out: they take most of the
time and keep nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flat import SCORES, contents, write_flat

SETTINGS = (
    'data.layout={name: files, images: ["labels/{case}.nii.gz"]}',
    "data.convention=null",
    "data.labels={background: 0, liver: 1, tumor: 2}",
    "score.distances=false",
)
SOME_REFUSED = 4
PATIENCE_S = 3600.0
POLL_S = 0.05


@dataclass
class Soak:
    """Where it happens, what has been done to the processes so far, and what they did not survive."""

    folder: Path
    rng: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    def score(self, out: Path, *options: object) -> subprocess.Popen[bytes]:
        """Start scoring into `out`."""
        sets = [word for setting in SETTINGS for word in ("--set", setting)]
        pair = ["--predictions", self.folder / "predictions", "--labels", self.folder, "--config", "phantom"]
        return self.start("score", *pair, *sets, "--out", out, *options)

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Start the command line; what it says goes to log.txt."""
        self.starts += 1
        with (self.folder / "log.txt").open("ab") as log:
            words = [sys.executable, "-m", "medcalib", *map(str, arguments)]
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def resident_mib(pid: int) -> float | None:
    """Resident memory of a process now; None when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return None


def children(pid: int) -> list[int]:
    """Processes that score for a run: those that the pool has spawned."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def scored(out: Path, since: float = 0.0) -> int:
    """Cases in a scores folder that were written after a moment of the clock."""
    found = 0
    for path in out.glob("case_*.npz"):
        with suppress(FileNotFoundError):
            found += path.stat().st_mtime > since
    return found


def undisturbed(soak: Soak, out: Path) -> dict[str, Any]:
    """One run in one process: exit code, seconds, and resident MiB by cases done and at its highest, in the summary."""
    began = time.monotonic()
    process = soak.score(out)
    samples: list[tuple[int, float]] = []
    while process.poll() is None:
        memory = resident_mib(process.pid)
        if memory is not None:
            samples.append((scored(out), memory))
        time.sleep(0.25)
    total = scored(out)
    parts = {}
    for name, share in (("start", 0.1), ("middle", 0.5), ("end", 0.98)):
        near = [memory for done, memory in samples if done >= share * total]
        parts[name] = round(near[0], 1) if near else None
    peak = round(max(memory for _, memory in samples), 1)
    seconds = round(time.monotonic() - began, 1)
    return {"exit": process.returncode, "seconds": seconds, "rss_mib": {**parts, "peak_with_summary": peak}}


def killed(soak: Soak, process: subprocess.Popen[bytes], out: Path, most: int) -> bool:
    """Kill something of the run at a random moment: while it starts, or after up to `most` more cases. False: it ended
    before that moment."""
    rng, began = soak.rng, time.time()
    how = rng.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGTERM", "worker"])
    early = rng.random() < 0.15 and how != "worker"
    goal = 0 if early else rng.randint(1, max(most, 1))
    wait_s = rng.uniform(0.0, 8.0 if early else 0.05)
    while time.time() - began < wait_s or scored(out, began) < goal:
        if process.poll() is not None:
            return False
        time.sleep(POLL_S)
    workers = children(process.pid)
    if how == "worker" and not workers:
        how = "SIGKILL"
    with suppress(ProcessLookupError):
        if how == "worker":
            os.kill(rng.choice(workers), signal.SIGKILL)
        else:
            process.send_signal(getattr(signal, how))
    soak.kills[how] += 1
    return True


def shard_through(soak: Soak, out: Path, name: str, cases: int, kills: int) -> int:
    """Score one shard, killed so many times on its way; returns the exit code of the call that came through."""
    for left in range(kills, -1, -1):
        process = soak.score(out, "--shard", name, "--workers", soak.rng.choice([1, 2]))
        if left:
            killed(soak, process, out, 2 * (cases - scored(out)) // (left + 1))
        code = process.wait(timeout=PATIENCE_S)
        if code in (0, SOME_REFUSED):
            return code
        if code > 0:
            raise AssertionError(f"shard {name} ended with code {code}; see {soak.folder / 'log.txt'}")
    raise AssertionError(f"shard {name} was left undone")


def disturbed(soak: Soak, out: Path, cases: int, shards: int, kills: int) -> None:
    """All shards, each in a folder of its own, then the merge, which is killed twice first."""
    folders = [out.with_name(f"{out.name}-{index}") for index in range(shards)]
    for index, folder in enumerate(folders):
        share = kills * (index + 1) // shards - kills * index // shards
        shard_through(soak, folder, f"{index}/{shards}", cases // shards, share)
    for _ in range(2):
        process = soak.start("merge", *folders, "--out", out)
        killed(soak, process, out, cases)
        process.wait(timeout=PATIENCE_S)
    soak.start("merge", *folders, "--out", out).wait(timeout=PATIENCE_S)


def soaked(folder: Path, *, cases: int, shards: int, kills: int, seed: int) -> dict[str, Any]:
    """Make the cases, score them undisturbed and disturbed; what came out."""
    write_flat(folder, cases)
    soak = Soak(folder, random.Random(seed))  # noqa: S311 - a repeatable choice of moments
    calm = undisturbed(soak, folder / "calm")
    began = time.monotonic()
    disturbed(soak, folder / "scores", cases, shards, kills)
    expected, found = contents(folder / "calm"), contents(folder / "scores")
    numbers = json.loads(expected[SCORES])
    left = sum(1 for path in folder.glob("scores*/.tmp-*"))
    return {
        "cases": numbers["n_expected"],
        "scored": numbers["n_scored"],
        "refused": len(numbers["refused"]),
        "shards": shards,
        "kills": dict(sorted(soak.kills.items())),
        "starts": soak.starts - 1,
        "files": len(expected),
        "bytes": sum(map(len, expected.values())),
        "differing": sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)),
        "temporary_files_left": left,
        "undisturbed": calm,
        "disturbed_seconds": round(time.monotonic() - began, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what came out as JSON; 1 when a byte differs."""
    parser = argparse.ArgumentParser(description="Score many cases, killed and resumed, and compare every byte.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--kills", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="an empty or new folder; a temporary one without it")
    given = parser.parse_args(arguments)
    options = {"cases": given.cases, "shards": given.shards, "kills": given.kills, "seed": given.seed}
    if given.out is not None:
        found = soaked(given.out, **options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = soaked(Path(folder), **options)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if found["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
