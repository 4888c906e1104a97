# %% [markdown]
# # 2. Explore the calibration maps of a volume
#
# - A score is one number; a calibration map shows *where* a volume is over- or underconfident.
# - You learn to read four maps: confidence, error, gap, and (on phantoms) the true gap.
# - You browse them with sliders for slice and class, or see them as a plain grid where no sliders are installed.
# - You look at them in 3D with niivue, where that is installed.
# - One variable points the whole notebook at maps of your own.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from medcalib.report.plots import STYLE

FAST = os.environ.get("MEDCALIB_NOTEBOOK_FAST") == "1"
FOLDER = Path(os.environ.get("MEDCALIB_NOTEBOOK_DIR") or tempfile.mkdtemp()) / "calibration_maps"
plt.rcParams.update({**STYLE, "figure.dpi": 110})

# %% [markdown]
# ## Your own maps, or a phantom
#
# To look at your own volumes, run `medcalib maps --predictions PRED --labels DIR --out MAPS`, and set `MAPS` to that
# folder below. `IMAGES` is optional: a folder with the image of each case, `<case>.nii.gz`, drawn underneath.

# %%
MAPS = None  # such as Path("runs/ce/maps")
IMAGES = None  # such as Path("imagesTs")

# %% [markdown]
# Without a folder of yours, the next cell makes two phantom hearts and a prediction that errs on purpose. The network
# is played by the phantom's own posterior, disturbed by smooth noise and then sharpened. Sharpening is what training
# for too long does: the order of the classes stays, their probabilities are pushed towards 0 and 1.

# %%
import json

import nibabel as nib
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from medcalib.data.phantom import make_case
from medcalib.report.maps import write_maps

NAMES = ["background", "RV", "MYO", "LV"]


def save(path, volume, affine):
    """One NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)


def make_phantom(index, sharpness=2.5):
    """Image, label and prediction of one heart, as any tool would leave them; and what no tool knows, the true gap."""
    heart = make_case("heart", seed=0, index=index, shape=(48, 48, 6) if FAST else None)
    noise = np.random.default_rng(index).standard_normal(heart.posterior.shape)
    smooth = gaussian_filter(noise, (0, 2, 2, 1))
    scores = np.log(np.maximum(heart.posterior, 1e-9)) + 0.9 * smooth / smooth.std()
    probs = softmax(sharpness * scores, axis=0).astype(np.float32)
    save(FOLDER / "images" / f"heart{index}.nii.gz", heart.images[0], heart.affine)
    save(FOLDER / "labels" / f"heart{index}.nii.gz", heart.labels, heart.affine)
    save(FOLDER / "predictions" / f"heart{index}.nii.gz", np.moveaxis(probs, 0, -1), heart.affine)
    sidecar = {"class_names": NAMES, "codes": [[0], [1], [2], [3]], "activation": "softmax"}
    (FOLDER / "predictions" / f"heart{index}.json").write_text(json.dumps(sidecar))
    true = np.take_along_axis(heart.posterior, probs.argmax(0)[None], 0)[0]
    save(FOLDER / "maps" / f"heart{index}_true_gap.nii.gz", probs.max(0) - true, heart.affine)


if MAPS is None:
    for index in range(2):
        make_phantom(index)
    MAPS, IMAGES = FOLDER / "maps", FOLDER / "images"
    write_maps(FOLDER / "predictions", FOLDER / "labels", MAPS)

# %% [markdown]
# ## What is in the folder
#
# `maps.json` lists the cases and says what each map means. The files are plain NIfTI on the grid of the label, so that
# ITK-SNAP, 3D Slicer and MITK open them as well: load the image first, then a map as an overlay.

# %%
index = json.loads((MAPS / "maps.json").read_text())
CASES = index["cases"]
print(f"{len(CASES)} cases: {', '.join(CASES[:5])}")
for name, text in index["maps"].items():
    print(f"{name:12s} {text}")

# %% [markdown]
# `read` loads every map of a case and turns it to the same axes, so that slices show the patient as radiologists look
# at them: the patient's left is on the right. `draw` puts one slice of one map onto axes. It keeps to one class where
# you ask for one: voxels that are of this class neither in the reference nor in the prediction are left clear.

# %%
from medcalib.report import plots
from medcalib.report.slices import display

KINDS = ("true_gap", "gap", "probability", "entropy", "error", "confidence")
OUTLINES = ("label", "prediction")


def read(case):
    """Maps of a case by name, turned to RAS axes, and the voxel size in mm."""
    volumes, spacing = {}, None
    files = {path.name.removesuffix(".nii.gz"): path for path in sorted(MAPS.glob(f"{case}_*.nii.gz"))}
    files = {name.removeprefix(f"{case}_"): path for name, path in files.items()}
    image = None if IMAGES is None else IMAGES / f"{case}.nii.gz"
    if image is not None and image.is_file():
        files["image"] = image
    for name, path in files.items():
        turned = nib.as_closest_canonical(nib.load(path))
        volumes[name] = np.asarray(turned.dataobj)
        spacing = turned.header.get_zooms()[:3]
    return volumes, spacing


def kind_of(name):
    """Colors and limits by the end of a map's name, such as MYO_gap; None for what is no map of values."""
    return next((kind for kind in KINDS if name == kind or name.endswith(f"_{kind}")), None)


