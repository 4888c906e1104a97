"""The phantom: exact marginals, drawn-looking labels, and the files of every layout."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from medcalib.data.phantom import ANATOMIES, LAYOUTS, make_case, write_dataset
from medcalib.data.phantom.fields import gaussian_field, gumbel_from_gaussian, sample_labels
from medcalib.data.phantom.geometry import Geometry, carve, ellipsoid
from medcalib.data.phantom.model import logits_of, make_geometry, posterior_of

SMALL = {"heart": (32, 32, 6), "tumor": (32, 36, 28), "abdomen": (40, 36, 14), "hippocampus": (24, 30, 22)}
LAYOUT_ANATOMY = {
    "acdc": "heart",
    "brats": "tumor",
    "flare": "abdomen",
    "msd": "hippocampus",
    "nnunet": "tumor",
}
CODES = {
    "acdc": {0, 1, 2, 3},
    "brats": {0, 1, 2, 4},
    "flare": set(range(14)),
    "msd": {0, 1, 2},
    "nnunet": {0, 1, 2, 3},
}


def write_small(layout: str, cases: int, out: Path, seed: int = 3) -> Path:
    return write_dataset(layout, cases, seed, out, shape=SMALL[LAYOUT_ANATOMY[layout]])


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


# --- fields ---


def test_field_weights_have_unit_norm():
    """The field is linear in the noise: its response to each unit impulse gives the variance exactly."""

    class Impulse:
        def standard_normal(self, shape):
            noise = np.zeros(shape)
            noise[0, 3, 2] = 1.0
            return noise

    for length in (0.3, 2.0, 30.0):  # from a fraction of a voxel to far beyond the grid
        response = gaussian_field(Impulse(), (6, 9, 5), (1.0, 2.0, 8.0), length)
        # By periodicity the response of one voxel to all impulses is this array, shifted and mirrored.
        assert (response**2).sum() == pytest.approx(1.0, abs=1e-12)


def test_field_moments_over_draws():
    rng = np.random.default_rng(0)
    draws = np.stack([gaussian_field(rng, (6, 7, 5), (1, 1, 2), 1.5) for _ in range(1500)])
    # Six standard errors: 1/sqrt(n) for the mean, sqrt(2/n) for the variance.
    assert np.abs(draws.mean(axis=0)).max() < 6 / np.sqrt(1500)
    assert np.abs(draws.var(axis=0) - 1).max() < 6 * np.sqrt(2 / 1500)
    assert stats.kstest(draws[:, 0, 0, 0], "norm").pvalue > 1e-4


def test_field_correlation_follows_distance_in_mm():
    rng = np.random.default_rng(1)
    draws = np.stack([gaussian_field(rng, (40, 40, 12), (1.0, 2.0, 3.0), 3.0) for _ in range(60)])
    for axis, step in ((1, 1.0), (2, 2.0), (3, 3.0)):
        measured = (draws * np.roll(draws, 1, axis=axis)).mean()
        assert measured == pytest.approx(np.exp(-(step**2) / 36), abs=0.04)


def test_gumbel_is_finite_and_monotone_in_the_far_tails():
    z = np.array([-30.0, -8.0, 0.0, 8.0, 12.0])
    gumbel = gumbel_from_gaussian(z)
    assert np.isfinite(gumbel).all()
    assert (np.diff(gumbel) > 0).all()
    assert gumbel[2] == pytest.approx(-np.log(np.log(2)))


# --- the posterior is the distribution of the label ---


def frequencies(logits: np.ndarray, draws: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = np.zeros(logits.shape, dtype=np.int64)
    for _ in range(draws):
        labels = sample_labels(logits, rng, (1.5, 1.5, 8.0), 1.2)
        counts += labels == np.arange(len(logits))[:, None, None, None]
    return counts


@pytest.fixture(scope="module")
def drawn():
    grid, geometry = make_geometry("heart", 5, 0, (24, 24, 6))
    del grid
    return posterior_of(geometry), frequencies(logits_of(geometry), 400, seed=7), 400


def test_marginals_are_the_posterior_at_every_voxel(drawn):
    """Bernstein's bound at a total error probability of 1e-6 over all voxels and classes."""
    posterior, counts, draws = drawn
    log_term = np.log(2 * posterior.size / 1e-6)
    bound = np.sqrt(2 * posterior * (1 - posterior) * log_term / draws) + 2 * log_term / (3 * draws)
    assert (np.abs(counts / draws - posterior) <= bound).all()


