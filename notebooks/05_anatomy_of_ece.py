# %% [markdown]
# # 5. Anatomy of the expected calibration error
#
# - The ECE looks like one number. You take it apart: bins, edges, region, pooling, number of voxels.
# - You see that each of these choices can change it, some of them 90-fold, for one and the same prediction.
# - You run the code that most libraries share on a large volume, and watch it lose count.
# - You learn why an interval must resample patients, not voxels.
# - You leave with a list of what to write beside an ECE, so that others get the same number.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from medcalib.data.phantom import make_case
from medcalib.metrics import CalibrationCounts, score_case
from medcalib.report.plots import COLORS, STYLE
from medcalib.report.text import table

FAST = os.environ.get("MEDCALIB_NOTEBOOK_FAST") == "1"
plt.rcParams.update({**STYLE, "figure.dpi": 110})

# %% [markdown]
# ## A prediction to take apart
#
# Twelve phantom hearts. The network is played by their true posterior, disturbed by smooth noise. For some patients it
# is too sharp (overconfident), for some too blunt (underconfident), as with patients from another scanner.

# %%
SHARPNESS = np.linspace(0.25, 2.4, 5 if FAST else 12)


def predict(heart, seed, sharpness):
    """Probabilities (C, i, j, k) float32."""
    noise = np.random.default_rng(seed).standard_normal(heart.posterior.shape)
    smooth = gaussian_filter(noise, (0, 2, 2, 1))
    scores = np.log(np.maximum(heart.posterior, 1e-9)) + 0.7 * smooth / smooth.std()
    return torch.from_numpy(softmax(sharpness * scores, axis=0).astype(np.float32))


hearts = [make_case("heart", 0, index, (48, 48, 6) if FAST else None) for index in range(len(SHARPNESS))]
predictions = [
    predict(heart, seed, sharpness) for seed, (heart, sharpness) in enumerate(zip(hearts, SHARPNESS, strict=True))
]
probs, labels = predictions[-1], torch.from_numpy(hearts[-1].labels)  # the sharpest one, for what follows
tuple(probs.shape)

# %% [markdown]
# ## The definition, by hand
#
# Sort voxels into bins by confidence. In each bin, compare mean confidence and accuracy. Weigh the differences by the
# share of voxels:
#
# $$\mathrm{ECE} = \sum_b \frac{n_b}{N}\,\left|\overline{\mathrm{confidence}}_b - \mathrm{accuracy}_b\right|$$


# %%
def ece_by_hand(confidence, right, bins=15):
    """The formula, in float64."""
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, confidence, bins) - np.bincount(bin_of, right, bins)
    return np.abs(gaps).sum() / len(confidence)


confidence = probs.amax(0).double().numpy().ravel()
right = (probs.argmax(0) == labels).double().numpy().ravel()
counts = CalibrationCounts.from_probs(probs[None], labels[None])
print(f"by hand  {ece_by_hand(confidence, right):.12f}")
print(f"medcalib {counts.ece(bins=15):.12f}")

# %% [markdown]
# medcalib does not add confidences. It counts voxels in fine cells and adds whole numbers, so the result does not
# depend on order or threads, and any of the bins below comes from the same counts.
#
# ## The region
#
# Over which voxels? The same prediction, the same 15 bins:

# %%
heart = hearts[-1]
scored = score_case(
    probs, labels, case_id="heart", class_names=heart.class_names, spacing_mm=heart.spacing_mm, distances=False
)
by_region = {name: region.calibration for name, region in scored.regions.items()}
eces = {name: found.ece() for name, found in by_region.items()}
fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
ax.barh(list(eces), list(eces.values()), color=COLORS[0])
for line, (name, value) in enumerate(eces.items()):
    ax.text(value, line, f"  {value:.4f}  (n = {by_region[name].voxels():,})", va="center", fontsize=8)
ax.set(xlabel="ECE", xlim=(0, 1.45 * max(eces.values())))
ax.invert_yaxis()
print(f"largest over smallest: {max(eces.values()) / min(eces.values()):.0f}")