def draw(volumes, spacing, name, at, ax, klass=0):
    """One slice of a map over the image, with the outline of the reference."""
    cut = {key: display(volume[..., at]) for key, volume in volumes.items() if key in (name, "image", *OUTLINES)}
    plane, label = cut[name].astype(float), cut["label"]
    if klass:
        plane = np.where((label == klass) | (cut["prediction"] == klass), plane, np.nan)
        label = np.where(label == klass, label, 0)
    mm = (spacing[1], spacing[0])
    image = cut.get("image") if kind_of(name) in ("gap", "true_gap", "error") else None
    plots.plot_overlay(plane, ax, kind=kind_of(name), image=image, label=label, spacing_mm=mm, title=name)


volumes, spacing = read(CASES[0])
SHOWN = [name for name in volumes if kind_of(name)]
held = np.flatnonzero((volumes["label"] > 0).any((0, 1)))
middle = int(held[len(held) // 2])
SHOWN

# %% [markdown]
# ## One slice, every map
#
# - **confidence**: the largest class probability. Nearly 1 everywhere, which alone says nothing.
# - **error**: voxels whose most probable class is not the reference. They line the boundaries.
# - **gap**: mean confidence minus accuracy in a small window. Red is overconfident, blue underconfident.
# - **true_gap** (phantoms only): confidence minus the known probability of the predicted class, voxel by voxel.
#
# White lines are the outlines of the reference.

# %%
columns = 2 if len(SHOWN) == 4 else 3
rows = -(-len(SHOWN) // columns)
fig, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3 * rows), squeeze=False)
for ax in axes.flat[len(SHOWN) :]:
    ax.set_axis_off()
for ax, name in zip(axes.flat, SHOWN, strict=False):
    draw(volumes, spacing, name, middle, ax)
fig.subplots_adjust(wspace=0.55)

# %% [markdown]
# ## The grid: every slice of the gap
#
# This figure needs no widgets, so it also stands in a printed notebook. The gap estimates a probability from the few
# labels in its window; where the window is small it is noisy, and single red or blue spots mean little. A red line
# along a whole contour, slice after slice, means that the network hides how uncertain that boundary is.

# %%
some = held[np.linspace(0, len(held) - 1, min(8, len(held))).round().astype(int)]
fig, axes = plt.subplots(2, -(-len(some) // 2), figsize=(12.5, 6), squeeze=False)
for ax in axes.flat:
    ax.set_axis_off()
for ax, at in zip(axes.flat, some, strict=False):
    draw(volumes, spacing, "gap", int(at), ax)
    ax.set_title(f"slice {at}", fontsize=9, loc="left")
    if ax is not axes.flat[len(some) - 1]:
        ax.child_axes[0].remove()  # one color bar is enough
fig.subplots_adjust(wspace=0.08)

# %% [markdown]
# ## Sliders
#
# Choose case, map, slice and class. The outline is that of the reference. The cell needs `ipywidgets`
# (`pip install "medcalib[notebook]"`); without it the grid above is what there is.

# %%
try:
    import ipywidgets as widgets
except ImportError:
    widgets = None
    print("ipywidgets is not installed: see the grid above")


def browse(case, name, at, klass):
    """What the sliders show."""
    volumes, spacing = read(case)
    ax = plt.figure(figsize=(6.4, 5.2)).add_subplot()
    draw(volumes, spacing, name, min(at, volumes[name].shape[2] - 1), ax, klass)
    plt.show()


if widgets is not None:
    found = sorted({int(k) for k in np.unique(volumes["label"]) if k != 255} | {0})
    widgets.interact(
        browse,
        case=widgets.Dropdown(options=CASES, description="case"),
        name=widgets.Dropdown(options=SHOWN, value="gap", description="map"),
        at=widgets.IntSlider(middle, 0, volumes["label"].shape[2] - 1, description="slice", continuous_update=False),
        klass=widgets.SelectionSlider(options=[("all", 0), *((str(k), k) for k in found[1:])], description="class"),
    )

# %% [markdown]
# ## In 3D, with niivue
#
# Where `ipyniivue` is installed, the next cell opens the image with the gap on top: warm colors are overconfident,
# cold ones underconfident. Click to move the cross, scroll to move through slices, drag with the right mouse button to
# change the contrast. It draws in the browser with WebGL, so nothing appears in a printed notebook.

# %%
try:
    from ipyniivue import NiiVue, ShowRender
except ImportError:
    viewer = None
    print("ipyniivue is not installed: see the grid above")
else:
    case = CASES[0]
    under = MAPS / f"{case}_confidence.nii.gz" if IMAGES is None else IMAGES / f"{case}.nii.gz"
    over = {"colormap": "warm", "colormap_negative": "winter", "cal_min": 0.1, "cal_max": 0.5, "opacity": 0.7}
    viewer = NiiVue(height=420, multiplanar_show_render=ShowRender.ALWAYS, is_radiological_convention=True)
    viewer.load_volumes([{"path": under}, {"path": MAPS / f"{case}_gap.nii.gz", **over}])
viewer

# %% [markdown]
# ## How much of the volume is wrong, and is the map honest about it?
#
# A map invites stories; a number keeps them in check. For each class: the share of voxels predicted as this class that
# are wrong, and the mean confidence there. Their sum is 1 for a calibrated class; above 1 it is overconfident.

# %%
from medcalib.report.text import table

rows = []
for k in np.unique(volumes["prediction"]):
    inside = (volumes["prediction"] == k) & (volumes["label"] != 255)
    wrong, confidence = volumes["error"][inside].mean(), volumes["confidence"][inside].mean()
    rows.append([str(k), f"{inside.sum():,}", f"{wrong:.3f}", f"{confidence:.3f}", f"{confidence + wrong - 1:+.3f}"])
print(table(rows, ["class", "voxels", "share wrong", "mean confidence", "gap"]))

# %% [markdown]
# ## What to try next
#
# - Set `sharpness=1` in `make_phantom`, and run again: the gap loses most of its red.
# - Set `MAPS` to a folder of your own; the sliders list whatever maps lie in it, one for each class included.
# - `medcalib maps --window-mm 15` takes a wider window: a smoother gap that blurs what lies close together.
# - Notebook 5 says how these maps become one number, and what is lost on the way.
