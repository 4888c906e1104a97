# %% [markdown]
# # 3. The losses side by side, on one row of voxels
#
# - All losses of medcalib act on logits. You see what ten of them do to the same 24 voxels.
# - You draw what they look at: logits, distances to the largest logit, the margin, and the neighborhood of each voxel.
# - You draw the *push* that each loss gives to each logit of an overconfident network.
# - You let the logits of the row move freely, and see which confidence each loss is content with.
# - You learn which losses treat a boundary differently from an interior, and which do not.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from medcalib import losses
from medcalib.report.plots import COLORS, STYLE

FAST = os.environ.get("MEDCALIB_NOTEBOOK_FAST") == "1"
plt.rcParams.update({**STYLE, "figure.dpi": 110})

# %% [markdown]
# ## A row through a heart
#
# The row runs from the background through the myocardium into the left ventricle. One voxel of the background is
# labelled as myocardium: a slip of the annotator, or a very thin structure. The losses want volumes, so the row is
# repeated in the two other directions; every window then sees the same along the row.

# %%
NAMES = ("background", "MYO", "LV")
row = torch.tensor([0] * 4 + [1] + [0] * 5 + [1] * 6 + [2] * 8)
labels = row[None, :, None, None].expand(1, -1, 3, 3).contiguous()  # (B, i, j, k)
x = np.arange(len(row))


def as_volume(logits):
    """Logits (C, voxels) of the row as a volume (1, C, voxels, 3, 3)."""
    return logits[None, :, :, None, None].expand(-1, -1, -1, 3, 3).contiguous()


def shade(ax):
    """The labels of the row as background colors, and the voxels as axis."""
    for voxel, label in enumerate(row.tolist()):
        ax.axvspan(voxel - 0.5, voxel + 0.5, color=COLORS[label], alpha=0.13, lw=0)
    ax.set_xlim(-0.5, len(row) - 0.5)


# %% [markdown]
# ## A network that is too sure of itself
#
# Its logits change from one class to the next over few voxels, and reach a distance of 14: a probability of 0.999999.
# It places the outer edge of the myocardium two voxels too far to the right, and does not know the single voxel.

# %%
edges = np.array([11.5, 15.5])  # where the network changes its mind; the labels change at 9.5 and 15.5
scores = np.stack([edges[0] - x, np.minimum(x - edges[0], edges[1] - x), x - edges[1]])
network = torch.tensor(np.clip(3.5 * scores, -7, 7))
ordered = network.amax(0) - network  # distances to the largest logit, never negative

fig, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
MARGIN = 5.0
texts = ("logit $z_k$", "distance $\\max_j z_j - z_k$", "probability $p_k$")
for ax, values, text in zip(axes, (network, ordered, network.softmax(0)), texts, strict=True):
    shade(ax)
    for k, name in enumerate(NAMES):
        ax.plot(x, values[k], "o-", color=COLORS[k], ms=3.5, label=name)
    ax.set(xlabel="voxel", ylabel=text)
axes[1].axhline(MARGIN, color="black", lw=1, ls="--")
axes[1].text(0, MARGIN + 0.3, f"margin {MARGIN:g}")
axes[2].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The background colors are the labels. The middle figure is what margin losses see: a distance above the dashed line
# costs something, one below it is free. The single voxel at 4 is lost on this network.
#
# ## The neighborhood of a voxel
#
# SVLS, NACL and CRaC look at the labels around a voxel: `tau_k` is the share of class k in its window. CRaC calls a
# voxel *boundary* when its window holds more than one label, and *interior* otherwise.

# %%
from medcalib.ops import heterogeneous, neighborhood_proportions

WINDOW = {"kernel_size": 3, "padding": "replicate"}
shares = {
    "all voxels of the window alike (NACL, CRaC)": neighborhood_proportions(labels, 3, 3, "mean", "replicate"),
    "half of the weight on the voxel itself (SVLS)": neighborhood_proportions(labels, 3, 3, "svls", "replicate"),
}
boundary = heterogeneous(labels, 3, "replicate")[0, :, 1, 1]
fig, axes = plt.subplots(1, 2, figsize=(11, 2.9), layout="constrained", sharey=True)
for ax, (title, tau) in zip(axes, shares.items(), strict=True):
    shade(ax)
    bottom = np.zeros(len(row))
    for k, name in enumerate(NAMES):
        part = tau[0, k, :, 1, 1].numpy()
        ax.bar(x, part, bottom=bottom, width=0.8, color=COLORS[k], label=name)
        bottom += part
    ax.plot(x[boundary], np.full(int(boundary.sum()), 1.06), "kv", ms=5, label="boundary")
    ax.set(title=title, xlabel="voxel", ylim=(0, 1.12))