# %% [markdown]
# Most voxels of `all` are easy background: they add nothing to the sum and much to N. In a real volume, where the organ
# fills a smaller part of the image, the factor grows further: add empty background around the heart, and the network
# gets better on paper without any change.

# %%
errors = eces["all"] * by_region["all"].voxels()  # the sum of all gaps stays what it is
rows = []
for times in (1, 4, 16):
    diluted = errors / (times * by_region["all"].voxels())
    rows.append([f"{times} x", f"{diluted:.5f}", f"{eces['foreground'] / diluted:.0f}"])
print(table(rows, ["field of view", "ECE, all", "ECE of foreground / ECE of all"]))

# %% [markdown]
# ## Bins of equal width, bins of equal mass
#
# Most confidences are close to 1. Of 15 bins of equal width the last one holds most voxels, even of those that are
# predicted as heart. Bins of equal mass (as many voxels in each) look into it. Drawn is what is missing to 1, on log
# axes: doubt across, error rate up. Above the diagonal the network is overconfident, below it underconfident.


# %%
def by_bin(doubt, error, groups):
    """Mean doubt, error rate and number of voxels of each group that is not empty."""
    n = np.bincount(groups)
    doubts, errors = np.bincount(groups, doubt), np.bincount(groups, error)
    return doubts[n > 0] / n[n > 0], errors[n > 0] / n[n > 0], n[n > 0]


BINS = 15
number = len(hearts) // 4  # a patient with both kinds of error
inside = predictions[number].argmax(0).numpy() > 0
some = predictions[number].amax(0).double().numpy()[inside]
wrong = (predictions[number].argmax(0).numpy() != hearts[number].labels)[inside].astype(float)
ranks = some.argsort(kind="stable").argsort(kind="stable")
kinds = {
    "equal width": np.clip(np.ceil(some * BINS).astype(int) - 1, 0, BINS - 1),
    "equal mass": ranks * BINS // len(ranks),
}
fig, ax = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
for color, (name, groups) in zip(COLORS, kinds.items(), strict=False):
    doubt, error, n = by_bin(1 - some, wrong, groups)
    ax.scatter(doubt, np.maximum(error, 1e-4), 15 + 400 * n / len(some), color=color, alpha=0.6, label=name)
ax.plot([1e-4, 1], [1e-4, 1], ls="--", lw=0.8, color="gray")
ax.set(xscale="log", yscale="log", xlim=(5e-5, 1), ylim=(7e-5, 1.3))
ax.set(xlabel="1 - confidence", ylabel="error rate (0 is drawn at 0.0001)", title="area: number of voxels")
for handle in ax.legend(fontsize=8, loc="upper left").legend_handles:
    handle.set_sizes([30])

# %% [markdown]
# What one wide bin averages away, narrow bins see: where errors of both signs meet, the ECE grows with the number of
# bins. Where all bins err in one direction, any bins give nearly the same sum: the difference of mean confidence and
# accuracy. The *average* over bins is another thing. Tiny bins count as much as the huge one there; MONAI calls it
# ACE.

# %%
counts = CalibrationCounts.from_probs(
    predictions[number][None], torch.from_numpy(hearts[number].labels)[None], mask=torch.from_numpy(inside)[None]
)
rows = []
for bins in (1, 2, 5, 10, 15, 20, 30, 100):
    values = counts.ece(bins), counts.ece_equal_mass(bins), counts.ace_bins(bins)
    rows.append([str(bins), *(f"{value:.5f}" for value in values)])
print(table(rows, ["bins", "ECE", "ECE, equal mass", "mean over bins (ACE)"]))

# %% [markdown]
# ## Edges
#
# Does 0.9 belong to the bin below or above? For continuous confidences it does not matter. For votes of ten networks
# it does. Take 1,000 voxels with nine votes, of which 95 % are right, and 1,000 with ten votes, of which 97 % are.
# With bins closed on the right the two stay apart. Closed on the left, they share the last bin, and their errors
# cancel.