def chi_square_per_cell(posterior: np.ndarray, counts: np.ndarray, draws: int) -> float:
    """Mean of `(n - N pi)^2 / (N pi (1 - pi))` over cells with enough counts; its expectation is 1."""
    cells = (posterior * draws > 5) & ((1 - posterior) * draws > 5)
    expected = draws * posterior[cells]
    return float(np.mean((counts[cells] - expected) ** 2 / (expected * (1 - posterior[cells]))))


def test_overall_chi_square_accepts_the_posterior_and_rejects_others(drawn):
    """Some 1000 independent cells of variance 2 (noise spans a few voxels) give an error of 0.045."""
    posterior, counts, draws = drawn
    assert chi_square_per_cell(posterior, counts, draws) == pytest.approx(1.0, abs=0.2)
    warmer = posterior ** (1 / 1.15)
    assert chi_square_per_cell(warmer / warmer.sum(axis=0), counts, draws) > 1.3


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_posterior_sums_to_one(anatomy):
    case = make_case(anatomy, 0, 1, SMALL[anatomy])
    assert case.posterior.dtype == np.float32
    assert np.abs(case.posterior.sum(axis=0, dtype=np.float64) - 1).max() < 1e-6
    assert case.posterior.shape == (len(case.class_names), *case.labels.shape)


@pytest.mark.parametrize(
    ("anatomy", "pair"), [("heart", (2, 3)), ("tumor", (1, 3)), ("hippocampus", (1, 2)), ("tumor", (2, 3))]
)
def test_boundary_is_ambiguous_between_its_two_sides_only(anatomy, pair):
    """Where two classes tie, most often the others lie 2 widths away and have little probability."""
    ties, clear = 0, 0
    for index in range(3):
        geometry = make_geometry(anatomy, 2, index)[1]
        distances, posterior = geometry.distances_mm, posterior_of(geometry)
        others = [k for k in range(len(distances)) if k not in pair]
        tie = (np.abs(distances[list(pair)]) < 0.3 * geometry.width_mm).all(axis=0)
        far = tie & (distances[others] < -2 * geometry.width_mm).all(axis=0)
        # each other class at most exp(-2), each side at least exp(-0.3)
        bound = len(others) * np.exp(-2) / (2 * np.exp(-0.3))
        assert (posterior[others].sum(axis=0)[far] <= bound).all()
        assert (posterior[0][far] <= np.exp(-2) / (2 * np.exp(-0.3))).all()
        ties, clear = ties + tie.sum(), clear + far.sum()
    assert clear > 0.5 * ties > 0


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_exactly_one_distance_is_positive_away_from_boundaries(anatomy):
    _, geometry = make_geometry(anatomy, 0, 2, SMALL[anatomy])
    ordered = np.sort(geometry.distances_mm, axis=0)
    assert (ordered[-1] >= 0).all()
    assert (ordered[-2] <= 1e-9).all()


def test_carved_solids_share_a_border_without_background():
    first = np.array([[2.0, 1.0, 0.0, -1.0, -4.0]])
    second = np.array([[-1.0, 3.0, 3.0, 3.0, -2.0]])
    distances = carve(np.stack([first, second]))
    np.testing.assert_array_equal(distances[1], first)
    np.testing.assert_array_equal(distances[2], [[-2.0, -1.0, 0.0, 1.0, -2.0]])
    np.testing.assert_array_equal(distances[0], [[-2.0, -3.0, -3.0, -3.0, 2.0]])


def test_ellipsoid_distance_of_a_sphere_is_exact():
    points = np.stack(np.meshgrid(*[np.linspace(-9, 9, 7)] * 3, indexing="ij"))
    expected = 5 - np.sqrt((points**2).sum(axis=0))
    np.testing.assert_allclose(ellipsoid(points, (0, 0, 0), (5, 5, 5)), expected, atol=1e-5)