axes[0].set_ylabel("share $\\tau_k$")
axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Ten losses
#
# `losses.build` gives the method of a paper, cross-entropy or its replacement included. Options that are not named have
# the defaults of the papers. Only the margins are set here, so that all margin losses share one.

# %%
METHODS = {
    "ce": {},
    "label_smoothing": {"smoothing": 0.1},
    "focal": {"gamma": 3.0},
    "ecp": {},
    "mbls": {"margin": MARGIN},
    "acls": {"margin": MARGIN},
    "svls": WINDOW,
    "nacl": WINDOW,
    "crac": {"margin": MARGIN, **WINDOW},
    "ml1_ace_hard": {},
}


def build(name):
    """The objective of a method for this row."""
    return losses.build(name, num_classes=3, **METHODS[name])


for name in METHODS:
    print(f"{name:16s} {losses.RECIPES[name].equation}")

# %% [markdown]
# ## Which way each loss pushes
#
# The push is minus the gradient: above 0 the loss raises a logit, below 0 it lowers it. One unit is the largest push
# that cross-entropy can give to a voxel. The axis is linear between the dotted lines and logarithmic beyond, since
# penalties push a hundred times more gently than an error does.
#
# Look at three places. At voxels 10 and 11 the network is wrong, and every loss says so. At voxels 0 and 23 it is right
# and far too sure: cross-entropy has nothing to say there. At voxel 4 the label stands alone.


# %%
def push_of(name):
    """Minus the gradient at each voxel and class (C, voxels), in units of one voxel's mean."""
    logits = as_volume(network).requires_grad_()
    objective = build(name)
    objective(logits, labels).backward()
    return -logits.grad[0].sum((-2, -1)) * len(row)


fig, axes = plt.subplots(2, 5, figsize=(12.5, 5.2), layout="constrained", sharex=True, sharey=True)
for ax, name in zip(axes.flat, METHODS, strict=True):
    shade(ax)
    for k, values in enumerate(push_of(name)):
        ax.plot(x, values, "o-", color=COLORS[k], ms=3, lw=1, label=NAMES[k])
    ax.axhline(0, color="black", lw=0.6)
    for level in (-0.01, 0.01):
        ax.axhline(level, color="gray", lw=0.6, ls=":")
    ax.set_title(name)
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set_yticks([-1, -0.1, -0.01, 0, 0.01, 0.1, 1], ["-1", "-0.1", "-0.01", "0", "0.01", "0.1", "1"])
for ax in axes[1]:
    ax.set_xlabel("voxel")
for ax in axes[:, 0]:
    ax.set_ylabel("push on the logit")
axes[0, 4].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# - **ce** and **focal** fall silent where the network is right and sure. Focal falls silent earlier.
# - **label_smoothing** pulls back everywhere: its targets are 0.93 and 0.03, not 1 and 0. **ecp** pulls back too, but
#   at this confidence its pull has nearly vanished: the entropy is flat where a probability is almost 1.
# - **mbls** pulls back with the same small force wherever a distance exceeds the margin. It asks neither whether the
#   voxel is right nor where it lies. **acls** does so too, with a force that grows with the distance.
# - **svls** is cross-entropy, but for voxels whose window holds two labels.
# - **nacl** and **crac** pull *logits* to the shares of the window, at every voxel, and **crac** with different
#   strength in the boundary and in the interior.
# - **ml1_ace_hard** looks at bins of voxels, not at voxels: what it pushes depends on how often the bin is right. Here
#   it hardly differs from cross-entropy. Its pull goes through the softmax, which passes on almost nothing near 1.
#
# ## Which confidence each loss is content with
#
# Now no network stands between loss and logits. They start at 0 and follow the loss for some hundred steps. Terms that
# learn multipliers (CRaC) take a step of their own after each tenth, as they would after an epoch.

# %%
STEPS = 60 if FAST else 600


