"""The CUDA kernels of the fused pass, in Triton; launched by `_triton`.

A program marches along the first spatial axis with a tile of the plane of the other two. The labels of a window are
counted in packed words, some bits a class: those of one plane are summed from its loads, those of the planes before
are carried. Ignored voxels count as one class more. The classes are taken in chunks. One chunk is a loop of one round,
which the compiler unrolls, and then logits loaded again are those in registers; several keep the code short.
"""

# the language of the kernels has neither types that mypy could read nor unpacking
# mypy: ignore-errors
# ruff: noqa: RUF005

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl

MARGIN: tl.constexpr = tl.constexpr(1)
CALS: tl.constexpr = tl.constexpr(2)
ACLS: tl.constexpr = tl.constexpr(3)
NEIGHBOR: tl.constexpr = tl.constexpr(4)
BACKGROUND: tl.constexpr = tl.constexpr(0)
REPLICATE: tl.constexpr = tl.constexpr(1)
ZEROS: tl.constexpr = tl.constexpr(2)
INFINITY: tl.constexpr = tl.constexpr(float("inf"))
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
HEAD: tl.constexpr = tl.constexpr(4)  # rows before those of single classes: cross-entropy, penalty, voxels, boundaries


class Plan(NamedTuple):
    """What a kernel is compiled for; every field a constant of the kernel."""

    classes: int
    chunk: int  # classes taken at once: all, or the counters of a word
    chunks: int
    block: int  # voxels of a tile
    target: int
    smooth: int  # whether the target is not one-hot
    penalty: int
    power: int
    by_region: int
    class_mean: int
    multipliers: int  # of a region
    padding: int
    ignoring: int  # 2 if 0 is the ignored label, which a load outside the array gives too
    want_stats: int
    depth: int  # of the window
    height: int
    width: int
    bits: int  # of a counter
    counters: int  # in a word
    words: int
    mask: int  # of the first counter
    below_ignored: int  # of the counters of classes in the last word, where ignored voxels are counted
    wide: int  # whether 32 bits cannot number the voxels of a volume


@lru_cache(maxsize=64)
def constants(plan: Plan) -> Plan:
    """As kernels take it."""
    return Plan(*(tl.constexpr(value) for value in plan))


class Numbers(NamedTuple):
    """Real options, as in `FusedSpec`."""

    own: float
    rest: float
    margin: float
    inverse_norm: float
    weight_top: float
    weight_rest: float
    factor_boundary: float
    factor_interior: float
    scale: float
    lam_min: float
    lam_max: float


class Volume(NamedTuple):
    """Lengths of the spatial axes, and their product."""

    depth: int
    height: int
    width: int
    voxels: int


class Tile(NamedTuple):
    """Where a program works."""

    p: tl.tensor  # places in the plane
    h: tl.tensor
    w: tl.tensor
    inside: tl.tensor
    start: tl.tensor  # first plane
    stop: tl.tensor
    sample: tl.tensor


class Plane(NamedTuple):
    """The logits of a tile in one plane."""

    logits: tl.tensor  # pointer to those of class 0
    stride: tl.tensor  # from class to class
    p: tl.tensor
    inside: tl.tensor


class Window(NamedTuple):
    """Packed counts of labels, what they are multiplied by to be pulled to, whether they differ."""

    words: tl.tuple
    factor: tl.tensor
    boundary: tl.tensor


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _exp(a):
    """e^a; tl.exp spends three more instructions on subnormal results."""
    return tl.exp2(a * LOG2E)


@triton.jit
def _none(plan):
    return tl.zeros((plan.block,), tl.float32)