# --- cases ---


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_image_ignores_the_label_noise(anatomy):
    one, two = (make_case(anatomy, 4, 0, SMALL[anatomy], rater=r) for r in (0, 1))
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.posterior, two.posterior)
    assert (one.labels != two.labels).any()


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_cases_and_seeds_differ(anatomy):
    cases = [make_case(anatomy, seed, index, SMALL[anatomy]) for seed, index in ((0, 0), (0, 1), (1, 0))]
    for other in cases[1:]:
        assert (cases[0].images != other.images).mean() > 0.2
        assert (cases[0].labels != other.labels).any()


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_shape_keeps_the_field_of_view(anatomy):
    (grid, default), (small_grid, small) = (make_geometry(anatomy, 0, 0, s) for s in (None, SMALL[anatomy]))
    assert small.width_mm.shape == SMALL[anatomy]
    np.testing.assert_allclose(grid.extent_mm, small_grid.extent_mm)
    shares = [posterior_of(geometry)[1:].sum(axis=0).mean() for geometry in (default, small)]
    assert shares[1] == pytest.approx(shares[0], rel=0.25)  # another grid draws another deformation


def test_systole_has_a_smaller_cavity_and_the_same_grid():
    diastole, systole = (make_case("heart", 0, 0, phase=phase) for phase in ("ED", "ES"))
    assert diastole.spacing_mm == systole.spacing_mm
    volumes = [case.posterior[3].sum() for case in (diastole, systole)]
    assert 0.2 < volumes[1] / volumes[0] < 0.7


def test_tumor_without_rim_occurs_in_about_one_of_eight():
    geometries = (make_geometry("tumor", 0, index, (16, 16, 16))[1] for index in range(60))
    absent = sum(posterior_of(geometry)[3].max() < 1e-6 for geometry in geometries)
    assert 1 <= absent <= 18  # 60 draws at 1/8: outside with a probability below 1e-3


def test_every_organ_exists_and_sizes_span_two_orders():
    _, geometry = make_geometry("abdomen", 0, 1)
    voxels = np.bincount(geometry.distances_mm.argmax(axis=0).ravel(), minlength=14)[1:]
    assert voxels.min() >= 5
    assert voxels.max() >= 100 * voxels.min()


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_labels_are_drawn_not_salt_and_pepper(anatomy):
    """Neighbors in plane disagree little more often than in the smooth argmax of the posterior."""
    case = make_case(anatomy, 6, 0, (48, 48, 12))
    best = case.posterior.argmax(axis=0)
    rates = [(np.diff(volume.astype(int), axis=0) != 0).mean() for volume in (case.labels, best)]
    assert rates[0] < 2 * rates[1]


# --- the oracle scored against the labels ---


def oracle(anatomy: str, cases: int, shape=None) -> tuple[float, float]:
    """Foreground Dice of argmax pi, mean over classes, and 15-bin top-label ECE of pi near the foreground."""
    overlap = np.zeros((3, len(ANATOMIES[anatomy].class_names)))
    sums = np.zeros((3, 15))
    for index in range(cases):
        case = make_case(anatomy, 11, index, shape)
        best, confidence = case.posterior.argmax(axis=0), case.posterior.max(axis=0)
        right = best == case.labels
        for row, member in enumerate((case.labels[right], case.labels, best)):
            overlap[row] += np.bincount(member.ravel(), minlength=overlap.shape[1])
        region = case.posterior[0] < 0.999
        bins = np.minimum((confidence[region] * 15).astype(int), 14)
        for row, value in enumerate((np.ones(region.sum()), confidence[region], right[region])):
            sums[row] += np.bincount(bins, weights=value, minlength=15)
    dice = 2 * overlap[0] / (overlap[1] + overlap[2])
    return float(dice[1:].mean()), float(np.abs(sums[1] - sums[2]).sum() / sums[0].sum())


@pytest.mark.parametrize(
    ("anatomy", "cases"), [("heart", 12), ("tumor", 3), ("abdomen", 2), ("hippocampus", 12)]
)
def test_bayes_classifier_is_good_but_not_perfect(anatomy, cases):
    """ECE of the truth is sampling error: a case holds some hundreds of independent boundary patches.

    With n independent patches in all the gap of 15 bins is about sqrt(15 p (1 - p) / n) with p (1 - p) < 0.15,
    that is below 0.03 for n > 2500.
    """
    dice, ece = oracle(anatomy, cases)
    assert 0.8 <= dice <= 0.97
    assert ece < 0.03


