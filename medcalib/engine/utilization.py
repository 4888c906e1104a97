"""How busy a GPU is while a block of code runs."""

from __future__ import annotations

import threading
from statistics import mean
from types import TracebackType

import torch

EVERY_S = 0.1


class Utilization:
    """Samples the driver's utilization within a `with` block; `percent` afterwards is the mean.

    The driver tells the share of its last sample period (up to a second) in which a kernel ran. `percent` is None on
    the CPU, and where the package nvidia-ml-py is missing or the driver does not say.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.percent: float | None = None
        self._samples: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Utilization:
        if self.device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.percent = mean(self._samples) if self._samples else None

    def _sample(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self._samples.append(torch.cuda.utilization(self.device))
            except Exception:  # torch raises whatever the package and the driver do
                return
