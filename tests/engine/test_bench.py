"""`medcalib bench losses`: that it measures what it says; how fast anything is, is no test's business."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import REPOSITORY
from typer.testing import CliRunner

from medcalib.cli import app
from medcalib.engine import bench, bench_measure, bench_peers
from medcalib.engine.bench_measure import Sample, typical
from medcalib.errors import ConfigError
from medcalib.ops import heterogeneous, neighborhood_proportions

TINY = "1x3x32x16x16"


@pytest.fixture(scope="module")
def found() -> bench.Bench:
    return bench.run(bench.Settings(bench.read_shapes(TINY), rounds=1, memory=False))


def values(found: bench.Bench, metric: str, shape: str = TINY) -> dict[str, float]:
    return {row.contestant: row.value for row in found.rows if row.shape == shape and row.metric == metric}


def test_every_contestant_has_a_time_and_its_ratios(found: bench.Bench) -> None:
    times, ratios = values(found, "time"), values(found, "time_ratio")
    assert list(times) == list(bench_peers.contestants())
    assert min(times.values()) > 0
    assert ratios == pytest.approx({name: t / times["F.cross_entropy"] for name, t in times.items()})
    assert values(found, "speedup") == pytest.approx(
        {
            "medcalib nacl": times["MONAI nacl"] / times["medcalib nacl"],
            "medcalib crac": times["plain crac"] / times["medcalib crac"],
        }
    )
    assert set(values(found, "gradient_ratio")) == {"F.cross_entropy", *bench_peers.OURS}


def test_one_call_and_a_step_of_a_network_are_timed(found: bench.Bench) -> None:
    assert set(values(found, "call", "call")) == {"F.cross_entropy", *bench_peers.OURS}
    assert values(found, "call_ratio", "call")["F.cross_entropy"] == 1
    steps = values(found, "unet_step")
    assert set(steps) == {"F.cross_entropy", "medcalib nacl", "medcalib crac"}
    assert values(found, "unet_ratio") == pytest.approx({n: s / steps["F.cross_entropy"] for n, s in steps.items()})


def test_every_loss_is_what_its_peer_is(found: bench.Bench) -> None:
    """Else the table would compare different things."""
    for metric in ("loss_error", "gradient_error"):
        errors = values(found, metric)
        assert set(errors) == set(bench_peers.contestants()) - {"copy"}
        assert max(errors.values()) < 1e-6


def test_the_context_says_what_ran(found: bench.Bench) -> None:
    assert tuple(found.context) == bench.CONTEXT
    assert found.context["backend"] in {"native", "reference"}
    assert bool(found.context["isa"]) == (found.context["backend"] == "native")
    assert found.context["machine"]


def test_a_ledger_gets_one_header_and_keeps_its_rows(found: bench.Bench, tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    bench.append(path, found)
    bench.append(path, found)
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert header == [*bench.CONTEXT, *bench.Row._fields]
    assert len(rows) == 2 * len(found.rows)
    assert rows[: len(found.rows)] == rows[len(found.rows) :]
    other = tmp_path / "other.csv"
    other.write_text("case,dice\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no ledger"):
        bench.append(other, found)
    assert other.read_text(encoding="utf-8") == "case,dice\n"
    for bad in (other, tmp_path / "nowhere" / "ledger.csv"):  # before anything is measured
        done = CliRunner().invoke(app, ["bench", "losses", "--ledger", str(bad)])
        assert (done.exit_code, "error: " in done.output) == (2, True)


def test_the_command_prints_a_table_or_json(
    found: bench.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bench.Settings] = []
    monkeypatch.setattr(bench, "run", lambda settings: asked.append(settings) or found)
    arguments = ["bench", "losses", "--quick", "--shapes", TINY, "--device", "cpu", "--threads", "1"]
    shown = CliRunner().invoke(app, [*arguments, "--ledger", str(tmp_path / "l.csv")])
    assert shown.exit_code == 0, shown.output
    assert (asked[0].threads, asked[0].rounds, asked[0].shapes) == (1, 7, {TINY: (1, 3, 32, 16, 16)})
    assert "x F.cross_entropy" in shown.stdout
    assert all(f"\n{name} " in shown.stdout for name in bench_peers.contestants())
    assert len((tmp_path / "l.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(found.rows)
    read = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert read["context"] == found.context
    assert read["rows"] == [row._asdict() for row in found.rows]


@pytest.mark.parametrize("shapes", ["G", "A,", "2x4x96x96", "0x4x8x8x8", "1x1x8x8x8", "AxB"])
def test_an_unknown_shape_is_refused(shapes: str) -> None:
    done = CliRunner().invoke(app, ["bench", "losses", "--shapes", shapes])
    assert done.exit_code == 2
    assert "unknown shape" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        bench.run(bench.Settings(device="cuda"))


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCALIB_BACKEND", "nativ")
    with pytest.raises(ConfigError, match="MEDCALIB_BACKEND"):
        bench.run(bench.Settings())


def test_peak_memory_counts_the_gradient_and_what_is_kept() -> None:
    shape = (1, 4, 64, 64, 64)
    peak = {name: bench_measure.peak_memory(name, shape, "cpu", 2) for name in ("F.cross_entropy", "plain nacl")}
    assert peak["F.cross_entropy"] == pytest.approx(3, abs=0.5)
    assert peak["plain nacl"] == pytest.approx(5, abs=0.5)
    assert bench_measure.peak_memory("copy", (1, 2, 8, 8, 8), "cpu", 2) is None


def test_a_worker_that_fails_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert bench_measure.peak_memory("no such loss", (1, 4, 64, 64, 64), "cpu", 1) is None
    assert "memory of no such loss: not measured (KeyError" in caplog.text


def test_typical_is_the_median_of_undisturbed_samples() -> None:
    def samples(*seconds: float, clean: bool) -> list[Sample]:
        return [Sample(s, s / 2, clean) for s in seconds]

    mixed = [*samples(1, 2, clean=False), *samples(5, 4, 9, clean=True)]
    assert typical(mixed) == 5
    assert typical(mixed, "backward") == 2.5
    assert typical(samples(8, 7, 6, 5, 4, 3, 2, 1, clean=False)) == 1.5
    assert typical(samples(3, clean=False)) == 3


def test_a_sample_times_both_parts_and_a_peer_that_cannot_run_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def hungry(_: object) -> object:
        raise torch.OutOfMemoryError("too much")

    works = {"copy": lambda mark: mark(), "plain crac": hungry}
    taken = bench_measure.interleaved(works, 3, "cpu")
    assert list(taken) == ["copy"]
    assert len(taken["copy"]) == 3
    assert all(0 <= sample.backward <= sample.total for sample in taken["copy"])
    assert "plain crac: left out (too much)" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        bench_measure.interleaved({"F.cross_entropy": hungry}, 1, "cpu")


@pytest.mark.parametrize("name", [*bench_peers.CPU_SHAPES])
def test_three_in_ten_voxels_are_boundary(name: str) -> None:
    _, labels = bench_peers.batch(bench_peers.SHAPES[name])
    assert heterogeneous(labels, padding="replicate").double().mean().item() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("padding", ["background", "zeros"])
def test_plain_shares_are_those_of_the_package(padding: str) -> None:
    _, labels = bench_peers.batch((2, 5, 9, 10, 11))
    ours = neighborhood_proportions(labels, 5, 3, "mean", padding, dtype=torch.float64)
    torch.testing.assert_close(bench_peers.window_shares(labels, 5, torch.float64, padding), ours)


def test_compiled_peers_are_there_when_asked_for() -> None:
    assert set(bench_peers.contestants(compiled=True)) - set(bench_peers.contestants()) == {
        "compiled nacl",
        "compiled crac",
    }


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom medcalib.cli import app\n"
        "assert CliRunner().invoke(app, ['bench', 'losses', '--help']).exit_code == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False"
