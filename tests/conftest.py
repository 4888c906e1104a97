"""What several tests share: small volumes, label maps, real data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LPS, REPOSITORY

from medcalib.data.nifti import write_volume

pytest_plugins = ["fault_report"]


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Two threads, or one in each worker of xdist and in the commands that it starts: they share the cores."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(2)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real volumes; tests that need it are skipped, and say so, where it is not at hand."""
    folder = os.environ.get("MEDCALIB_REAL_DATA")
    if not folder:
        pytest.skip("set MEDCALIB_REAL_DATA to the folder of real volumes to run this test")
    path = (REPOSITORY / folder).resolve()
    assert path.is_dir(), f"MEDCALIB_REAL_DATA={folder} is no folder"
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Callable[..., Path]:
    """Write an array as NIfTI: volume("images/a.nii.gz", array, affine)."""

    def write(name: str, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
        path = tmp_path / name
        write_volume(path, array, affine)
        return path

    return write


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names of files that are no UTF-8 come in logs as surrogates, which xdist cannot send."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
