"""Anatomy-like volumes whose class posterior is known at every voxel.

A calibration error can be checked only against a probability that is true. Here it is true by construction.

Model
-----
A case has a *geometry*, drawn from its seed: for every class k, background included, a signed distance
`d_k(v)` in mm, positive inside region k, and a boundary width `w(v) > 0` in mm, smooth in space. Then

    posterior   pi_k(v)  = softmax_k( d_k(v) / w(v) )
    label       y(v)     = argmax_k [ log pi_k(v) + G_k(v) ],   G_k(v) = -log(-log Phi(z_k(v)))
    image       I_m(v)   = b(v) sum_k pi_k(v) mu_km(v),  and noise

with `z_k` independent, smooth Gaussian fields whose every voxel is exactly N(0, 1), `b` a smooth bias
field, and `mu` the intensities of the tissues. `G_k` is standard Gumbel, so `P(y(v) = k) = pi_k(v)` by
the Gumbel-max theorem, while the smoothness of `z_k` makes contours look drawn by a hand rather than by dice.
At a boundary between two classes the distances of all others are clearly negative, so a boundary is ambiguous
between its two sides only, over about `w(v)` mm; where more than two regions meet, between those.

What "true" means
-----------------
* `pi(v)` is the exact distribution of the stored label at voxel v given the geometry: over label draws
  (`make_case(..., rater=r)`), frequencies converge to it. Predicting `pi` is calibrated in the strongest
  sense, class by class and for any group of voxels that is chosen from the geometry or the image.
* Labels of neighboring voxels are dependent, so one volume holds far fewer independent labels than voxels:
  the *measured* calibration error of `pi` is not 0 on few cases; it vanishes as cases are added.
* The image is a noisy function of the geometry and never sees a label, so label and image are independent
  given the geometry and `P(y | image) = E[pi | image]`. With noise this is not `pi` itself: `pi` is an
  *oracle*. No predictor that reads the image has a lower expected Brier score or negative log-likelihood; a
  good one comes close. The stored posterior is `pi` rounded to float32, and integer images are rounded after
  the noise.

    >>> case = make_case("hippocampus", seed=0, index=0)
    >>> case.posterior.shape == (3, *case.labels.shape)
    True
"""

from medcalib.data.phantom.model import ANATOMIES, PhantomCase, make_case
from medcalib.data.phantom.write import WRITERS, write_dataset

LAYOUTS = tuple(WRITERS)

__all__ = ["ANATOMIES", "LAYOUTS", "PhantomCase", "make_case", "write_dataset"]
