"""Maximum mean calibration error."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcalib.losses.term import Term


def mmce_penalty(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    kernel_width: float,
    max_voxels: int | None,
    seed: int,
    weighting: str,
) -> Tensor:
    """MMCE squared of the voxels that `sampled_voxels` chooses, or MMCE_w of them.

    With m the largest probability of a voxel, c = 1 if its class is the label and 0 if not, and
    k_ij = exp(-|m_i - m_j| / kernel_width), over N voxels of which n+ are correct and n- are not:

    none:     (1/N^2) sum_ij (c_i - m_i) (c_j - m_j) k_ij
    mean:     sqrt(A + B - 2D), with A the mean of (1 - m_i) (1 - m_j) k_ij over pairs of correct voxels, B that
              of m_i m_j k_ij over pairs of incorrect ones, D that of (1 - m_i) m_j k_ij over mixed pairs
    official: sqrt(A / n+^2 + B / n-^2 - 2D / (n+ n-)), which divides twice and fades as the volume grows

    Shapes: logits (B, C, *S), labels (B, *S), valid (B, *S) bool. c has no gradient. MMCE_w is 0 when all
    voxels or none are correct. `weighting` chooses the form; `max_voxels` and `seed`: see `sampled_voxels`.
    """
    where = torch.unravel_index(sampled_voxels(labels, valid, logits.shape[1], max_voxels, seed), labels.shape)
    across_classes: tuple[Tensor | slice, ...] = (where[0], slice(None), *where[1:])
    probs = torch.softmax(logits[across_classes], 1)  # (N, C): only the chosen voxels are copied
    confidence, order = probs.amax(1).double().sort()
    correct = (probs.argmax(1) == labels[where])[order]
    gaps = torch.stack([(1 - confidence) * correct, -confidence * ~correct])  # c - m, split by c
    sums = _kernel_sums(gaps, confidence, kernel_width)
    if weighting == "none":
        return (sums.sum() / max(len(order), 1) ** 2).to(logits.dtype)
    counts = torch.stack([correct.sum(), (~correct).sum()]).to(sums)
    pairs = torch.outer(counts, counts).clamp_min(1)
    means = sums / pairs / (pairs + 1e-5) if weighting == "official" else sums / pairs
    # the official 1e-5 can make the sum negative, and a root at 0 has no gradient
    root = (means.sum().clamp_min(0) + 1e-10).sqrt()
    return root.where((counts > 0).all(), 0.0).to(logits.dtype)


def sampled_voxels(labels: Tensor, valid: Tensor, num_classes: int, max_voxels: int | None, seed: int) -> Tensor:
    """Flat indices of the chosen voxels: all valid ones, or `max_voxels` of them drawn in proportion by class.

    The valid voxels, ordered by label and then by position, are cut into strata of equal size (to one voxel)
    and each gives one voxel at random. Nothing but the arguments decides which, so that a resumed run and a
    numeric gradient see the same ones. Shapes: labels (B, *S), valid (B, *S) bool -> (M,) int64. `seed` fixes the draw.
    """
    kept = labels.where(valid, -1).flatten()
    if max_voxels is None or max_voxels >= len(kept):
        return (kept >= 0).nonzero().squeeze(1)
    ordered = torch.cat([(kept == k).nonzero().squeeze(1) for k in range(num_classes)])  # cheaper than to sort
    if len(ordered) <= max_voxels:
        return ordered
    generator = torch.Generator().manual_seed(seed)
    jitter = torch.rand(max_voxels, generator=generator, dtype=torch.float64).to(labels.device)
    edges = torch.arange(max_voxels + 1, device=labels.device) * len(ordered) // max_voxels
    return ordered[edges[:-1] + (jitter * edges.diff()).long()]


class MMCEPenalty(Term):
    """Kernel distance between confidence and accuracy, over a sample of the voxels or over all of them.

    Parameters as `mmce_penalty`: `kernel_width` >= 0.01, `weighting` "none", "official" or "mean", `seed` of the
    sample.

    Reference: A. Kumar et al., Trainable Calibration Measures For Neural Networks From Kernel Mean Embeddings,
    ICML 2018. The public code of CALS adds MMCE squared, without the root, and its MMCE_w ("official") divides
    means over pairs by the numbers of pairs once more; "mean" does not. It builds a table of N x N pairs; here
    running sums over the sorted confidences give the same, so that `max_voxels=None` takes whole volumes too.
    A sample of M voxels raises MMCE squared by at most 1/M on average, as each voxel is paired with itself.
    """

    def __init__(
        self,
        *,
        kernel_width: float = 0.4,
        max_voxels: int | None = 2048,
        seed: int = 0,
        weighting: Literal["none", "official", "mean"] = "none",
    ) -> None:
        super().__init__()
        if not 0.01 <= kernel_width < float("inf"):
            raise ValueError(f"kernel_width must be at least 0.01 and finite, got {kernel_width}")
        if max_voxels is not None and max_voxels < 1:
            raise ValueError(f"max_voxels must be positive, or None for all voxels, got {max_voxels}")
        self.kernel_width, self.max_voxels, self.seed, self.weighting = kernel_width, max_voxels, seed, weighting

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """See `mmce_penalty`."""
        return mmce_penalty(
            logits,
            labels,
            valid,
            kernel_width=self.kernel_width,
            max_voxels=self.max_voxels,
            seed=self.seed,
            weighting=self.weighting,
        )


def _kernel_sums(values: Tensor, confidence: Tensor, width: float) -> Tensor:
    """sum_ij u_i v_j exp(-|m_i - m_j| / width) of all rows u, v of `values` (R, N): (R, R), symmetric.

    The confidences m (N,) ascend, so the kernel factors into exp(-m_i / width) exp(m_j / width) for m_j < m_i,
    and running sums give all pairs. Pairs of equal confidence have a kernel of 1 without a gradient, as
    sign(0) = 0 in |m_i - m_j|.
    """
    first, last = (torch.searchsorted(confidence.detach(), confidence.detach(), right=right) for right in (False, True))
    growth = (confidence / width).exp()
    smaller = _running_sums(values * growth)[:, first] / growth
    sums = _running_sums(values)
    one_sided = values @ smaller.T
    return one_sided + one_sided.T + values @ (sums[:, last] - sums[:, first]).T


def _running_sums(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, ..., N values of each row."""
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], 1)
