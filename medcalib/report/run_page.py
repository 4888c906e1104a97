"""progress.html of a run: one file without requests or scripts that shows itself anew while the run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcalib import __version__
from medcalib.files import write_text
from medcalib.report.page_templates import environment
from medcalib.report.run_charts import HEIGHT, LEFT, RIGHT, WIDTH, Columns, charts, number

FILE = "progress.html"
METRICS = "metrics.jsonl"
REFRESH_S = 10
_RECENT = 5  # epochs whose mean duration foretells the rest


class RunPage:
    """Follows a run (as a tracker) and rewrites RUN/progress.html at its start, at each line and at its end."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.lines: list[Mapping[str, Any]] = []
        self._columns = Columns()
        self.status = "running"
        self._config: Mapping[str, Any] = {}
        self._provenance: Mapping[str, Any] = {}
        self._times: list[float] = []
        self._template: Any = None

    def start(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Take up what earlier starts wrote. Raises `MissingExtraError` without jinja2."""
        self._template = environment().get_template("progress.html.j2")
        self._config, self._provenance, self.status = config, provenance, "running"
        text = (self.run / METRICS).read_text(encoding="utf-8") if (self.run / METRICS).is_file() else ""
        self.lines, self._columns = [], Columns()
        for line in text.splitlines():
            self._add(json.loads(line))
        self._times = [time.monotonic()]
        self._write()

    def log(self, line: Mapping[str, Any], step: int) -> None:
        """Draw one more epoch."""
        del step
        self._add(line)
        self._times.append(time.monotonic())
        self._write()

    def finish(self, status: str) -> None:
        """Draw for the last time: the page shows itself anew no more."""
        self.status = status
        self._write()

    def _add(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))
        self._columns.add(line)

    def _write(self) -> None:
        page = self._template.render(
            name=self._config["name"],
            status=self.status,
            refresh=REFRESH_S if self.status == "running" else None,
            facts=self._facts(),
            charts=charts(self._columns, self._config["train"]["epochs"]),
            provenance=described(self._provenance),
            size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT},
            version=__version__,
        )
        write_text(self.run / FILE, page.strip() + "\n")

    def _facts(self) -> dict[str, str]:
        epochs, last = self._config["train"]["epochs"], self.lines[-1] if self.lines else {}
        scored = [line for line in self.lines if line.get("val_dice") is not None]
        facts = {"epoch": f"{len(self.lines)} of {epochs}"}
        if self.status == "running":
            left = remaining(self._times, epochs - len(self.lines))
            facts["left"] = "known after the first epoch" if left is None else f"about {duration(left)}"
        if last.get("loss") is not None:
            facts["loss"] = number(last["loss"])
        if scored:
            best = max(scored, key=lambda line: line["val_dice"])
            facts["Dice"] = number(scored[-1]["val_dice"])
            facts["best Dice"] = f"{number(best['val_dice'])}, epoch {best['epoch']}"
        facts["skipped steps"] = str(sum(line.get("skipped_steps", 0) for line in self.lines))
        return facts | {"written": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}


def remaining(times: list[float], epochs: int) -> float | None:
    """Seconds that so many epochs will take, by the mean of the last ones of this start; None before the first."""
    recent = times[-_RECENT - 1 :]
    return (recent[-1] - recent[0]) / (len(recent) - 1) * epochs if len(recent) > 1 else None


def duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s`, `12 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def described(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What the run was made from, for people."""
    if not provenance:
        return {}
    host, data, source = provenance["host"], provenance["data"], provenance["source"]
    versions = {name: version for name, version in provenance["versions"].items() if version}
    meaning = {"content": "hashed whole", "ends": "hashed at both ends"}[data["kind"]]
    commit = f"{source['commit'][:12]}{' and changes' if source['dirty'] else ''}" if source else "installed package"
    return {
        "started": f"{provenance['started']} (start {provenance['starts']} of this run)",
        "command": _command(provenance["command"]),
        "config": f"sha256 {provenance['config_sha256'][:16]}, seed {provenance['seed']}",
        "data": f"{data['files']} files, {data['bytes'] / 1e6:.1f} MB, {meaning}",
        "device": f"{host['device']}; {host['cpu']}, {host['cores']} cores, {host['system']}",
        "processes": f"ranks {provenance['ranks']}, threads {provenance['threads']}",
        "loss backend": provenance["loss_backend"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "source": commit,
    }


def _command(words: Sequence[str] | None) -> str:
    """As `provenance.json` keeps it, where an ellipsis stands for a value that could name a place or a person."""
    if not words:
        return "from Python"
    return " ".join(words) + (" (… is left out: it may name places or people)" if "…" in " ".join(words) else "")