# --- files ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_repeat_and_do_not_depend_on_the_number_of_cases(layout, tmp_path):
    again, two, three = tmp_path / "again", tmp_path / "two", tmp_path / "three"
    files = [digests(write_small(layout, n, out)) for n, out in ((1, again), (1, two), (3, three))]
    assert files[0] == files[1]
    volumes = [{Path(name).name: d for name, d in f.items() if name.endswith(".nii.gz")} for f in files[1:]]
    for name, digest in volumes[0].items():
        assert volumes[1][name] == digest


def test_another_seed_gives_other_files(tmp_path):
    one, two = (digests(write_small("msd", 1, tmp_path / str(seed), seed)) for seed in (0, 1))
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one if name.endswith(".nii.gz"))


EXPECTED = {
    "brats": lambda: (
        {"name_mapping.csv", "survival_info.csv"}
        | {
            f"{c}/{c}_{m}.nii.gz"
            for c in ("BraTS20_Training_001", "BraTS20_Training_002")
            for m in ("t1", "t1ce", "t2", "flair", "seg", "posterior")
        }
    ),
    "flare": lambda: {
        f"{folder}/FLARE22_Tr_000{i}{end}.nii.gz"
        for i in (1, 2)
        for folder, end in (("images", "_0000"), ("labels", ""), ("labels", "_posterior"))
    },
    "msd": lambda: (
        {"dataset.json", "imagesTs/hippocampus_test_001.nii.gz"}
        | {
            f"{folder}/hippocampus_00{i}{end}.nii.gz"
            for i in (1, 2)
            for folder, end in (("imagesTr", ""), ("labelsTr", ""), ("labelsTr", "_posterior"))
        }
    ),
    "nnunet": lambda: (
        {"dataset.json"}
        | {f"imagesTr/tumor_00{i}_000{c}.nii.gz" for i in (1, 2) for c in range(4)}
        | {f"labelsTr/tumor_00{i}{end}.nii.gz" for i in (1, 2) for end in ("", "_posterior")}
    ),
}


@pytest.mark.parametrize("layout", EXPECTED)
def test_layout_writes_exactly_its_files(layout, tmp_path):
    assert set(digests(write_small(layout, 2, tmp_path / "data"))) == EXPECTED[layout]()


def info_of(folder: Path) -> dict[str, str]:
    return dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())


def test_acdc_files_and_frames(tmp_path):
    root = write_small("acdc", 5, tmp_path)
    training, testing = (
        [p.name for p in sorted((root / part).iterdir())] for part in ("training", "testing")
    )
    assert training == [f"patient00{i}" for i in (1, 2, 3, 4)]
    assert testing == ["patient005"]
    starts = []
    for folder in [*(root / "training").iterdir(), *(root / "testing").iterdir()]:
        info = info_of(folder)
        assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        assert int(info["ED"]) < int(info["ES"]) <= int(info["NbFrame"])
        starts.append(int(info["ED"]))
        frames = [f"{folder.name}_frame{int(info[phase]):02d}" for phase in ("ED", "ES")]
        names = {f"{frame}{end}.nii.gz" for frame in frames for end in ("", "_gt", "_posterior")}
        assert {p.name for p in folder.iterdir()} == names | {"Info.cfg"}
    assert sorted(starts) == [1, 1, 1, 1, 4]


def test_one_acdc_patient_is_for_training(tmp_path):
    root = write_small("acdc", 1, tmp_path)
    assert [p.name for p in root.iterdir()] == ["training"]