@triton.jit
def _tile(volume, steps, plan):
    """Where this program works, and the chunk of classes whose statistics it gives."""
    program = tl.program_id(0)
    plane = volume.height * volume.width
    tiles, marches = tl.cdiv(plane, plan.block), tl.cdiv(volume.depth, steps)
    p = program % tiles * plan.block + tl.arange(0, plan.block)
    program //= tiles
    start = program % marches * steps
    stop = tl.minimum(start + steps, volume.depth)
    program //= marches
    group = 0
    if plan.want_stats:
        group = program % plan.chunks
        program //= plan.chunks
    return Tile(p, p // volume.width, p % volume.width, p < plane, start, stop, tl.cast(program, tl.int64)), group


@triton.jit
def _plane_words(labels, plane, tile, volume, ignore, plan):
    """Packed counts of the labels that the window holds in one plane."""
    words = ()
    for _ in tl.static_range(plan.words):
        words = words + (tl.zeros((plan.block,), tl.int32),)
    near = tl.minimum(tl.maximum(plane, 0), volume.depth - 1)
    if plan.wide:
        offset = tl.cast(near, tl.int64) * (volume.height * volume.width)
    else:
        offset = near * (volume.height * volume.width)
    for i in tl.static_range(plan.height):
        for j in tl.static_range(plan.width):
            row, column = i - plan.height // 2, j - plan.width // 2
            label, inside = _label(labels, offset, row, column, tile, volume, ignore, plan)
            words = _counted(words, label, inside, plan)
    if plan.padding != REPLICATE and plan.depth > 1:
        # one choice here is cheaper than one at each load
        outside = plan.height * plan.width if plan.padding == BACKGROUND else 0
        kept = (tl.where(near == plane, words[0], outside),)
        for i in tl.static_range(1, plan.words):
            kept = kept + (tl.where(near == plane, words[i], 0),)
        words = kept
    return words


@triton.jit
def _label(labels, offset, row: tl.constexpr, column: tl.constexpr, tile, volume, ignore, plan):
    """Labels some rows and columns away, and whether they lie in the array; ignored ones as one class more."""
    h, w = tile.h + row, tile.w + column
    if plan.padding == REPLICATE:
        h = tl.minimum(tl.maximum(h, 0), volume.height - 1)
        w = tl.minimum(tl.maximum(w, 0), volume.width - 1)
        inside = tl.full((plan.block,), 1, tl.int1)
        label = tl.load(labels + (h * volume.width + w + offset)).to(tl.int32)
    else:
        inside = (h >= 0) & (h < volume.height) & (w >= 0) & (w < volume.width)
        # in 64 bits the column becomes part of the instruction, and the rows share their addresses
        place = labels + (tile.p + (row * volume.width + offset)) + tl.cast(column, tl.int64)
        label = tl.load(place, mask=inside, other=0).to(tl.int32)
    if plan.ignoring == 2:
        label = tl.where(inside & (label == ignore), plan.classes, label)
    elif plan.ignoring:
        label = tl.where(label == ignore, plan.classes, label)
    return label, inside


@triton.jit
def _counted(words, label, inside, plan):
    """words with one more of each label; outside the array none where padding is "zeros"."""
    shift = label
    for i in tl.static_range(1, plan.words):
        shift -= tl.where(label >= i * plan.counters, plan.counters, 0)
    one = 1 << (shift * plan.bits)
    if plan.padding == ZEROS:
        one = tl.where(inside, one, 0)
    counted = ()
    for i in tl.static_range(plan.words):
        counted = counted + (words[i] + tl.where(_in_word(label, i, plan), one, 0),)
    return counted


@triton.jit
def _in_word(label, i: tl.constexpr, plan):
    """Whether the counter of a label is in word i."""
    if plan.words == 1:
        return tl.full((plan.block,), 1, tl.int1)
    else:
        return (label >= i * plan.counters) & (label < (i + 1) * plan.counters)


@triton.jit
def _before(labels, tile, volume, ignore, plan):
    """The words of the planes that the first window needs, but for its last one."""
    carried = ()
    if plan.penalty == NEIGHBOR:
        for _ in tl.static_range((plan.depth - 1) * plan.words):
            carried = carried + (tl.zeros((plan.block,), tl.int32),)
        if plan.depth > 1:  # Triton 3.6 compiles no loop whose variable is empty, be it never entered
            for plane in range(tile.start - plan.depth // 2, tile.start + (plan.depth - 1 - plan.depth // 2)):
                carried = carried[plan.words :] + _plane_words(labels, plane, tile, volume, ignore, plan)
    return carried


@triton.jit
def _window(carried, labels, label, d, tile, volume, ignore, numbers, plan):
    """The window around the voxels of plane d, and the words to carry on."""
    boundary = tl.zeros((plan.block,), tl.int1)
    if plan.penalty != NEIGHBOR:
        return Window((), numbers.scale, boundary), carried
    else:
        carried = carried + _plane_words(labels, d + plan.depth // 2, tile, volume, ignore, plan)
        words = carried[: plan.words]
        for i in tl.static_range(1, plan.depth):
            added = ()
            for j in tl.static_range(plan.words):
                added = added + (words[j] + carried[i * plan.words + j],)
            words = added
        size: tl.constexpr = plan.depth * plan.height * plan.width
        factor, interior = numbers.factor_boundary, numbers.factor_interior
        if not plan.ignoring:  # rounded to the nearest, so that the window of one class has a share of exactly 1
            factor, interior = tl.div_rn(factor, 1.0 * size), tl.div_rn(interior, 1.0 * size)
        if plan.by_region:
            boundary = _heterogeneous(words, label, plan)
            factor = tl.where(boundary, factor, interior)
        if plan.ignoring:
            place = plan.classes - plan.classes // plan.counters * plan.counters
            factor /= size - _counter(words[plan.classes // plan.counters], place, plan)
        return Window(words, factor, boundary), carried[plan.words :]


@triton.jit
def _counter(word, place, plan):
    """The number in one place of a word."""
    return ((word >> (place * plan.bits)) & plan.mask).to(tl.float32)


@triton.jit
def _shares(window, i, plan):
    """A tuple of what the window pulls the logits of chunk i to."""
    shares = ()
    if plan.chunks == 1:
        for j in tl.static_range(plan.chunk):
            place = j - j // plan.counters * plan.counters
            shares = shares + (window.factor * _counter(window.words[j // plan.counters], place, plan),)
    else:
        word = window.words[0]
        for j in tl.static_range(1, plan.chunks):
            word = tl.where(i == j, window.words[j], word)
        for j in tl.static_range(plan.chunk):
            shares = shares + (window.factor * _counter(word, j, plan),)
    return shares


@triton.jit
def _heterogeneous(words, label, plan):
    """Whether a class other than that of the voxel stands in the window."""
    others = tl.zeros((plan.block,), tl.int32)
    for i in tl.static_range(plan.words):
        word = words[i]
        if plan.ignoring and plan.classes // plan.counters == i:
            word &= plan.below_ignored
        own = plan.mask << ((label - i * plan.counters) * plan.bits)
        others |= word & ~tl.where(_in_word(label, i, plan), own, 0)
    return others != 0


@triton.jit
def _logits(plane, i, plan):
    """A tuple of the logits of chunk i, in float32."""
    z = ()
    for j in tl.static_range(plan.chunk):
        k = i * plan.chunk + j
        there = plane.inside & (k < plan.classes)
        place = plane.logits + tl.cast(k, tl.int64) * plane.stride + plane.p
        z = z + (tl.load(place, mask=there, other=-INFINITY).to(tl.float32),)
    return z


@triton.jit
def _if_class(value, i, j: tl.constexpr, plan):
    """value, but 0 where the last chunk has no class j."""
    if plan.chunks * plan.chunk == plan.classes:
        return value
    else:
        return tl.where(i * plan.chunk + j < plan.classes, value, 0.0)


@triton.jit
def _largest(plane, plan):
    """max_k z_k; where nobody asks for it, the compiler drops it."""
    largest = tl.full((plan.block,), -INFINITY, tl.float32)
    for i in range(plan.chunks):
        z = _logits(plane, i, plan)
        for j in tl.static_range(plan.chunk):
            largest = _larger(largest, z[j])
    return largest


@triton.jit
def _exponentials(plane, largest, plan):
    """sum_k e^(z_k - max z)."""
    total = _none(plan)
    for i in range(plan.chunks):
        z = _logits(plane, i, plan)
        for j in tl.static_range(plan.chunk):
            total += _exp(z[j] - largest)
    return total


@triton.jit
def _cross_entropy(plane, largest, label, numbers, plan):
    """-sum_k t_k log p_k."""
    own, total = _none(plan), _none(plan)
    for i in range(plan.chunks):
        z = _logits(plane, i, plan)
        for j in tl.static_range(plan.chunk):
            below = z[j] - largest
            own = tl.where(label == i * plan.chunk + j, below, own)
            total += _if_class(below, i, j, plan)
    logarithm = tl.log(_exponentials(plane, largest, plan))
    if plan.smooth:
        mass = numbers.own + (plan.classes - 1) * numbers.rest
        return mass * logarithm - numbers.own * own - numbers.rest * (total - own)
    else:
        return logarithm - own


@triton.jit
def _excess(z, largest, numbers, plan):
    """What margin is a power of."""
    excess = largest - z - numbers.margin
    if plan.power > 0:
        excess = _larger(excess, 0.0)
    return excess


@triton.jit
def _margin(plane, largest, numbers, plan):
    """Sum over classes of margin."""
    value = _none(plan)
    for i in range(plan.chunks):
        z = _logits(plane, i, plan)
        for j in tl.static_range(plan.chunk):
            excess = _excess(z[j], largest, numbers, plan)
            value += _if_class(excess if plan.power == 1 else excess * excess, i, j, plan)
    return value


@triton.jit
def _acls(plane, largest, numbers, plan):
    """The largest logits beyond the margin, and the others below it."""
    value = _none(plan)
    weight_rest = numbers.weight_rest / (plan.classes - 1)
    for i in range(plan.chunks):
        z = _logits(plane, i, plan)
        for j in tl.static_range(plan.chunk):
            above, below = _larger(z[j] - numbers.margin, 0.0), _larger(largest - z[j] - numbers.margin, 0.0)
            value += tl.where(z[j] == largest, numbers.weight_top * above * above, 0.0)
            value += _if_class(weight_rest * below * below, i, j, plan)
    return value


@triton.jit
def _violations(plane, largest, window, i, numbers, plan):
    """A tuple of h of chunk i."""
    h = ()
    z = _logits(plane, i, plan)
    if plan.penalty == NEIGHBOR:
        shares = _shares(window, i, plan)
    for j in tl.static_range(plan.chunk):
        if plan.penalty == NEIGHBOR:
            h = h + (tl.abs(shares[j] - z[j]),)
        else:
            h = h + ((largest - z[j] - numbers.margin) * numbers.inverse_norm,)
    return h


@triton.jit
def _mean_violation(plane, window, numbers, plan):
    """The mean of h over classes."""
    total = _none(plan)
    for i in range(plan.chunks):
        h = _violations(plane, total, window, i, numbers, plan)
        for j in tl.static_range(plan.chunk):
            total += _if_class(h[j], i, j, plan)
    return total * (1 / plan.classes)


@triton.jit
def _multiplier(table, k, boundary, plan):
    """The number of class k in the region of each voxel; loaded where it is used: held, they fill the registers."""
    k = tl.cast(k, tl.int64)
    if plan.by_region:
        return tl.load(table + tl.where(boundary, 0, plan.classes) + k, mask=k < plan.classes, other=0).to(tl.float32)
    else:
        return tl.load(table + k, mask=k < plan.classes, other=0).to(tl.float32)


@triton.jit
def _constraints(h, i, lam, rho, boundary, plan):
    """P(h) summed over a chunk, and a tuple of lam + rho h."""
    value = _none(plan)
    slopes = ()
    for j in tl.static_range(len(h)):
        k = i * plan.chunk + j
        one, two = _multiplier(lam, k, boundary, plan), _multiplier(rho, k, boundary, plan)
        slopes = slopes + (one + two * h[j],)
        penalty = h[j] * (one + 0.5 * two * h[j])
        if plan.penalty == CALS:  # only there h may be negative
            penalty = tl.where(slopes[j] < 0, -one * one / (2 * two), penalty)
        value += _if_class(penalty, i, j, plan)
    return value, slopes


@triton.jit
def _added(sums, values, within, low, high):
    """sums with the values in some voxels added, within limits."""
    added = ()
    for j in tl.static_range(len(sums)):
        value = tl.minimum(tl.maximum(values[j], low), high)
        added = added + (sums[j] + tl.where(within, value, 0.0),)
    return added


@triton.jit
def _observed(sums, slopes, h, valid, boundary, numbers, plan):
    """sums with slopes and violations added: of the first region, and of the second."""
    slope, violation, inner_slope, inner_violation = sums
    if plan.by_region:
        inner = valid & (boundary == 0)
        valid &= boundary
        inner_slope = _added(inner_slope, slopes, inner, numbers.lam_min, numbers.lam_max)
        inner_violation = _added(inner_violation, h, inner, -INFINITY, INFINITY)
    slope = _added(slope, slopes, valid, numbers.lam_min, numbers.lam_max)
    violation = _added(violation, h, valid, -INFINITY, INFINITY)
    return slope, violation, inner_slope, inner_violation


@triton.jit
def _multiplied(plane, largest, window, lam, rho, sums, valid, group, numbers, plan):
    """Sum over multipliers of P(h), and the sums to observe."""
    value = _none(plan)
    if plan.class_mean:
        h = (_mean_violation(plane, window, numbers, plan),)
        value, slopes = _constraints(h, 0, lam, rho, window.boundary, plan)
        if plan.want_stats:
            sums = _observed(sums, slopes, h, valid & (group == 0), window.boundary, numbers, plan)
    else:
        for i in range(plan.chunks):
            h = _violations(plane, largest, window, i, numbers, plan)
            part, slopes = _constraints(h, i, lam, rho, window.boundary, plan)
            value += part
            if plan.want_stats:
                sums = _observed(sums, slopes, h, valid & (group == i), window.boundary, numbers, plan)
    return value, sums


@triton.jit
def _penalty(plane, largest, window, lam, rho, sums, valid, group, numbers, plan):
    """The penalty of each voxel, up to factors that all voxels share, and the sums to observe."""
    if plan.penalty == MARGIN:
        return _margin(plane, largest, numbers, plan), sums
    elif plan.penalty == ACLS:
        return _acls(plane, largest, numbers, plan), sums
    elif plan.penalty:
        return _multiplied(plane, largest, window, lam, rho, sums, valid, group, numbers, plan)
    else:
        return _none(plan), sums


@triton.jit
def _zeros(n: tl.constexpr, plan):
    """A tuple of n sums."""
    sums = ()
    for _ in tl.static_range(n):
        sums = sums + (_none(plan),)
    return sums


@triton.jit
def _members(sums, label, valid, group, plan):
    """sums with the voxels of each class of a chunk added."""
    added = ()
    for j in tl.static_range(len(sums)):
        added = added + (sums[j] + (valid & (label == group * plan.chunk + j)).to(tl.float32),)
    return added


@triton.jit
def _store(partial, first, end, sums):
    """Sums over the tile, from a row on."""
    for i in tl.static_range(len(sums)):
        place = partial + tl.cast(first + i, tl.int64) * tl.num_programs(0)
        tl.store(place + tl.program_id(0), tl.sum(sums[i]), mask=first + i < end)


@triton.jit
def forward_kernel(logits, labels, lam, rho, partial, volume, steps, ignore, numbers, plan):
    """Sums over the voxels of this program: rows cross-entropy, penalty, then those of `FusedStats`.

    With statistics, each chunk of classes has its own programs; the first ones give what concerns all classes.
    """
    tile, group = _tile(volume, steps, plan)
    step = volume.height * volume.width
    stride = tl.cast(volume.voxels, tl.int64)
    logits += tile.sample * plan.classes * stride + tl.cast(tile.start, tl.int64) * step
    labels += tile.sample * stride
    carried = _before(labels, tile, volume, ignore, plan)
    likelihood, penalty, voxels, boundaries = _none(plan), _none(plan), _none(plan), _none(plan)
    rows: tl.constexpr = plan.multipliers * plan.want_stats
    inner_rows: tl.constexpr = plan.multipliers * plan.want_stats * plan.by_region
    sums = _zeros(rows, plan), _zeros(rows, plan), _zeros(inner_rows, plan), _zeros(inner_rows, plan)
    members = _zeros(plan.chunk * plan.want_stats, plan)
    for d in range(tile.start, tile.stop):
        label = tl.load(labels + tl.cast(d, tl.int64) * step + tile.p, mask=tile.inside, other=0).to(tl.int32)
        valid = tile.inside
        if plan.ignoring:
            valid &= label != ignore
        plane = Plane(logits, stride, tile.p, tile.inside)
        largest = _largest(plane, plan)
        if plan.target:
            likelihood += tl.where(valid, _cross_entropy(plane, largest, label, numbers, plan), 0.0)
        window, carried = _window(carried, labels, label, d, tile, volume, ignore, numbers, plan)
        value, sums = _penalty(plane, largest, window, lam, rho, sums, valid, group, numbers, plan)
        penalty += tl.where(valid, value, 0.0)
        voxels += valid.to(tl.float32)
        boundaries += (valid & window.boundary).to(tl.float32)
        members = _members(members, label, valid, group, plan)
        logits += step
    if plan.penalty == NEIGHBOR:
        penalty *= numbers.scale
    if plan.penalty != ACLS and not plan.class_mean:
        penalty *= 1 / plan.classes
    _store(partial, 0, tl.where(group == 0, HEAD, 0), (likelihood, penalty, voxels, boundaries))
    if plan.want_stats:
        slope, violation, inner_slope, inner_violation = sums
        first, classes = group * plan.chunk + HEAD, plan.classes
        _store(partial, first, HEAD + classes, slope)
        _store(partial, first + classes, HEAD + 2 * classes, inner_slope)
        _store(partial, first + 2 * classes, HEAD + 3 * classes, violation)
        _store(partial, first + 3 * classes, HEAD + 4 * classes, inner_violation)
        _store(partial, first + 4 * classes, HEAD + 5 * classes, members)


@triton.jit
def finish_kernel(partial, ce, penalty, stats, programs, rows, block: tl.constexpr):
    """Adds the rows up in float64, in one order: `ce`, `penalty` are means, `stats` sums, 0 where there is no row."""
    row = tl.program_id(0)
    offsets = tl.arange(0, block)
    total, voxels = tl.zeros((block,), tl.float64), tl.zeros((block,), tl.float64)
    if row < rows:
        for start in range(0, programs, block):
            there = start + offsets < programs
            place = partial + tl.cast(row, tl.int64) * programs + start + offsets
            total += tl.load(place, mask=there, other=0).to(tl.float64)
            place = partial + tl.cast(2, tl.int64) * programs + start + offsets
            voxels += tl.load(place, mask=there, other=0).to(tl.float64)
    mean = (tl.sum(total) / tl.maximum(tl.sum(voxels), 1.0)).to(tl.float32)
    if row == 0:
        tl.store(ce, mean)
    elif row == 1:
        tl.store(penalty, mean)
    else:
        tl.store(stats + (row - 2), tl.sum(total))


@triton.jit
def _distance_slope(z, k, largest, lam, rho, boundary, numbers, plan):
    """The derivative of margin or cals in the distance of class k, up to factors that all voxels share."""
    excess = largest - z - numbers.margin
    if plan.penalty == CALS:
        slope = _multiplier(rho, k, boundary, plan) * (excess * numbers.inverse_norm)
        return _larger(slope + _multiplier(lam, k, boundary, plan), 0.0)
    elif plan.power == 1:
        return tl.where(excess > 0, 1.0, 0.0)
    else:
        return 2 * _excess(z, largest, numbers, plan)


@triton.jit
def _pull(plane, largest, lam, rho, boundary, numbers, plan):
    """What the distances do to each of the classes that tie for the largest logit."""
    pull, ties = _none(plan), _none(plan)
    for i in range(plan.chunks):
        z = _logits(plane, i, plan)
        for j in tl.static_range(plan.chunk):
            slope = _distance_slope(z[j], i * plan.chunk + j, largest, lam, rho, boundary, numbers, plan)
            pull += _if_class(slope, i, j, plan)
            ties += (z[j] == largest).to(tl.float32)
    return pull / ties


@triton.jit
def _signed(size, value):
    """size with the sign of value, 0 where that is 0."""
    return tl.where(value > 0, size, tl.where(value < 0, -size, 0.0))


@triton.jit
def _shared(plane, largest, window, lam, rho, numbers, plan):
    """What the gradients of all classes of a voxel share: the pull at the largest, or the slope of the mean."""
    shared = _none(plan)
    if plan.penalty == MARGIN or plan.penalty == CALS:
        shared = _pull(plane, largest, lam, rho, window.boundary, numbers, plan)
    if plan.class_mean:
        h = (_mean_violation(plane, window, numbers, plan),)
        _, slopes = _constraints(h, 0, lam, rho, window.boundary, plan)
        shared = slopes[0]
    return shared


@triton.jit
def _penalty_gradient(z, share, k, largest, shared, lam, rho, boundary, numbers, plan):
    """The gradient of the penalty in the logit of class k, up to factors that all voxels share."""
    if plan.penalty == ACLS:  # to the others the largest logit is a constant
        above = tl.where(z == largest, _larger(z - numbers.margin, 0.0), 0.0)
        below = _larger(largest - z - numbers.margin, 0.0)
        return 2 * (numbers.weight_top * above - numbers.weight_rest / (plan.classes - 1) * below)
    elif plan.penalty == NEIGHBOR:
        away = z - share
        if plan.class_mean:
            return _signed(shared, away)
        else:
            slope = _signed(_multiplier(lam, k, boundary, plan), away)
            return slope + _multiplier(rho, k, boundary, plan) * away
    else:
        slope = _distance_slope(z, k, largest, lam, rho, boundary, numbers, plan)
        return tl.where(z == largest, shared, 0.0) - slope


@triton.jit
def _gradient(z, k, label, largest, mass, outer, numbers, plan):
    """outer (p_k sum_j t_j - t_k), where mass = outer sum_j t_j / sum_j e^(z_j - max z)."""
    value = _none(plan)
    if plan.target:
        value = mass * _exp(z - largest)
        if plan.smooth:
            value -= outer * tl.where(label == k, numbers.own, numbers.rest)
        else:
            value -= tl.where(label == k, outer, 0.0)
    return value


@triton.jit
def _mass(plane, largest, outer, numbers, plan):
    """See `_gradient`."""
    mass = outer / _exponentials(plane, largest, plan)
    if plan.smooth:
        mass *= numbers.own + (plan.classes - 1) * numbers.rest
    return mass


@triton.jit
def _upstream(grad_ce, grad_penalty, stats, numbers, plan):
    """What the gradients of both parts are multiplied by."""
    voxels = tl.maximum(tl.load(stats).to(tl.float32), 1.0)
    inner = tl.load(grad_penalty).to(tl.float32) / voxels
    if plan.penalty == NEIGHBOR:
        inner *= numbers.scale
    if plan.penalty == CALS:
        inner *= numbers.inverse_norm
    if plan.penalty != ACLS:
        inner *= 1 / plan.classes
    return tl.load(grad_ce).to(tl.float32) / voxels, inner


@triton.jit
def backward_kernel(
    grad_ce, grad_penalty, logits, labels, lam, rho, stats, gradient, volume, steps, ignore, numbers, plan
):
    """The gradient of grad_ce cross-entropy + grad_penalty penalty."""
    tile, _ = _tile(volume, steps, plan)
    step = volume.height * volume.width
    stride = tl.cast(volume.voxels, tl.int64)
    offset = tile.sample * plan.classes * stride + tl.cast(tile.start, tl.int64) * step
    logits += offset
    gradient += offset
    labels += tile.sample * stride
    carried = _before(labels, tile, volume, ignore, plan)
    outer, inner = _upstream(grad_ce, grad_penalty, stats, numbers, plan)
    for d in range(tile.start, tile.stop):
        label = tl.load(labels + tl.cast(d, tl.int64) * step + tile.p, mask=tile.inside, other=0).to(tl.int32)
        plane = Plane(logits, stride, tile.p, tile.inside)
        largest = _largest(plane, plan)
        mass = _mass(plane, largest, outer, numbers, plan)
        window, carried = _window(carried, labels, label, d, tile, volume, ignore, numbers, plan)
        shared = _shared(plane, largest, window, lam, rho, numbers, plan)
        for i in range(plan.chunks):
            z = _logits(plane, i, plan)
            shares = z
            if plan.penalty == NEIGHBOR:
                shares = _shares(window, i, plan)
            for j in tl.static_range(plan.chunk):
                k = i * plan.chunk + j
                value = _gradient(z[j], k, label, largest, mass, outer, numbers, plan)
                if plan.penalty:
                    value += inner * _penalty_gradient(
                        z[j], shares[j], k, largest, shared, lam, rho, window.boundary, numbers, plan
                    )
                if plan.ignoring:
                    value = tl.where(label == ignore, 0.0, value)
                place = gradient + tl.cast(k, tl.int64) * stride + tile.p
                tl.store(place, value.to(gradient.dtype.element_ty), mask=tile.inside & (k < plan.classes))
        logits += step
        gradient += step