# %%
votes = torch.tensor([0.9] * 1000 + [1.0] * 1000, dtype=torch.float64)
correct = torch.tensor([1] * 950 + [0] * 50 + [1] * 970 + [0] * 30)
few = CalibrationCounts.from_probs(torch.stack([1 - votes, votes])[None], correct[None])
for edges in ("right", "left"):
    print(f"closed on the {edges:5s}: ECE {few.ece(bins=10, edges=edges):.3f}")

# %% [markdown]
# ## Pooled, or mean over cases
#
# Pool the voxels of all patients, and patients who err upwards cancel patients who err downwards. The mean of the
# patients' own errors does not forgive that. Both are legitimate, as long as it is said which one is printed.

# %%
REGION = "pred_foreground"
cases = []
for index, (heart, prediction) in enumerate(zip(hearts, predictions, strict=True)):
    cases.append(
        score_case(
            prediction,
            torch.from_numpy(heart.labels),
            case_id=f"patient{index:02d}",
            class_names=heart.class_names,
            spacing_mm=heart.spacing_mm,
            distances=False,
            posterior=torch.from_numpy(heart.posterior),
        )
    )
per_case = [case.regions[REGION].calibration for case in cases]
pooled = sum(per_case)
own = np.array([found.ece() for found in per_case])


# %%
def gap_of(found):
    """Mean confidence minus accuracy."""
    curve = found.reliability()
    return float((curve.confidence.sum() - curve.accuracy.sum()) / curve.n.sum())


