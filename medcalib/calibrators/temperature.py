"""Temperature scaling."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from medcalib.calibrators.calibrator import LOWEST, Calibrator
from medcalib.calibrators.grid import by_grid, steps
from medcalib.calibrators.inverse_temperature import one_temperature
from medcalib.calibrators.voxels import Voxels

GRID = steps(0.1, 100)


class Temperature(Calibrator):
    """z / T with the T that minimizes the NLL, mean of logsumexp(z/T) - z_t/T.

    The arg-max never changes. T > 1 softens an overconfident network. `search="exact"` finds the one minimum of the
    NLL; `"grid"` takes the best of 0.1, 0.2, ..., 10.0 by `criterion`: the NLL, or the top-label ECE of 15 equal bins.

    Reference: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. The official codes
    of CALS and focal calibration search grids (that of CALS ends at 1.9) or take some steps of Adam or L-BFGS.
    """

    name = "temperature"
    formula = "softmax(z / T)"
    reference = "C. Guo et al., ICML 2017, section 4.2"
    keeps_argmax = True

    def __init__(
        self,
        num_classes: int,
        *,
        search: Literal["exact", "grid"] = "exact",
        criterion: Literal["nll", "ece"] = "nll",
    ) -> None:
        super().__init__(num_classes, search=search, criterion=criterion)
        if search == "exact" and criterion == "ece":
            raise ValueError("criterion ece needs search grid: the ECE is no smooth function of the temperature")
        self.temperature_: Tensor
        self.declare("temperature_", low=LOWEST)

    def map(self, logits: Tensor) -> Tensor:
        """z / T."""
        return logits / self.temperature_

    def fit_voxels(self, voxels: Voxels) -> None:
        """Find T. Raises ValueError when the NLL has no minimum (every voxel right by any margin, or the reverse)."""
        if self.options["search"] == "exact":
            self.temperature_.fill_(one_temperature(voxels))
            return
        scores = by_grid(voxels, lambda z, t: (z / t).log_softmax(0), GRID, self.options["criterion"], mass=False)
        self.temperature_.fill_(GRID[int(scores.argmin())])
