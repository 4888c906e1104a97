"""Which files make a prediction, and files that are damaged, hostile or too large."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from foreign import AFFINES, pair_of, write_nnunet
from helpers import smooth_case
from monai.data import MetaTensor
from monai.transforms import SaveImage
from numpy.testing import assert_array_equal

from medcalib.config.references import paired
from medcalib.data.labels import LabelMap
from medcalib.data.nifti import write_volume
from medcalib.data.predictions import (
    Compared,
    find_predictions,
    input_files,
    list_predictions,
    read_pair,
    spool,
)
from medcalib.errors import DataError

LPS = AFFINES["LPS"]
NAMES = ("background", "left kidney", "b/c")
CLASSES = LabelMap.consecutive(NAMES)
PROBS, TRUE = (t.numpy() for t in smooth_case(7, classes=3, shape=(6, 7, 8)))


@pytest.fixture
def label(tmp_path: Path) -> Path:
    write_volume(tmp_path / "labels/c1.nii.gz", TRUE, LPS)
    return tmp_path / "labels/c1.nii.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pred").mkdir()
    return tmp_path / "pred"


def read(prediction: Path, label: Path, **options: bool) -> Compared:
    return read_pair(pair_of(prediction, label), CLASSES, **options)


def refused(prediction: Path, label: Path, **options: bool) -> str:
    with pytest.raises(DataError, match=prediction.name) as caught:
        read(prediction, label, **options)
    return caught.value.reason


def save_monai(folder: Path, **options: object) -> None:
    image = MetaTensor(PROBS, affine=LPS, meta={"filename_or_obj": "c1.nii.gz", "original_affine": LPS})
    SaveImage(folder, output_dtype=np.float32, print_log=False, **options)(image)


@pytest.mark.parametrize("options", [{}, {"separate_folder": False}, {"output_postfix": "", "separate_folder": False}])
def test_what_monai_saves_is_found_and_read(folder: Path, label: Path, options: dict[str, object]) -> None:
    save_monai(folder, **options)
    found = list_predictions(folder, ["c1"])
    assert list(found) == ["c1"]
    assert_array_equal(read(found["c1"], label).probs, PROBS)


def write_classes(folder: Path, names: list[str], values: np.ndarray = PROBS) -> None:
    for name, channel in zip(names, values, strict=True):
        write_volume(folder / f"{name}.nii.gz", channel, LPS)


@pytest.mark.parametrize(
    "names",
    [
        ["c1_background", "c1_left kidney", "c1_b_c"],
        ["c1_background", "c1_left_kidney", "c1_b_c"],
        ["c1/background", "c1/left_kidney", "c1/b_c"],
        ["c1/c1_background", "c1/c1_left_kidney", "c1/c1_b_c"],
        ["c1_prob_0", "c1_prob_1", "c1_prob_2"],
        ["c1_0000", "c1_0001", "c1_0002"],
        ["c1/0000", "c1/0001", "c1/0002"],
    ],
)
def test_one_file_a_class_is_found_and_read(folder: Path, label: Path, names: list[str]) -> None:
    write_classes(folder, names)
    write_volume(folder / "c1.nii.gz", PROBS.argmax(0).astype(np.uint8), LPS)  # the segmentation beside them
    found, ambiguous = find_predictions(folder, ["c1", "c1_x"])
    assert (found, ambiguous) == ({"c1": folder / "c1"}, {})
    assert_array_equal(read(found["c1"], label).probs, PROBS)
    assert {path.name for path in input_files(found["c1"], CLASSES)} == {f"{Path(name).name}.nii.gz" for name in names}


def test_class_files_in_another_orientation_are_turned_together(folder: Path, label: Path) -> None:
    flip = np.diag([1.0, 1, -1, 1])
    flip[2, 3] = PROBS.shape[3] - 1
    for name, channel in zip(("0000", "0001", "0002"), PROBS, strict=True):
        write_volume(folder / f"c1_{name}.nii", channel[..., ::-1], LPS @ flip)
    assert_array_equal(read(folder / "c1", label).probs, PROBS)
    write_volume(folder / "c1_0002.nii", PROBS[2], LPS)
    assert refused(folder / "c1", label) == "affine_mismatch"


def test_a_missing_class_file_is_named(folder: Path, label: Path) -> None:
    write_classes(folder, ["c1_background", "c1_b_c"], PROBS[:2])
    with pytest.raises(DataError, match="no file for left kidney") as caught:
        read(folder / "c1", label)
    assert caught.value.reason == "channel_count"
    write_classes(folder, ["c1_prob_0", "c1_prob_1", "c1_prob_2"])
    write_classes(folder, ["c1_prob_3"], PROBS[:1])
    with pytest.raises(DataError, match="numbers above 2 have no class"):
        read(folder / "c1", label)


def test_several_sets_of_class_files_are_refused(folder: Path, label: Path) -> None:
    write_classes(folder, ["c1_prob_0", "c1_prob_1", "c1_prob_2"])
    write_classes(folder, ["c1_0000", "c1_0001", "c1_0002"])
    assert refused(folder / "c1", label) == "ambiguous_prediction"


def test_class_files_of_different_types_or_shapes_are_refused(folder: Path, label: Path) -> None:
    write_classes(folder, ["c1_0000", "c1_0001", "c1_0002"])
    write_volume(folder / "c1_0001.nii.gz", PROBS[1].astype(np.float64), LPS)
    with pytest.raises(DataError, match="write all classes alike") as caught:
        read(folder / "c1", label)
    assert caught.value.reason == "mixed_types"
    write_volume(folder / "c1_0001.nii.gz", PROBS[:2].transpose(1, 2, 3, 0), LPS)
    with pytest.raises(DataError, match="is 3-D"):
        read(folder / "c1", label)


def test_several_predictions_of_a_case_are_refused_by_name_and_the_others_paired(folder: Path, label: Path) -> None:
    write_volume(folder / "c1.nii.gz", np.moveaxis(PROBS, 0, -1), LPS)
    write_volume(label.with_name("c2.nii.gz"), TRUE, LPS)
    np.save(folder / "c1.npy", PROBS)
    write_nnunet(folder, PROBS, LPS, case="c2")
    (folder / "dataset.json").write_text(json.dumps({"labels": {name: k for k, name in enumerate(NAMES)}}))
    pairs, refusals, _ = paired(folder, label.parent, None)
    assert [(pair.case.id, pair.prediction.name) for pair in pairs] == [("c2", "c2.npz")]
    (entry,) = refusals
    assert (entry["case"], entry["reason"]) == ("c1", "ambiguous_prediction")
    assert "c1.nii.gz, c1.npy" in entry["message"]


@pytest.mark.fault(56)
def test_56_every_expected_case_without_a_prediction_and_the_reverse_is_named(folder: Path, label: Path) -> None:
    for case in ("c2", "c3"):
        write_nnunet(folder, PROBS, LPS, case=case)
    (folder / "dataset.json").write_text(json.dumps({"labels": {name: k for k, name in enumerate(NAMES)}}))
    write_volume(label.with_name("c2.nii.gz"), TRUE, LPS)
    pairs, refusals, source = paired(folder, label.parent, None)
    assert [pair.case.id for pair in pairs] == ["c2"]
    assert {entry["case"]: entry["reason"] for entry in refusals} == {
        "c1": "missing_prediction",
        "c3": "missing_reference",
    }
    assert source == "labels"


@pytest.mark.fault(46)
def test_a_label_map_alone_is_refused_with_the_option_of_nnunet(folder: Path, label: Path) -> None:
    write_volume(folder / "c1.nii.gz", TRUE, LPS)
    with pytest.raises(DataError, match="--save_probabilities") as caught:
        read(list_predictions(folder)["c1"], label)
    assert caught.value.reason == "channel_count"


def test_what_lies_beside_the_file_of_a_case_is_no_second_prediction(folder: Path, label: Path) -> None:
    write_volume(folder / "c1.nii.gz", np.moveaxis(PROBS, 0, -1), LPS)
    write_classes(folder, ["c1_confidence", "c1_gap", "c1_error"])
    assert find_predictions(folder, ["c1"]) == ({"c1": folder / "c1.nii.gz"}, {})


@pytest.mark.parametrize("separate", [False, True])
def test_a_segmentation_beside_the_probabilities_of_monai_is_none(folder: Path, label: Path, separate: bool) -> None:
    save_monai(folder, output_postfix="prob", separate_folder=separate)
    write_volume(folder / ("c1" if separate else "") / "c1_seg.nii.gz", TRUE, LPS)
    found, ambiguous = find_predictions(folder, ["c1"])
    assert ambiguous == {}
    assert_array_equal(read(found["c1"], label).probs, PROBS)


def test_a_segmentation_alone_is_no_set_of_classes(folder: Path, label: Path) -> None:
    write_volume(folder / "c1_seg.nii.gz", TRUE, LPS)
    with pytest.raises(DataError, match="looks like a label map"):
        read(list_predictions(folder, ["c1"])["c1"], label)


def test_the_longest_known_case_owns_a_file(folder: Path) -> None:
    write_classes(folder, ["c1_a_0000", "c1_a_0001", "c1_a_0002"])
    write_volume(folder / "c1_a_trans.nii.gz", np.moveaxis(PROBS, 0, -1), LPS)
    (folder / "._c1.nii.gz").write_bytes(b"junk")
    (folder / "segmentations").mkdir()
    found, ambiguous = find_predictions(folder, ["c1", "c1_a", "segmentations"])
    assert (found, list(ambiguous)) == ({}, ["c1_a"])
    assert list(find_predictions(folder, ["c1"])[1]) == ["c1"]


def test_files_that_decide_how_an_array_is_read_are_all_inputs(folder: Path) -> None:
    npz = write_nnunet(folder, PROBS, LPS)
    assert {path.name for path in input_files(npz)} == {"c1.npz", "c1.nii.gz", "dataset.json", "plans.json"}


@pytest.mark.fault(47)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 2, 1)])
def test_npy_is_read_in_either_order_of_axes_that_the_label_map_proves(
    folder: Path, label: Path, axes: tuple[int, ...], order: str
) -> None:
    np.save(folder / "c1.npy", np.asarray(PROBS.transpose(axes), order=order))
    assert refused(folder / "c1.npy", label) == "orientation_unproved"
    write_volume(folder / "segmentations/c1.nii.gz", PROBS.argmax(0).astype(np.uint8), LPS)
    assert_array_equal(read(folder / "c1.npy", label).probs, PROBS)


@pytest.mark.fault(47)
def test_npy_without_a_map_is_read_as_declared_or_assumed(folder: Path, label: Path) -> None:
    np.save(folder / "c1.npy", PROBS)
    assert_array_equal(read(folder / "c1.npy", label, assume_orientation=True).probs, PROBS)
    (folder / "c1.json").write_text('{"axes": "kji"}')
    assert refused(folder / "c1.npy", label) == "shape_mismatch"
    np.save(folder / "c1.npy", PROBS.transpose(0, 3, 2, 1))
    found = read(folder / "c1.npy", label)
    assert_array_equal(found.probs, PROBS)
    assert found.warnings == ()
    np.save(folder / "c1.npy", PROBS[:, 1:])
    assert refused(folder / "c1.npy", label) == "shape_mismatch"


@pytest.mark.fault(47)
def test_a_flipped_npy_is_caught(folder: Path, label: Path) -> None:
    np.save(folder / "c1.npy", PROBS[:, ::-1])
    write_volume(folder / "c1.nii.gz", PROBS.argmax(0).astype(np.uint8), LPS)
    assert refused(folder / "c1.npy", label, assume_orientation=True) == "orientation_mismatch"


def test_damage_of_an_npy_is_named(folder: Path, label: Path) -> None:
    np.save(folder / "c1.npy", PROBS)
    whole = (folder / "c1.npy").read_bytes()
    for content, reason in (
        (whole[:-1], "truncated"),
        (whole + b"x", "trailing_data"),
        (whole[:50], "not_npy"),
        (b"", "not_npy"),
        (b"PK" + whole, "not_npy"),
        (whole.replace(b"{'descr'", b"{kdescr'").replace(b"(3, 6,", b"(3,(6,"), "not_npy"),
    ):
        (folder / "c1.npy").write_bytes(content)
        assert refused(folder / "c1.npy", label, assume_orientation=True) == reason
    for array, reason in ((PROBS[0], "bad_shape"), (PROBS.astype(complex), "bad_dtype")):
        np.save(folder / "c1.npy", array)
        assert refused(folder / "c1.npy", label, assume_orientation=True) == reason


class Canary:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.fault(50)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_50_arrays_of_objects_are_refused_and_nothing_is_run(folder: Path, label: Path, ending: str) -> None:
    canary, path = folder / "canary", folder / f"c1.{ending}"
    hostile = np.array([[[[Canary(canary)]]]], dtype=object)
    if ending == "npy":
        np.save(path, hostile, allow_pickle=True)
    else:
        np.savez(path, probabilities=hostile)
    (folder / "c1.pkl").write_bytes(pickle.dumps(Canary(canary)))
    assert refused(path, label, assume_orientation=True) == "pickled_array"
    assert not canary.exists()


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", ["c1.nii.gz", "c1_0000.nii.gz"])
def test_26_a_volume_that_claims_another_grid_is_refused_before_it_is_unpacked(
    folder: Path, label: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (6000, 6000, 6000, 3) if name == "c1.nii.gz" else (6000, 6000, 6000)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_sform(LPS, 1)
    header["dim"][: len(shape) + 1] = len(shape), *shape
    header["pixdim"][1:4] = 2, 3, 4
    for k in range(1 if name == "c1.nii.gz" else 3):
        (folder / name.replace("_0000", f"_000{k}")).write_bytes(gzip.compress(header.binaryblock + bytes(100_000)))
    monkeypatch.setattr(spool, "_temporary", None)  # it would be called
    path = folder / name if name == "c1.nii.gz" else folder / "c1"
    assert refused(path, label) == "shape_mismatch"


def npz_of(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy_bytes(shape: tuple[int, ...], payload: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + payload


@pytest.mark.fault(51)
def test_51_a_bomb_is_refused_from_the_header_of_its_member(folder: Path, label: Path) -> None:
    honest = npz_of(folder / "c1.npz", probabilities=npy_bytes((3, 400, 400, 200), bytes(3 * 400 * 400 * 200 * 4)))
    assert honest.stat().st_size < 500_000  # it declares 384 MB
    tracemalloc.start()
    assert refused(honest, label, assume_orientation=True) == "model_space_npz"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    lying = npz_of(folder / "c1.npz", probabilities=npy_bytes((3, 8, 7, 6), bytes(100_000_000)))
    assert refused(lying, label, assume_orientation=True) == "size_mismatch"
    absurd = npz_of(folder / "c1.npz", probabilities=npy_bytes((3, 2**40, 2**40, 2**40), b""))
    assert refused(absurd, label, assume_orientation=True) == "size_mismatch"


@pytest.mark.fault(51)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_header_that_claims_gigabytes_is_not_read_whole(folder: Path, label: Path, ending: str) -> None:
    """numpy reads as many bytes as a header of version 2 says, here of 200 MB of blanks, before it judges them."""
    content = b"\x93NUMPY\x02\x00" + (4_000_000_000).to_bytes(4, "little") + b" " * 200_000_000
    path = folder / f"c1.{ending}"
    if ending == "npy":
        path.write_bytes(content)
    else:
        npz_of(path, probabilities=content)
    del content
    tracemalloc.start()
    assert refused(path, label, assume_orientation=True) == "not_npy"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.fault(51)
@pytest.mark.parametrize(
    ("method", "flags", "reason"),
    [
        (14, 0, "damaged_npz"),  # LZMA in place of deflate
        (12, 0, "unreadable"),  # bzip2
        (99, 0, "damaged_npz"),  # no method at all
        (8, 0x800, "damaged_npz"),  # names are said to be UTF-8
        (8, 0x1, "encrypted"),
    ],
)
def test_a_damaged_directory_of_an_npz_is_refused(
    folder: Path, label: Path, method: int, flags: int, reason: str
) -> None:
    path = npz_of(folder / "c1.npz", probabilities=npy_bytes((3, 8, 7, 6), PROBS.transpose(0, 3, 2, 1).tobytes()))
    raw = bytearray(path.read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # flags and method, in the member and in the directory
        place = raw.index(start)
        raw[place + at : place + at + 4] = flags.to_bytes(2, "little") + method.to_bytes(2, "little")
        if flags == 0x800:
            name = raw.index(b"probabilities", place)
            raw[name : name + 3] = b"\xff\xfe\xfd"
    path.write_bytes(raw)
    assert refused(path, label, assume_orientation=True) == reason


@pytest.mark.fault(51)
def test_names_in_an_archive_steer_no_terminal(folder: Path, label: Path) -> None:
    npz = npz_of(folder / "c1.npz", **{"a\x1b[31m\nerror: b": b"x"})
    with pytest.raises(DataError) as caught:
        read(npz, label)
    assert str(caught.value).isprintable()


def test_an_archive_must_hold_exactly_one_array_of_a_known_name(folder: Path, label: Path) -> None:
    good = npy_bytes((3, 8, 7, 6), PROBS.transpose(0, 3, 2, 1).tobytes())
    npz = npz_of(folder / "c1.npz", **{"probabilities": good, "../../evil": b"x", "/etc/passwd": b"x"})
    assert_array_equal(read(npz, label, assume_orientation=True).probs, PROBS)
    for members in ({"logits": good}, {}, {"probabilities": good, "softmax": good}):
        assert refused(npz_of(folder / "c1.npz", **members), label) == "npz_keys"


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_flips_and_truncations_of_an_npz_are_noticed(folder: Path, label: Path, compress: object) -> None:
    path = folder / "c1.npz"
    probs, true = (t.numpy() for t in smooth_case(8, classes=3, shape=(20, 21, 22)))
    write_volume(label, true, LPS)
    compress(path, probabilities=probs.transpose(0, 3, 2, 1))
    whole = path.read_bytes()
    assert_array_equal(read(path, label, assume_orientation=True).probs, probs)
    middle = len(whole) // 2  # in the values
    for content in (whole[:middle], whole[:-10], whole[:30], b"", b"<html>", *(
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at, bit in ((middle, 0), (middle + 99, 6))
    )):  # fmt: skip
        path.write_bytes(content)
        assert refused(path, label, assume_orientation=True) == "damaged_npz"


@pytest.mark.parametrize("name", ["c1.nii", "c1.nii.gz"])
def test_a_truncated_or_overlong_volume_is_refused(folder: Path, label: Path, name: str) -> None:
    path = folder / name
    write_volume(path, np.moveaxis(PROBS, 0, -1), LPS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    assert refused(path, label) == ("truncated" if name == "c1.nii" else "damaged_gzip")
    path.write_bytes(whole + bytes(1 << 17) if name == "c1.nii" else whole[:-8] + b"\0" + whole[-7:])
    assert refused(path, label) == ("trailing_data" if name == "c1.nii" else "damaged_gzip")


def test_a_full_disk_is_named_with_the_way_out(folder: Path, label: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "c1.nii.gz"
    write_volume(path, np.moveaxis(PROBS, 0, -1), LPS)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
        assert refused(path, label) == "disk_full"
    full = Path("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full.open("w+b", buffering=0))
    with pytest.raises(DataError, match="set TMPDIR") as caught:
        read(path, label)
    assert caught.value.reason == "disk_full"


def test_a_folder_for_temporary_files_that_is_missing_is_named(
    folder: Path, label: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(folder / "c1.nii.gz", np.moveaxis(PROBS, 0, -1), LPS)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "absent"))
    assert refused(folder / "c1.nii.gz", label) == "no_temporary_file"


def held(place: Path) -> bool:
    """Whether this process has a file below `place` mapped or open."""
    gc.collect()
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return str(place) in Path("/proc/self/maps").read_text() or any(place in link.parents for link in links)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_temporary_files_lie_in_tmpdir_without_a_name_and_go_with_the_pair(
    folder: Path, label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "unpacked"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    npz = write_nnunet(folder, PROBS, LPS)
    (folder / "dataset.json").unlink()

    found = read(npz, label)
    assert (held(place), list(place.iterdir())) == (True, [])
    found.close()
    assert not held(place)
    found = read(npz, label)
    del found
    assert not held(place)
    np.savez_compressed(npz, probabilities=np.nan * PROBS.transpose(0, 3, 2, 1))
    assert refused(npz, label) == "not_finite"
    assert not held(place)


def test_an_array_whose_last_axis_lies_together_is_rearranged_on_disk(
    folder: Path, label: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(folder / "c1.npy", PROBS)
    monkeypatch.setattr(spool, "SMALL_BYTES", 0)
    monkeypatch.setattr(spool, "_BLOCK_BYTES", 500)
    found = read(folder / "c1.npy", label, assume_orientation=True)
    assert_array_equal(found.probs, PROBS)
    assert found.voxels is not None
    assert found.voxels.slow_axis() == 2
    np.save(folder / "c1.npy", np.asfortranarray(PROBS).astype(np.float16))
    assert_array_equal(read(folder / "c1.npy", label, assume_orientation=True).probs, PROBS.astype(np.float16))


MEASURE = """
import sys
from pathlib import Path
from medcalib.data.case import Case
from medcalib.data.labels import LabelMap
from medcalib.data.predictions import Pair, read_pair
classes = LabelMap.consecutive(["background", *(f"c{k}" for k in range(15))])
def peak():  # of ru_maxrss, a child inherits its parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
pair = Pair(Case("c1", "c1", (), Path(sys.argv[2])), Path(sys.argv[1]))
with read_pair(pair, classes, assume_orientation=True) as found:
    total = sum(part.shape[-1] for _, part in found.slabs(1 << 18))
print(total, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("ending", ["nii", "nii.gz", "npz", "npy"])
def test_a_prediction_is_never_whole_in_memory(tmp_path: Path, ending: str) -> None:
    shape, path = (128, 256, 192), tmp_path / f"c1.{ending}"  # 16 channels of it are 384 MiB
    write_volume(tmp_path / "label.nii", np.zeros(shape, np.uint8), LPS)
    probs = np.full((16, *shape), 0.05, np.float32)
    probs[0] = 0.25
    if ending == "npy":
        np.save(path, probs)
    elif ending == "npz":
        np.savez_compressed(path, probabilities=probs.transpose(0, 3, 2, 1))
    else:
        write_volume(path, np.moveaxis(probs, 0, -1), LPS)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "label.nii")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    planes, grown = map(int, done.stdout.split())
    assert planes == 192
    assert grown < 200 * 1024
