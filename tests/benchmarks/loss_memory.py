"""Peak memory and time of every loss on one batch: python tests/benchmarks/loss_memory.py [METHOD ...]

Forward and backward of a float32 batch (2, 14, 128, 128, 128) on the CPU, each method in a process of its own.
"extra" is the peak beyond logits and labels, the gradient included, in GiB and in multiples of the logits.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

SHAPE = (2, 14, 128, 128, 128)


def blobs(classes: int, shape: tuple[int, ...]) -> object:
    """Smooth labels: nearest of random centers, background elsewhere."""
    import torch

    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, n) for n in shape[1:]), indexing="ij"))
    labels = torch.zeros(shape, dtype=torch.long)
    for image in labels:
        for k in range(1, classes):
            center = torch.rand(3, generator=generator).reshape(3, 1, 1, 1)
            image[(grid - center).square().sum(0) < 0.02] = k
    return labels


def measure(name: str, shape: tuple[int, ...]) -> dict[str, float]:
    """One step in this process, after a small one that loads what torch loads lazily."""
    import torch

    from medcalib import losses

    classes = shape[1]
    objective = losses.build(name, classes, ignore_index=255)
    small = torch.randn(1, classes, 8, 8, 8, requires_grad=True)
    objective(small, torch.zeros(1, 8, 8, 8, dtype=torch.long)).backward()
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = blobs(classes, (shape[0], *shape[2:]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    objective(logits, labels).backward()
    seconds = time.perf_counter() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"extra_gib": extra / 2**30, "times_logits": extra / logits.nbytes, "seconds": seconds}


def main() -> None:
    """Print a table, a line a method."""
    from medcalib import losses

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=losses.names())
    parser.add_argument("--shape", type=int, nargs=5, default=SHAPE, metavar=("B", "C", "D", "H", "W"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        sys.stdout.write(json.dumps(measure(given.methods[0], tuple(given.shape))))
        return
    sys.stdout.write(f"{'method':<16}{'extra GiB':>10}{'x logits':>10}{'seconds':>9}\n")
    for name in given.methods:
        shape = [str(n) for n in given.shape]
        done = subprocess.run(
            [sys.executable, __file__, name, "--shape", *shape, "--one"], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        sys.stdout.write(
            f"{name:<16}{found['extra_gib']:>10.2f}{found['times_logits']:>10.1f}{found['seconds']:>9.1f}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
