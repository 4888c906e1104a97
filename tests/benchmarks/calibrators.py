"""Fitting calibrators on many voxels, and applying them: python tests/benchmarks/calibrators.py [METHOD ...]

Float32 logits (N, C) in a mapped file, background heavy and overconfident, labels drawn from a known posterior. Each
fit has a process of its own. "extra" is the peak of memory that is not the file's (RssAnon) beyond what was in use
before the fit; "apply" is the time of one volume (1, C, 128, 128, 128) in memory. `peer_lbfgs` is temperature scaling
on the same voxels in memory by torch's L-BFGS on the float32 cross-entropy, from T = 1.5 with the learning rate 0.1 and
100 iterations of the code of CALS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

PEER = "peer_lbfgs"
VOLUME = (128, 128, 128)


def make(folder: Path, voxels: int, classes: int) -> None:
    """z.f32 (N, C) and y.u8 (N,): three of four voxels are clear background, logits are 2.2 times too large."""
    rng = np.random.default_rng(0)
    with (folder / "z.f32").open("wb") as z_file, (folder / "y.u8").open("wb") as y_file:
        for start in range(0, voxels, 1 << 20):
            n = min(1 << 20, voxels - start)
            z = 2 * rng.standard_normal((n, classes), dtype=np.float32)
            z[:, 0] += np.where(rng.random(n) < 0.75, 12, 2)
            y_file.write((z + rng.gumbel(size=z.shape)).argmax(1).astype(np.uint8).tobytes())
            z_file.write((2.2 * z).astype(np.float32).tobytes())


def opened(folder: Path, classes: int) -> tuple[Any, Any]:
    """Tensors over the mapped files."""
    import torch

    z = np.memmap(folder / "z.f32", np.float32, "r+").reshape(-1, classes)
    return torch.from_numpy(z), torch.from_numpy(np.memmap(folder / "y.u8", np.uint8, "r+"))


class Peak:
    """The largest RssAnon in MiB above that at the start, looked at every 5 ms."""

    def __enter__(self) -> Peak:
        self.before = self.highest = anonymous_kib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.mib = (self.highest - self.before) / 1024

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.highest = max(self.highest, anonymous_kib())


def anonymous_kib() -> int:
    """Resident memory of this process that belongs to no file."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split("RssAnon:")[1].split()[0])


def lbfgs(z: Any, y: Any) -> Any:
    """The peer."""
    import torch

    logits, labels = z.clone(), y.long()
    temperature = torch.nn.Parameter(1.5 * torch.ones(1))
    optimizer = torch.optim.LBFGS([temperature], lr=0.1, max_iter=100)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / temperature, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return temperature


def measure(name: str, folder: Path, classes: int, options: dict[str, Any], threads: int) -> dict[str, Any]:
    """Fit and apply in this process, after a small fit that loads what is loaded lazily."""
    import torch

    from medcalib import calibrators

    torch.set_num_threads(threads)
    z, y = opened(folder, classes)
    if name == PEER:
        lbfgs(z[:1000], y[:1000])
        with Peak() as peak:
            start = time.perf_counter()
            found = lbfgs(z, y)
            seconds = time.perf_counter() - start
        return {"seconds": seconds, "mib": peak.mib, "apply": None, "found": f"temperature={float(found.detach()):.6f}"}
    calibrators.build(name, classes, **options).fit(z[:20000], y[:20000])
    calibrator = calibrators.build(name, classes, **options)
    with Peak() as peak:
        start = time.perf_counter()
        calibrator.fit(z, y)
        seconds = time.perf_counter() - start
    volume = torch.randn(1, classes, *VOLUME)
    with torch.no_grad():
        start = time.perf_counter()
        calibrator(volume)
    return {"seconds": seconds, "mib": peak.mib, "apply": time.perf_counter() - start, "found": repr(calibrator)}


def run(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own; what fails is told."""
    command = [sys.executable, __file__, "--one", name, str(folder), "--classes", str(given.classes)]
    command += ["--threads", str(given.threads), "--options", given.options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """A table, a line a method."""
    from medcalib import calibrators

    loose = [name for name in calibrators.names() if calibrators.build(name, 4).reach == 0]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=[*loose, PEER])
    parser.add_argument("--voxels", type=int, default=50_000_000)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", default="{}", help="options of the method, as JSON")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, folder = given.one
        say(json.dumps(measure(name, Path(folder), given.classes, json.loads(given.options), given.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.voxels, given.classes)
        say(f"{given.voxels} voxels of {given.classes} classes, {given.threads} threads, load {os.getloadavg()[0]:.1f}")
        say(f"{'':<24}{'seconds':>9}{'extra MiB':>11}{'apply s':>9}  found")
        for name in given.methods:
            result = run(name, Path(folder), given)
            if "failed" in result:
                say(f"{name:<24} {result['failed']}")
                continue
            apply = "" if result["apply"] is None else f"{result['apply']:.2f}"
            say(f"{name:<24}{result['seconds']:>9.1f}{result['mib']:>11.1f}{apply:>9}  {result['found']}")


if __name__ == "__main__":
    main()
