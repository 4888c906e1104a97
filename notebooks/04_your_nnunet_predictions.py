# %% [markdown]
# # 4. Your own nnU-Net predictions: read, prove, score, repair
#
# - You read the folder that `nnUNetv2_predict --save_probabilities` leaves, without converting anything.
# - You see how medcalib proves that an array lies the right way round, and that it refuses one that does not.
# - You score the predictions by region, and see which way they err.
# - You repair them by cross-fitting: each patient by a calibrator that has not seen this patient.
# - You compare before and after, with an interval over patients.

# %%
import json
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

from medcalib.report.plots import STYLE

FAST = os.environ.get("MEDCALIB_NOTEBOOK_FAST") == "1"
FOLDER = Path(os.environ.get("MEDCALIB_NOTEBOOK_DIR") or tempfile.mkdtemp()) / "nnunet"
plt.rcParams.update({**STYLE, "figure.dpi": 110})

# %% [markdown]
# ## Two folders
#
# For your own predictions, set the two paths. Use cases that the network was *not* trained on: the `validation` folder
# of a fold, written by `nnUNetv2_train ... --npz`, or predictions of held-out cases. `LABELS` is a folder with one
# `<case>.nii.gz` a case, such as `labelsTr`.

# %%
PREDICTIONS = None  # such as Path("nnUNet_results/.../fold_0/validation")
LABELS = None  # such as Path("nnUNet_raw/Dataset027_ACDC/labelsTr")

# %% [markdown]
# Without paths of yours, the next cells make phantom hearts and play nnU-Net. Beside each label map nnU-Net leaves an
# `.npz` with the array `probabilities`, in the order (class, z, y, x), without any geometry; `dataset.json` says what
# the classes mean and `plans.json` which reader was used. The "network" is the true posterior, disturbed and
# sharpened.

# %%
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from medcalib.data.phantom import make_case

CODES = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


def network(heart, seed, sharpness=2.5):
    """Overconfident probabilities (C, i, j, k) of a phantom."""
    noise = np.random.default_rng(seed).standard_normal(heart.posterior.shape)
    smooth = gaussian_filter(noise, (0, 2, 2, 1))
    scores = np.log(np.maximum(heart.posterior, 1e-9)) + 0.9 * smooth / smooth.std()
    return softmax(sharpness * scores, axis=0).astype(np.float32)


def write_case(name, heart, probs, folder):
    """What nnU-Net leaves of one case."""
    stored = probs.transpose(0, 3, 2, 1)
    np.savez_compressed(folder / f"{name}.npz", probabilities=stored)
    nib.save(nib.Nifti1Image(probs.argmax(0).astype(np.uint8), heart.affine), folder / f"{name}.nii.gz")


def play_nnunet(cases):
    """Labels, and a folder of predictions with its two descriptions."""
    labels, predictions = FOLDER / "labelsTr", FOLDER / "validation"
    for folder in (labels, predictions):
        folder.mkdir(parents=True, exist_ok=True)
    for index in range(cases):
        heart = make_case("heart", seed=0, index=index, shape=(48, 48, 6) if FAST else None)
        name = f"heart_{index:03d}"
        nib.save(nib.Nifti1Image(heart.labels, heart.affine), labels / f"{name}.nii.gz")
        write_case(name, heart, network(heart, index), predictions)
    described = {"channel_names": {"0": "cine MRI"}, "labels": CODES, "file_ending": ".nii.gz", "numTraining": cases}
    (predictions / "dataset.json").write_text(json.dumps(described))
    (predictions / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    return predictions, labels


if PREDICTIONS is None:
    PREDICTIONS, LABELS = play_nnunet(6 if FAST else 12)
sorted(path.name for path in PREDICTIONS.iterdir())[:6]

# %% [markdown]
# ## Which way round is the array?
#
# An array has no affine. If it is flipped, nothing looks wrong: the shape is the same, the probabilities sum to 1, and
# the score is merely bad. But the label map beside it has a geometry, and it must be the most probable class of the
# array. medcalib tries all 48 orders and flips of the axes against it. To see this at work, flip one case.

# %%
import shutil

from medcalib.engine.evaluate import evaluate
from medcalib.report.text import score_text

WRONG = FOLDER / "one_flipped"
shutil.rmtree(WRONG, ignore_errors=True)
shutil.copytree(PREDICTIONS, WRONG)
victim = sorted(WRONG.glob("*.npz"))[1]
probabilities = np.load(victim)["probabilities"]
np.savez_compressed(victim, probabilities=probabilities[:, :, ::-1])

found = evaluate(WRONG, LABELS, FOLDER / "scores_flipped")
for refusal in found["refused"]:
    print(f"{refusal['case']} is refused [{refusal['reason']}]:\n{refusal['message']}")

# %% [markdown]
# The flipped case is refused, and all others are scored. How much would have been lost without the proof? The next
# figure shows the error of the flipped array beside that of the right one.

# %%
from medcalib.report.plots import plot_overlay

name = victim.name.removesuffix(".npz")
truth = np.asarray(nib.load(LABELS / f"{name}.nii.gz").dataobj)
middle = truth.shape[2] // 2
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2))
for ax, array, title in zip(axes, (probabilities, probabilities[:, :, ::-1]), ("as stored", "flipped"), strict=True):
    classes = array.argmax(0).transpose(2, 1, 0)
    wrong = (classes != truth)[..., middle]
    dice = 2 * ((classes > 0) & (truth > 0)).sum() / ((classes > 0).sum() + (truth > 0).sum())
    text = f"{title}: Dice of the heart {dice:.2f}"
    plot_overlay(wrong.T.astype(float), ax, kind="error", label=truth[..., middle].T, title=text)
