"""The bad inputs and faults that medcalib must survive, by number: what happens, and what is expected then.

`@pytest.mark.fault(19, 20)` on a test says which of them it checks; `make reliability` runs those tests and writes
docs/reliability.md from what they did. "Refused" means: one line that names the file, what is wrong and what to do, a
non-zero exit code and nothing half-written. "The case is refused" means: recorded by name with its reason, the other
cases go on, exit code 4.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault and the behaviour that is expected."""

    area: str
    what: str
    expected: str


def _area(name: str, rows: dict[int, tuple[str, str]]) -> dict[int, Fault]:
    return {number: Fault(name, what, expected) for number, (what, expected) in rows.items()}


FAULTS: dict[int, Fault] = {
    **_area(
        "Configs",
        {
            1: ("an unknown key", "refused with file, line, column and a suggestion; all mistakes at once; exit 2"),
            2: ("a key given twice", "refused, both lines named"),
            3: ("`lr: 1e-3`, `x: no`", "read as the number 0.001 and as the string `no` (YAML 1.2)"),
            4: ("a tag such as `!!python/object/apply:os.system`", "refused, nothing executed"),
            5: ("`_target_` keys, strings that begin with `$`", "refused, or a plain string; nothing executed"),
            6: ("an alias or anchor bomb", "refused within a second, in bounded memory"),
            7: ("nesting 20,000 levels deep", "refused within a second, in bounded memory, no traceback"),
            8: ("a file of more than 1 MB", "refused within a second"),
            9: ("a learning rate that is NaN, infinite or negative; a margin <= 0; 0 or 10^9 bins", "refused"),
            10: ("a patch that the network's strides do not divide", "refused, with the nearest sizes"),
            11: (
                "label codes with gaps, no background, a name, code or class twice",
                "refused; codes are joined to classes by name, so gaps (BraTS: 0, 1, 2, 4) are closed exactly",
            ),
            12: (
                "a patient on both sides of a split; an empty split; fractions of 0 or 1",
                "refused; a test share of 0 is a split without a test set",
            ),
            13: ("an empty file, a list, binary, UTF-16, no file", "refused, exit 2"),
            14: (
                "HOME unset or read-only; an output folder that is unwritable or holds another run",
                "refused before any work",
            ),
            15: ("`--set` with a wrong path or type", "refused in the words of a YAML mistake"),
        },
    ),
    **_area(
        "Case ids and paths",
        {
            16: (
                "ids such as `../../evil`, `/abs`, NUL, 300 characters, `CON`, `.hidden`, two that differ by case only",
                "refused",
            ),
            17: ("a symlink in the output folder that leads out of it", "not followed"),
            18: ("a loop of symlinks in the data folder", "the case is refused"),
        },
    ),
    **_area(
        "Image files",
        {
            19: ("a `.nii.gz` or `.nii` cut off at any place", "the case is refused, by every reader"),
            20: ("one flipped bit in a compressed volume", "the case is refused"),
            21: ("a wrong gzip checksum or size", "the case is refused"),
            22: ("an empty file", "the case is refused, the reason says so"),
            23: ("HTML, text or a Git LFS pointer named `.nii.gz`", "the case is refused, the reason says so"),
            24: ("compressed garbage", "the case is refused, the reason says so"),
            25: ("an uncompressed file named `.gz`", "the case is refused, the reason says so"),
            26: ("a header that claims 32767^3 doubles", "refused from the header: under 1 s and 200 MB"),
            27: ("a gzip bomb", "refused while it is read"),
            28: ("4-D labels, 2-D images, axes of length 1 and 0", "refused, but for trailing axes of length 1"),
            29: (
                "complex, RGB, float and scaled labels; int64",
                "refused unless all values are integers; int64 is read",
            ),
            30: (
                "NaN or infinity in an image or a label",
                "by the config's policy (refuse or fill); always refused in a label",
            ),
            31: ("a sheared affine", "scored on its own grid with a warning; resampling is refused"),
            32: (
                "qform and sform that differ, codes 0, a singular or NaN affine",
                "sform with a warning; singular or NaN refused",
            ),
            33: ("image and label of different shape", "the case is refused"),
            34: ("affines further apart than the tolerance in mm", "the case is refused"),
            35: ("the same shape in another orientation", "refused, or reoriented where the affines prove it"),
            36: ("a missing label or channel, an extra file, a channel twice", "refused by `check`"),
            37: ("a label value that no class has", "refused, the values listed; the ignore label is honored"),
            38: (
                "no foreground in a case, in all cases",
                "Dice by the stated rule, ECE defined; training does not crash",
            ),
            39: ("an image of zeros under a foreground crop", "refused, or read whole; never an empty tensor"),
        },
    ),
    **_area(
        "Predictions of other tools",
        {
            40: ("probabilities that do not add up to 1", "the case is refused"),
            41: ("probabilities below 0 or above 1", "the case is refused"),
            42: ("NaN in probabilities", "the case is refused"),
            43: ("voxels whose probabilities are all 0", "the case is refused"),
            44: ("a slab where all classes have 1/C", "scored with a warning that gives its share"),
            45: ("logits given as probabilities, and the reverse", "refused, with a hint"),
            46: ("another number or order of the channels", "refused, with a hint"),
            47: (
                "an nnU-Net `.npz` whose axes are flipped",
                "found by its label map; without one, `--assume-orientation` is asked for",
            ),
            48: (
                "a cropped nnU-Net v1 file, a TotalSegmentator file on the network's grid",
                "refused, the cause named",
            ),
            49: ("sigmoid channels of regions", "scored region by region, no top-label score"),
            50: ("an object array (pickle) in `.npz` or `.npy`", "refused, nothing executed"),
            51: ("an `.npz` bomb", "refused from the member's header"),
            52: ("float16; integers from 0 to 255", "float16 with a note; integers refused without a declared scale"),
            53: ("hard labels given as probabilities", "scored with a warning"),
            54: ("ties, probabilities on a bin's edge, 0 and 1", "by the stated rule"),
            55: ("more than 2^24 voxels in a bin, 2^31 in all", "exact"),
            56: ("a prediction without reference, and the reverse", "counted and reported, exit 4"),
        },
    ),
    **_area(
        "Checkpoints and training",
        {
            57: ("kill -9 at any moment of a run, 20 times", "the last good checkpoint loads; no temporary files stay"),
            58: (
                "a truncated checkpoint, a flipped bit in one",
                "refused, the one before is taken, and the run says so",
            ),
            59: ("a malicious pickle in place of a checkpoint", "refused, its command is not run"),
            60: ("a checkpoint of another network, class count or config", "refused, the keys that differ named"),
            61: (
                "N epochs against k epochs and a resume, one and two ranks, within an epoch",
                "the same bits on a CPU",
            ),
            62: (
                "SIGTERM, SIGUSR1, Ctrl-C once and twice",
                "ends after the step with status `preempted`, exit 75; twice: at once; no orphans",
            ),
            63: ("one rank is killed", "the others end with a readable error"),
            64: ("a NaN loss once, and K times in a row", "skipped and counted; ends and keeps the last good weights"),
            65: ("overflow in half precision", "the scaler backs off; losses compute in float32"),
            66: ("GPU memory runs out", "training says what to change; prediction goes on with less"),
            67: ("a loader worker is killed, a small /dev/shm", "an error that names the cause and `--shm-size`"),
            68: ("the disk is full", "a readable error, old files intact"),
            69: ("a data folder or cache that cannot be written, a stale or corrupt cache", "read; rebuilt by content"),
            70: ("an unknown device, CUDA where there is none", "refused, no silent change to the CPU"),
            71: ("another number of ranks on resume", "as documented"),
        },
    ),
    **_area(
        "Reports and command line",
        {
            72: (
                "markup, templates, newlines and formulas in class names and ids",
                "escaped in HTML, harmless in CSV and logs",
            ),
            73: ("no case scored; one case", "said, exit 4, no table of NaN; intervals n/a"),
            74: ("an optional extra is missing", "one line that says what to install"),
            75: ("a closed pipe, no terminal, no UTF-8, 20 columns", "no traceback"),
            76: ("patient data in NIfTI text fields, extensions, folder names", "absent from every output"),
            77: ("two processes on one folder; a shard given twice", "results as of one; counted once or refused"),
            78: ("another time zone, locale, hash seed, number of workers", "the same bytes but for timestamps"),
        },
    ),
}
