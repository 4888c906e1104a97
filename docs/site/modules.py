"""What the Python reference shows, page by page: its first words, then what is below medcalib.PAGE; all, if nothing."""

from __future__ import annotations

MODULES: dict[str, tuple[str, str]] = {
    "losses": (
        "Objectives for any trainer: `medcalib.losses.build(name, num_classes)`. They know only torch and numpy.",
        """build names parameters term_parameters build_terms objective term registry.Recipe reduction.valid_mean
        multipliers state.RunningSums schedule cross_entropy dice
        focal adafocal entropy brier uniform mmce mdca dca cpc margin acls cals svls nacl crac ace sdc""",
    ),
    "metrics": (
        "Scores as values: counts that add up, and functions of them.",
        """calibration case score regions overlap surface volume sums brier_parts thresholded squared selective
        error_overlap qu_brats across intervals paired over_seeds ranks summary protocols""",
    ),
    "calibrators": (
        "Maps of logits to logits that are fitted after training. They know only torch and numpy; scipy inside a fit.",
        """build load names parameters calibrator.Calibrator voxels.Voxels temperature classwise_temperature
        region_temperature focal_temperature ensemble_temperature local_temperature affine isotonic histogram""",
    ),
    "data": (
        "Cases, layouts of data sets, splits, and volumes that are read with every check.",
        """case layouts.acdc layouts.brats layouts.flare layouts.msd layouts.nnunet layouts.files labels load nifti
        splits transforms phantom phantom.model phantom.write predictions""",
    ),
    "ops": (
        "Tensor operations: tensors in, tensors out.",
        "neighborhood image_weights scoring distance backend",
    ),
    "integrations": (
        "The exact calibration scores inside other people's loops, each module over one library.",
        "pooled monai ignite torchmetrics",
    ),
    "engine": (
        "What the commands call: training, prediction, scoring, repair, comparison.",
        "train predict evaluate merge shards calibrate fit_samples.Sampling apply checkpoint tracking provenance",
    ),
    "report": (
        "Maps, figures and pages, from saved scores.",
        """html plots plots.reliability plots.before_after plots.gaps plots.cases plots.confidence_histogram
        plots.reliability_histogram plots.risk_coverage plots.methods plots.distance plots.overlay plots.pareto
        plots.sweep plots.ranks plots.style maps.case maps.kinds maps.window maps.cohort maps.write comparison.text
        comparison.write text slices.display""",
    ),
    "config": (
        "YAML in, a frozen `RunConfig` out. Every key: [config](../config.md).",
        "load dump json_schema schema.RunConfig schema.DataConfig schema.TrainConfig bundled",
    ),
    "errors": (
        "What medcalib raises on purpose; each error carries the exit code of the command line.",
        "",
    ),
}
