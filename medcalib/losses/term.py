"""What an objective expects of a term."""

from __future__ import annotations

from torch import Tensor, nn


class Term(nn.Module):
    """A summand of an objective: `(logits, labels, valid) -> scalar`.

    Shapes: logits (B, C, *S) in float32 at least, labels (B, *S) int64 in 0..C-1, valid (B, *S) bool. The
    keyword-only parameters of a subclass' constructor are its config. A term with multipliers keeps them in
    float64 buffers and overrides `observe` and `update`. One that looks at the image sets `uses_images` and
    gets images (B, M, *S) as a fourth argument.
    """

    likelihood = False  # True for a term that replaces cross-entropy; an objective has at most one
    uses_images = False

    def forward(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The value of the term, a scalar."""
        raise TypeError(f"{type(self).__name__} does not define forward(logits, labels, valid)")

    def observe(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add up what a batch says about the multipliers; without multipliers there is nothing to do."""

    def update(self) -> None:
        """Step the multipliers from everything observed since the last step, on all ranks together."""