gaps = np.array([gap_of(found) for found in per_case])
fig, ax = plt.subplots(figsize=(7.5, 3), layout="constrained")
ax.bar(range(len(gaps)), gaps, color=np.where(gaps > 0, COLORS[1], COLORS[0]))
ax.axhline(0, color="black", lw=0.7)
ax.axhline(own.mean(), color="black", ls="--", lw=1, label=f"mean ECE of the cases: {own.mean():.3f}")
ax.axhline(pooled.ece(), color="black", ls=":", lw=1.4, label=f"ECE of the pooled voxels: {pooled.ece():.3f}")
ax.set(xlabel="patient", ylabel="confidence - accuracy", title="orange: overconfident, blue: underconfident")
ax.legend(fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# ## Few voxels: an error that is not there
#
# Take the phantoms' own posterior as the prediction. It is perfectly calibrated: its true ECE is 0. But in a bin of
# few voxels the accuracy misses the confidence by chance, and the absolute value turns every miss into an error. More
# bins mean fewer voxels in each, and a larger bias. First with labels that are drawn for each voxel by itself.

# %%
foreground = [heart.posterior.argmax(0) > 0 for heart in hearts]
perfect = np.concatenate([h.posterior.max(0)[f] for h, f in zip(hearts, foreground, strict=True)]).astype(float)
rng = np.random.default_rng(0)
sizes = np.logspace(2, 5, 7).astype(int)
independent = {}
for bins in (5, 15, 100):
    draws = [[rng.choice(perfect, size) for _ in range(10)] for size in sizes]
    independent[bins] = [np.mean([ece_by_hand(c, rng.random(len(c)) < c, bins) for c in drawn]) for drawn in draws]

# %% [markdown]
# Then with the phantoms' own labels, whose errors hang together: a contour that is drawn one voxel too wide is wrong
# along all of its length at once. The mean over several raters, for 1 to 12 patients.

# %%
RATERS = 2 if FAST else 6


def drawn_by(rater, index):
    """Counts of the posterior of one patient against the labels of one rater."""
    labels = make_case("heart", 0, index, hearts[index].labels.shape, rater=rater).labels
    given = (torch.from_numpy(part)[None] for part in (hearts[index].posterior, labels, foreground[index]))
    probs, labels, mask = given
    return CalibrationCounts.from_probs(probs, labels, mask=mask)


raters = [[drawn_by(rater, index) for index in range(len(hearts))] for rater in range(RATERS)]
steps = [n for n in (1, 2, 4, 8, 12) if n <= len(hearts)]
dependent = [np.mean([sum(patients[:n]).ece() for patients in raters]) for n in steps]

fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
for color, (bins, values) in zip(COLORS, independent.items(), strict=False):
    ax.loglog(sizes, values, "o-", color=color, ms=4, label=f"{bins} bins, each voxel by itself")
reached = [sum(raters[0][:n]).voxels() for n in steps]
ax.loglog(reached, dependent, "ks--", ms=4, label="15 bins, drawn contours")
ax.set(xlabel="voxels", ylabel="measured ECE of a perfect network")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
print(f"{dependent[-1] / np.interp(reached[-1], sizes, independent[15]):.1f} times the bias of independent voxels")

# %% [markdown]
# A number of voxels alone therefore says little of how well an ECE is known.
#
# ## So resample patients
#
# The same point decides how to make an interval. Resampling voxels pretends that all of them are independent.

# %%
from medcalib.metrics.intervals import over_patients

curves = [found.reliability() for found in per_case]
difference = np.stack([(c.confidence - c.accuracy).numpy() for c in curves])  # (patients, bins)
voxels = np.stack([c.n.numpy() for c in curves])


def pooled_ece(indices):
    """ECE of resampled patients, indices (..., P)."""
    return np.abs(difference[indices].sum(-2)).sum(-1) / voxels[indices].sum((-2, -1))


by_patient = over_patients(pooled_ece, len(per_case))

# %%
curve = pooled.reliability()
n, hits, means = curve.n.numpy(), curve.accuracy.numpy(), curve.confidence.numpy() / np.maximum(curve.n.numpy(), 1)
kinds = np.concatenate([hits, n - hits])
redrawn = rng.multinomial(int(n.sum()), kinds / kinds.sum(), size=2000)
right_ones, wrong_ones = np.split(redrawn, 2, axis=1)
by_voxel = np.abs((right_ones + wrong_ones) * means - right_ones).sum(1) / n.sum()
low, high = np.percentile(by_voxel, (2.5, 97.5))

fig, ax = plt.subplots(figsize=(6.5, 1.7), layout="constrained")
ends = {"voxels resampled": (low, high), "patients resampled": (by_patient.low, by_patient.high)}
for line, (left, end) in enumerate(ends.values()):
    ax.plot([left, end], [line, line], lw=6, solid_capstyle="butt", color=COLORS[1 - line])
    ax.text(end, line, f"  {left:.4f} to {end:.4f}", va="center", fontsize=8)
ax.axvline(pooled.ece(), color="black", lw=1)
ax.set_yticks(range(2), list(ends))
ax.set(xlabel=f"pooled ECE of {REGION}, 95 % interval", ylim=(-0.6, 1.6), xlim=(0, 1.5 * by_patient.high))
print(f"the interval over patients is {(by_patient.high - by_patient.low) / (high - low):.0f} times as wide")

# %% [markdown]
# ## The usual code, on a large volume
#
# These ten lines are in many repositories. They add confidences one by one in float32, which holds 24 binary digits: at
# 16,777,216 a further 1 is lost in rounding, and a further 0.98 is rounded to 1 long before. That is a volume of
# 512 x 512 x 64, smaller than many a CT.


# %%
def usual_ece(confidence, correct, bins=15):
    """Expected calibration error, as it is usually written."""
    edges = torch.linspace(0, 1, bins + 1)
    index = torch.bucketize(confidence, edges[1:-1])
    count, total, hits = torch.zeros(3, bins)
    count.scatter_add_(0, index, torch.ones_like(confidence))
    total.scatter_add_(0, index, confidence)
    hits.scatter_add_(0, index, correct.float())
    some = count > 0
    gap = (total[some] / count[some] - hits[some] / count[some]).abs()
    return float((gap * count[some]).sum() / count.sum())


def exact_ece(confidence, correct):
    """The same bins, counted by medcalib; memory for one slab of voxels at a time."""
    parts = zip(confidence.split(1 << 22), correct.split(1 << 22), strict=True)
    return sum(CalibrationCounts.from_probs(torch.stack([1 - c, c])[None], r.long()[None]) for c, r in parts).ece()


# %% [markdown]
# A network that claims 0.98 and is right in 97 of 100 voxels has an ECE of 0.01, whatever the size of the volume.
# MONAI's metric is asked as well; it sums in the same manner.

# %%
from monai.metrics import CalibrationErrorMetric


def monai_ece(confidence, correct):
    """MONAI's metric on one channel."""
    metric = CalibrationErrorMetric(num_bins=15)
    metric(confidence[None, None], correct.float()[None, None])
    return float(metric.aggregate())


torch.manual_seed(0)
largest = torch.empty(1 << 25).uniform_(0.965, 0.995)
largest_correct = torch.rand(len(largest)) < 0.97
powers = (18, 22, 25) if FAST else (18, 20, 21, 22, 23, 24, 25)
curves = {"the usual ten lines": usual_ece, "MONAI": monai_ece, "medcalib": exact_ece}
found = {name: [f(largest[: 1 << p], largest_correct[: 1 << p]) for p in powers] for name, f in curves.items()}

# %%
voxels_seen = [1 << p for p in powers]
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (name, values), look, color in zip(found.items(), ("o-", "x--", "^-"), (1, 3, 0), strict=True):
    ax.plot(voxels_seen, values, look, color=COLORS[color], ms=7, label=name)
ax.axvline(1 << 24, color="gray", ls=":", lw=1)
ax.text(0.95 * (1 << 24), 0.012, " 16,777,216 voxels ", ha="right", rotation=90, fontsize=8, color="gray")
ax.set(xscale="log", xlabel="voxels", ylabel="ECE", ylim=(0, None))
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
rows = [[f"{n:,}", *(f"{values[k]:.5f}" for values in found.values())] for k, n in enumerate(voxels_seen)]
print(table(rows, ["voxels", *found]))

# %% [markdown]
# From a million voxels on, the growing sum of confidences rounds each 0.98 up, while the hits are still counted
# exactly: the ECE becomes three times too large. Beyond 16,777,216 both sums stand still at the same number, the ECE
# is 0, and a network that cannot be counted looks perfect. Sums in float64, or of whole numbers, do neither.
#
# ## Why other software prints another number
#
# `score_case(..., protocols=...)` reproduces four published evaluations, with their own bins, regions and rules. One
# prediction, one volume:

# %%
from medcalib.metrics.protocols import PROTOCOLS, protocol_case

published = {name: protocol_case(name, probs, labels, hearts[-1].class_names) for name in PROTOCOLS}
WANTED = {
    ("marginloss", "ece"): "top label, reference foreground, 15 bins",
    ("svls", "ece"): "top label, reference foreground, 10 bins",
    ("monai", "ece"): "mean over classes, all voxels, 20 bins",
    ("acl", "macro_ece"): "mean over foreground classes, all voxels, 20 bins",
    ("marginloss", "cece"): "mean over classes, reference foreground, 15 bins",
    ("svls", "tace"): "probabilities above 0.001, equal mass, divided by 10",
    ("monai", "ace"): "mean over classes and bins, all voxels",
}
rows = [[name, key, f"{published[name][key]:.4f}", text] for (name, key), text in WANTED.items()]
rows += [["medcalib", "ece", f"{value:.4f}", f"top label, {name}, 15 bins"] for name, value in eces.items()]
print(table(rows, ["code", "name there", "value", "what it is"]))

# %% [markdown]
# Each is computed as its authors publish it. They answer different questions under similar names.
#
# ## What to write beside an ECE
#
# 1. top label, or class by class (and whether the background is among the classes)
# 2. the region, and whether predictions or reference define it
# 3. number and kind of bins, and on which side they are closed
# 4. pooled over voxels, or mean over cases
# 5. number of patients, and an interval that resamples them
# 6. the software, and in which precision it sums
#
# ## What to try next
#
# - Take your own volumes: `medcalib score` writes all of these numbers, and says in `settings` what they are.
# - `pooled.ece(true=True)` on the patients above (they know the posterior) tells which of the numbers label noise made.
# - Read `docs/report.md` for the figures that medcalib draws from the same counts.
