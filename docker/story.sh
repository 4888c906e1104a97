#!/bin/sh
# What docker/trial.sh runs inside the container, whose root is read-only and whose /dev/shm has 64 MiB.
set -eu

if touch /opt/medcalib/written 2>/dev/null; then
    echo "the root can be written" >&2
    exit 1
fi
medcalib doctor
medcalib doctor --json >doctor.json
python - <<'CHECK'
import importlib.metadata
import json
import pathlib
import re

facts = json.loads(pathlib.Path("doctor.json").read_text())
assert facts["loss_backend"]["cpu"].startswith("native"), facts["loss_backend"]
assert any("--shm-size=8g" in warning for warning in facts["warnings"]), facts["warnings"]
assert facts["extras"]["report"], facts["extras"]
assert facts["extras"]["tensorboard"], facts["extras"]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


lines = pathlib.Path("/opt/setup/constraints.txt").read_text().splitlines()
pinned = {plain(line.partition("==")[0]) for line in lines if not line.startswith("#")}
installed = {plain(d.metadata["Name"]) for d in importlib.metadata.distributions()}
loose = sorted(installed - pinned - {"medcalib", "pip"})
assert not loose, f"constraints.txt does not pin {loose}"
CHECK
medcalib phantom --layout acdc --cases 6 --out hearts
small="--set train.epochs=1 --set train.steps_per_epoch=2 --set train.workers=2"
# shellcheck disable=SC2086 # several options
medcalib train phantom --data hearts --out run $small
# shellcheck disable=SC2086
if medcalib train phantom --data hearts --out refused $small --set train.batch_size=256 2>refused.txt; then
    echo "workers whose batches do not fit into shared memory were let go" >&2
    exit 1
fi
grep -- "--shm-size=8g" refused.txt
medcalib predict run --out pred --weights last
medcalib score --predictions pred --labels hearts --config phantom --out scores
medcalib report scores --out report.html
tensorboard --version
