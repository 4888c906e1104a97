"""One training at a time in a folder; a claim ends with its process, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medcalib.config import RunConfig
from medcalib.engine import claim
from medcalib.engine.claim import claimed
from medcalib.engine.train import train
from medcalib.errors import ConfigError

pytest.importorskip("fcntl")


@pytest.mark.fault(77)
def test_a_second_training_is_refused_and_writes_nothing(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "PATIENCE_S", 0.0)
    with claimed(tmp_path / "run"), pytest.raises(ConfigError, match="another process trains in .*run; wait"):
        train(tiny, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.fault(77)
def test_a_killed_process_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, time; from pathlib import Path; from medcalib.engine.claim import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    sys.stdout.write('held'); sys.stdout.flush(); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(4) == b"held"
    monkeypatch.setattr(claim, "PATIENCE_S", 0.0)
    with pytest.raises(ConfigError), claimed(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with claimed(tmp_path):
        assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path):  # and it was given back
        pass
