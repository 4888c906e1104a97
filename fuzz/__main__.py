"""Fuzz every target for its share of the time: python -m fuzz [--seconds 600] [TARGET ...]

Findings, and the inputs that reach new code, go to build/fuzz/TARGET. Exit code 1 when something was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS

BUILD = Path("build/fuzz")


def main() -> int:
    """Run the targets one after the other and tell what came out."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all unless named")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    given = parser.parse_args()
    targets = given.targets or TARGETS
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    found = [_run(target, max(1, given.seconds // len(targets))) for target in targets]
    return int(any(found))


def _run(target: str, seconds: int) -> bool:
    """Whether a target found something."""
    folder = BUILD / target
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1"]
    command = [sys.executable, "-m", "fuzz.one", target, *limits, f"-artifact_prefix={folder}/"]
    with (folder / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
        done = subprocess.run([*command, folder / "corpus", CORPUS / target], stdout=log, stderr=log, check=False)  # noqa: S603
        log.seek(0)
        text = log.read()
    runs = re.findall(r"stat::number_of_executed_units: *(\d+)", text) or re.findall(r"^#(\d+)\s", text, re.MULTILINE)
    coverage = re.findall(r" cov: (\d+)", text)
    executions = f"{int(runs[-1]):,}" if runs else "no"
    reached = coverage[-1] if coverage else "?"
    told = "nothing found" if done.returncode == 0 else f"FOUND SOMETHING: see {folder}"
    sys.stdout.write(f"{target}: {executions} executions in {seconds} s, {reached} branches reached, {told}\n")
    sys.stdout.flush()
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
