"""Write the inputs that fuzzing starts from, small phantoms as other tools write them: python -m fuzz.seeds"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator

import nibabel as nib
import numpy as np

from fuzz.targets import CORPUS
from medcalib.config.bundled import bundled

Inputs = Iterator[tuple[str, bytes]]
LABEL = np.zeros((3, 4, 5), np.uint8)
LABEL[1] = 1
PROBS = np.stack([0.75 - LABEL * 0.5, 0.25 + LABEL * 0.5]).astype(np.float32)


def config() -> Inputs:
    """The shipped configs, and one with many options."""
    for name, path in bundled().items():
        yield name, path.read_bytes()
    yield (
        "options",
        b"name: t\ndata:\n  layout: {name: files, images: ['{case}.nii.gz'], patient: '(.+)_.*'}\n"
        b"  labels: {background: 0, a: [1, 2]}\n  composites: {u: [a]}\n  ignore_label: 9\n"
        b"split: {name: listed, train: [p1], val: [p2]}\n"
        b"loss: {name: custom, terms: [{term: cross_entropy}, {term: {name: margin, margin: 5}, weight: 1e-1}]}\n"
        b"model: {name: dynunet}\ntrain: {patch_size: [32, 32, 8], lr: 1e-3}\nscore: {bins: 20, edges: left}\n",
    )
    yield "override", b"--set train.lr=.5e-2--set loss={name: mbls, margin: 5}"
    yield "override_steers", b"--set a\x1bb"
    yield "override_list", b"--set train.patch_size=[16, 16, 8]--set data.exclude=[a, 'b']"
    yield "quoted", b'name: "a\\tb"\ndata: {c: [1, ~, "\\u00e9"]}\n? x\n: |\n  y\n'


def nifti() -> Inputs:
    """Volumes of several types, scaled and in both versions of the format."""
    for dtype in ("uint8", "int16", "float32", "float64"):
        yield dtype, nib.Nifti1Image(LABEL.astype(dtype), np.diag([1.5, 1.5, 3, 1])).to_bytes()
    four = nib.Nifti1Image(np.moveaxis(PROBS, 0, -1), np.eye(4))
    four.header.set_slope_inter(0.5, 0.25)
    yield "four", four.to_bytes()
    yield "two", nib.Nifti2Image(LABEL, np.eye(4)).to_bytes()
    turned = nib.Nifti1Image(LABEL, np.array([[0, -2.0, 0, 1], [2, 0, 0, 3], [0, 0, 4, 5], [0, 0, 0, 1]]))
    turned.header["sform_code"], turned.header["qform_code"] = 0, 1
    yield "qform", turned.to_bytes()
    swapped = nib.Nifti1Image(LABEL.astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">"))
    yield "big_endian", swapped.to_bytes()
    yield "gzip", gzip.compress(four.to_bytes(), mtime=0)


def arrays() -> Inputs:
    """Arrays in either order of axes and of memory, and archives of them."""
    for name, array in {
        "kji": PROBS.transpose(0, 3, 2, 1),
        "ijk": PROBS,
        "fortran": np.asfortranarray(PROBS),
        "half": PROBS.astype(np.float16),
        "bytes": np.eye(2, dtype=np.uint8)[:, LABEL],
    }.items():
        yield name, _npy(array)
    for key, kind in (("probabilities", zipfile.ZIP_DEFLATED), ("softmax", zipfile.ZIP_STORED)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", kind) as archive:
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), _npy(PROBS.transpose(0, 3, 2, 1)))
        yield key, stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def sidecar() -> Inputs:
    """Sidecars, descriptions of nnU-Net 1 and 2, an index."""
    classes = {"class_names": ["background", "a"], "codes": [[0], [1]]}
    for name, content in {
        "own": {**classes, "activation": "softmax", "ignore_code": 9},
        "logits": {**classes, "activation": "logits"},
        "regions": {**classes, "activation": "sigmoid", "groups": {"x": [1], "y": [0, 1]}},
        "options": {"axes": "ijk", "scale": 1.0},
        "nnunet2": {"labels": {"background": 0, "a": 1, "ignore": 2}},
        "nnunet1": {"labels": {"0": "background", "1": "a"}},
        "painted": {"labels": {"background": 0, "w": [1, 2], "c": 2}, "regions_class_order": [1, 2]},
        "plans": {"image_reader_writer": "SimpleITKIO"},
        "infinite": {"class_names": ["background", "a"], "codes": [[0], [float("inf")]]},
        "no_code": {"labels": {"background": 0, "a": 1, "ignore": []}},
        "index": {"cases": ["c1", "c2"], "method": {"name": "m"}},
    }.items():
        yield name, json.dumps(content).encode()


def main() -> None:
    """Write all of them."""
    for make in (config, nifti, arrays, sidecar):
        for name, content in make():
            path = CORPUS / make.__name__ / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


if __name__ == "__main__":
    main()