def labels_of(layout: str, root: Path) -> list[tuple[Path, Path, Path]]:
    """(label, image, posterior) of every case."""
    found = []
    for posterior in sorted(root.rglob("*_posterior.nii.gz")):
        stem = posterior.name.removesuffix("_posterior.nii.gz")
        label_end = {"acdc": "_gt", "brats": "_seg"}.get(layout, "")
        image_end = {"brats": "_t1ce", "flare": "_0000", "nnunet": "_0002"}.get(layout, "")
        folder = {"flare": root / "images", "msd": root / "imagesTr", "nnunet": root / "imagesTr"}.get(layout)
        image = (folder or posterior.parent) / f"{stem}{image_end}.nii.gz"
        found.append((posterior.with_name(f"{stem}{label_end}.nii.gz"), image, posterior))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_volumes_agree_in_grid_type_and_codes(layout, tmp_path):
    root = write_small(layout, 2, tmp_path)
    seen: set[int] = set()
    for label, image, posterior in [[nib.load(p) for p in paths] for paths in labels_of(layout, root)]:
        assert label.get_data_dtype() == np.uint8
        assert image.get_data_dtype() == (np.float32 if layout == "msd" else np.int16)
        assert label.shape == image.shape == posterior.shape[:3]
        assert posterior.shape[3] == len(CODES[layout])
        assert posterior.get_data_dtype() == np.float32
        np.testing.assert_array_equal(label.affine, image.affine)
        np.testing.assert_allclose(label.header.get_zooms(), np.abs(np.diag(label.affine))[:3], rtol=1e-6)
        assert np.sign(label.affine[0, 0]) == (-1 if layout in ("acdc", "brats", "nnunet") else 1)
        seen |= set(np.unique(np.asarray(label.dataobj)).tolist())
    missing = {7, 8} if layout == "flare" else set()  # a small grid may miss the adrenal glands
    assert CODES[layout] - missing <= seen <= CODES[layout]


def test_brats_is_skull_stripped_and_codes_follow_the_classes(tmp_path):
    root = write_small("brats", 1, tmp_path)
    case = make_case("tumor", 3, 0, SMALL["tumor"])
    folder = root / "BraTS20_Training_001"
    written = np.asarray(nib.load(folder / "BraTS20_Training_001_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(written, np.array([0, 1, 2, 4])[case.labels])
    for channel, name in enumerate(("t1", "t1ce", "t2", "flair")):
        image = np.asarray(nib.load(folder / f"BraTS20_Training_001_{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(image, case.images[channel])
        assert (image == 0).mean() > 0.3
        assert (image[[0, -1]] == 0).all()


def test_dataset_json_of_msd_and_nnunet(tmp_path):
    msd = write_dataset("msd", 2, 0, tmp_path, anatomy="tumor", shape=SMALL["tumor"])
    description = json.loads((msd / "dataset.json").read_text())
    assert msd.name == "Task90_Phantom"
    assert description["modality"] == {"0": "t1", "1": "t1ce", "2": "t2", "3": "flair"}
    assert description["labels"] == {"0": "background", "1": "NCR", "2": "ED", "3": "ET"}
    for entry in description["training"]:
        assert entry["image"].startswith("./imagesTr/")
        assert nib.load(msd / entry["image"]).shape == (*SMALL["tumor"], 4)
        assert (msd / entry["label"]).is_file()
    nnunet = write_dataset("nnunet", 1, 0, tmp_path, anatomy="abdomen", shape=SMALL["abdomen"])
    description = json.loads((nnunet / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"}
    assert description["labels"]["left kidney"] == 13
    assert description["numTraining"] == 1


def test_gzip_headers_hold_no_clock(tmp_path):
    root = write_small("msd", 1, tmp_path)
    data = (root / "labelsTr" / "hippocampus_001.nii.gz").read_bytes()
    assert data[4:8] == b"\0\0\0\0"
    assert gzip.decompress(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dicom", 1, 0), "unknown layout 'dicom'"),
        (("acdc", 0, 0), "cases must be at least 1"),
        (("acdc", 1, -1), "seed at least 0"),
        (("acdc", 1, 0, "tumor"), "goes with anatomy heart"),
        (("msd", 1, 0, "knee"), "unknown anatomy 'knee'"),
        (("msd", 1, 0, None, (8, 8, 8)), "shape must have three entries"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, tmp_path):
    layout, cases, seed, *rest = arguments
    with pytest.raises(ValueError, match=message):
        write_dataset(layout, cases, seed, tmp_path / "data", *rest)


def test_a_filled_folder_is_refused(tmp_path):
    write_small("msd", 1, tmp_path)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_small("msd", 1, tmp_path)


def test_geometry_is_positive_where_it_must_be():
    for anatomy in ANATOMIES:
        geometry: Geometry = make_geometry(anatomy, 0, 0, SMALL[anatomy])[1]
        assert geometry.width_mm.min() > 0
        assert np.isfinite(geometry.distances_mm).all()
        assert np.isfinite(geometry.tissue).all()