fig.subplots_adjust(wspace=0.4)

# %% [markdown]
# ## Score
#
# `evaluate` writes integer counts of each case and `scores.json`; `score_text` shows it as a table.

# %%
before = evaluate(PREDICTIONS, LABELS, FOLDER / "scores")
print(score_text(before))

# %% [markdown]
# Read the column `gap` of the second table first: above 0 there is more confidence than accuracy. Then compare the
# regions. Most of the volume is easy background, so the ECE of `all` is small however wrong the heart is.
#
# ## Repair, without cheating
#
# A calibrator that is fitted and scored on the same patients looks better than it is. With `folds=5` the patients are
# parted five ways; each fifth is repaired by a fit on the other four. Two fits are compared: on all voxels, and on the
# voxels that the network calls foreground.

# %%
from medcalib.engine.apply import apply_calibrator
from medcalib.engine.calibrate import calibrate_predictions
from medcalib.engine.fit_samples import Sampling


def repaired(region):
    """Fit a temperature to a region, repair every patient by the other folds, and score."""
    file, out = FOLDER / f"{region}.safetensors", FOLDER / f"repaired_{region}"
    fitted, refused = calibrate_predictions(
        PREDICTIONS, LABELS, file, method="temperature", sampling=Sampling(region=region), folds=5
    )
    print(f"fitted on {region}: T = {fitted.plain()['temperature']:.2f}, {len(refused)} cases refused")
    apply_calibrator(file, PREDICTIONS, out, labels=LABELS)
    return evaluate(out, LABELS, FOLDER / f"scores_{region}")


scores = {"before": before}
scores |= {f"fitted on {region}": repaired(region) for region in ("all", "pred_foreground")}

# %%
from medcalib.report.text import table

REGIONS = ("all", "pred_foreground", "boundary")
rows = [[name, *(f"{entry['pooled'][r]['ece']:.4f}" for r in REGIONS)] for name, entry in scores.items()]
print(table(rows, ["pooled ECE", *REGIONS]))

# %% [markdown]
# ## Before and after
#
# Hollow squares are the predictions as nnU-Net left them, filled circles the repaired ones.

# %%
from medcalib.metrics import CaseScores
from medcalib.report.plots import plot_before_after


def pooled(folder, region):
    """Counts of all cases of a scores folder."""
    return sum(CaseScores.load(path).regions[region].calibration for path in sorted(folder.glob("*.npz")))


fig, axes = plt.subplots(1, 3, figsize=(12, 4.4))
for ax, region in zip(axes, REGIONS, strict=True):
    first, second = pooled(FOLDER / "scores", region), pooled(FOLDER / "scores_pred_foreground", region)
    plot_before_after(first, second, ax, title=region)
fig.subplots_adjust(wspace=0.35)

# %% [markdown]
# ## Is the gain larger than chance?
#
# The same patients were scored before and after, so compare them in pairs. The interval is a bootstrap over patients,
# p is of Wilcoxon's test, corrected for the number of scores. Dice did not change: a temperature never changes the
# class.

# %%
from medcalib.metrics.paired import compare

wanted = [f"regions/{region}/ece" for region in REGIONS]
compared = compare(scores["before"], scores["fitted on pred_foreground"], wanted)
rows = []
for name, result in compared.items():
    p = "n/a" if result.p_holm is None else f"{result.p_holm:.4f}"
    rows.append(
        [name, f"{result.difference:+.4f}", f"{result.low:+.4f} to {result.high:+.4f}", p, str(result.patients)]
    )
print(table(rows, ["score", "difference", "95 % interval", "p (Holm)", "patients"]))

same = (
    scores["before"]["mean"]["dice"]["foreground"] == scores["fitted on pred_foreground"]["mean"]["dice"]["foreground"]
)
print(f"Dice is unchanged: {same}")

# %% [markdown]
# ## What to try next
#
# - Other repairs: `method="region_temperature"`, `"classwise_temperature"` or `"dirichlet"`; `medcalib calibrators`
#   lists them, and says which of them may change the prediction.
# - The same on the command line: `medcalib calibrate --predictions ... --labels ... --folds 5`, `medcalib apply`,
#   `medcalib score`, `medcalib report`.
# - Region-based training of nnU-Net (BraTS) gives sigmoid channels; `medcalib score` reads them by `dataset.json`.
# - Notebook 2 draws maps of these predictions: set its `MAPS` to what `medcalib maps` writes.