def settled(name):
    """The logits (C, voxels) that a loss leads to from 0."""
    free = torch.zeros(3, len(row), dtype=torch.float64, requires_grad=True)
    objective = build(name)
    optimizer = torch.optim.Adam([free], lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = as_volume(free)
        objective(logits, labels).backward()
        optimizer.step()
        if (step + 1) % (STEPS // 10) == 0:
            objective.observe(logits.detach(), labels)
            objective.update()
    return free.detach()


optimum = {name: settled(name) for name in METHODS}

fig, axes = plt.subplots(2, 5, figsize=(12.5, 5.2), layout="constrained", sharex=True, sharey=True)
for ax, name in zip(axes.flat, METHODS, strict=True):
    shade(ax)
    probs = optimum[name].softmax(0)
    for k in range(3):
        ax.plot(x, probs[k], "o-", color=COLORS[k], ms=3, lw=1, label=NAMES[k])
    ax.set_title(f"{name}\n{probs[:, 0].max():.3f} inside, {probs[:, 15].max():.3f} at the edge", fontsize=9)
    ax.set_ylim(-0.03, 1.03)
for ax in axes[1]:
    ax.set_xlabel("voxel")
for ax in axes[:, 0]:
    ax.set_ylabel("probability")
axes[0, 4].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## The same, as distances
#
# Probabilities hide what goes on near 1. The largest distance between two logits of a voxel does not.

# %%
fig, ax = plt.subplots(figsize=(11, 4.2), layout="constrained")
table = np.stack([(z.amax(0) - z).amax(0).numpy() for z in optimum.values()])
shown = ax.imshow(table, cmap="cividis", vmin=0, vmax=8, aspect="auto")
ax.set_yticks(range(len(METHODS)), list(METHODS))
ax.set(xlabel="voxel", title="largest distance between two logits, after the steps above")
for (line, voxel), value in np.ndenumerate(table):
    ax.text(voxel, line, f"{value:.1f}", ha="center", va="center", fontsize=7, color="black" if value > 4 else "white")
for place in np.flatnonzero(np.diff(row.numpy())) + 0.5:
    ax.axvline(place, color="white", lw=1.5)
fig.colorbar(shown, ax=ax, label="distance")
plt.show()

# %% [markdown]
# - **ce** and **focal** have no optimum: the distances still grow when the steps end, those of focal more slowly.
#   **ecp** is too weak to show. **ml1_ace_hard** does not hold them back here: every voxel has become right, and a
#   confidence of 1 is then calibrated *on this row*. It needs errors in the training data to work against
#   overconfidence.
# - **label_smoothing**, **mbls** and **acls** give every voxel the same confidence, boundary or not. For label
#   smoothing it is `1 - a + a / C`. For MbLS the distance comes to rest where the margin begins.
# - **nacl**, too, gives nearly every voxel the same confidence. Its pull to the share of the window has the same size
#   at any distance, `w / C`, and cross-entropy withstands it up to a confidence of `1 - w / C`. The windows decide
#   which way the pull goes, and that is the same everywhere once a logit is larger than its share.
# - **svls** and **crac** lower the confidence where two labels meet. The optimum of SVLS is the share of the window
#   itself. CRaC wants a logit of 1 times the share in boundaries and of `margin` times the share inside.
#
# The statements with a formula can be checked.

# %%
C, a = 3, 0.1
expected = 1 - a + a / C
found = float(optimum["label_smoothing"].softmax(0)[:, 0].max())
print(f"label smoothing: expected confidence {expected:.4f}, found {found:.4f}")
found, weight = float(optimum["nacl"].softmax(0)[:, 0].max()), 0.1
print(f"nacl: expected confidence {1 - weight / C:.4f}, found {found:.4f}")
distance = optimum["mbls"].amax(0) - optimum["mbls"]
print(f"mbls: margin {MARGIN:g}, largest distance found {float(distance.max()):.2f}")
tau = shares["half of the weight on the voxel itself (SVLS)"][0, :, :, 1, 1].double()
off = float((optimum["svls"].softmax(0) - tau).abs().max())
print(f"svls: largest difference between probability and share {off:.3f}")

# %% [markdown]
# ## What to try next
#
# - Move the margin, or give NACL `weight=0.01`: how much does the interior change, how much the boundary?
# - Put `dice_ce`, `cals_alm`, `fcl` or `sdc` into `METHODS`; `losses.names()` lists all methods.
# - Flip more labels of the row at random, and see whether `ml1_ace_soft` begins to hold confidence back.
# - Train a network with two of these losses: notebook 1, with another line in `LOSSES`.
