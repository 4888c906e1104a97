"""Mutants that no test of numbers can notice: (module, line, before, after) -> why."""

from __future__ import annotations

EXPLAINED: dict[tuple[str, str, str, str], str] = {
    (
        "medcalib.metrics.summary",
        "gaps[patients.index(case.patient_id)] += (curve.confidence - curve.accuracy).numpy()",
        "gaps[patients.index(case.patient_id)] += (curve.confidence - curve.accuracy).numpy()",
        "gaps[patients.index(case.patient_id)] -= (curve.confidence - curve.accuracy).numpy()",
    ): "the interval is of |sum of gaps|: turning every sign changes nothing",
    (
        "medcalib.metrics.across",
        "gaps[names.index(patient)] += (curve.confidence - curve.accuracy).numpy()",
        "gaps[names.index(patient)] += (curve.confidence - curve.accuracy).numpy()",
        "gaps[names.index(patient)] -= (curve.confidence - curve.accuracy).numpy()",
    ): "each part is sign(sum of the others) x gap, even in the gaps",
    (
        "medcalib.losses.multipliers",
        "return torch.where(h >= 0, lam + 2 * lam * rho * above + square, lam / (1 - rho * below).square())",
        "h >= 0",
        "h > 0",
    ): "at h = 0 both branches are lam",
    (
        "medcalib.metrics.cells",
        "return 0 if k == 0 else int(np.flatnonzero(upper_edges() == k / GRID)[-1])",
        "-1",
        "1",
    ): "each k/300 is the upper edge of exactly two cells: the last is the second",
    (
        "medcalib.metrics.volume",
        "low, high = (counts.n[1:, cell_of_multiple(k) + 1 :].sum(-1) for k in (LOW, HIGH))",
        "-1",
        "1",
    ): "the tables have two axes: the last is axis 1",
    (
        "medcalib.metrics.overlap",
        "tp = (hits * above).sum(-1)",
        "-1",
        "1",
    ): "the tables have two axes: the last is axis 1",
    (
        "medcalib.metrics.regions",
        "depth = max(1, _CHUNK // max(1, math.prod(surface.shape[:-1])))",
        "_CHUNK // max(1, math.prod(surface.shape[:-1]))",
        "_CHUNK * max(1, math.prod(surface.shape[:-1]))",
    ): "larger slabs: more memory, the same band",
}
