"""What the keys of `scores.json` mean. Each formula with its reference is in the docstring of its function."""

DEFINITIONS = {
    "ece": "sum over bins of n_b/N |mean confidence - accuracy| of the top label",
    "classwise_ece": "the same for the probability of one class against its frequency; of a composite, the added "
    "probabilities",
    "ace_bins": "mean over non-empty bins of |mean confidence - accuracy| of the top label (MONAI's ACE)",
    "mce": "largest |mean confidence - accuracy| of a non-empty bin",
    "classwise_ace_bins, classwise_mce": "the same for the probability of one class",
    "ece_equal_mass": "ECE over bins that hold nearly equal numbers of voxels",
    "rms_calibration_error": "root of the mean over voxels of the squared gap of their bin",
    "debiased_squared_error": "mean squared gap less what label noise adds to it, acc (1 - acc) / (n - 1) in each bin; "
    "exact for independent voxels; may be negative (Kumar et al. 2019)",
    "classwise_debiased_squared_error": "the same for the probability of one class",
    "thresholded_ece": "classwise ECE over the voxels with p > 0.001 of the class (mean over classes: TCECE)",
    "brier": "mean over voxels of sum over classes of (p - q)^2",
    "classwise_brier": "mean over voxels of (p - q)^2 of one class",
    "brier_parts": "classwise_brier = reliability - resolution + uncertainty + within_variance - within_covariance "
    "over the bins (Murphy 1973, Stephenson et al. 2008)",
    "nll": "mean over voxels of -log p of the true class, in nats",
    "gap": "mean confidence minus accuracy of the top label: above 0 is overconfident",
    "accuracy": "share of voxels whose top label is right",
    "aurc": "mean error rate of the i most confident voxels over all i; ties in expectation (Geifman et al. 2019)",
    "excess_aurc": "aurc minus that of an order that puts all errors last",
    "uncertainty_error_overlap": "largest Dice over thresholds t of {1 - confidence > t} and {error}, t chosen on the "
    "same voxels (Jungo and Reyes 2019)",
    "uncertainty_error_threshold": "the t at which it is reached",
    "qu_brats": "score = mean of the area under Dice of the voxels with uncertainty 100 (1 - |2p - 1|) <= t and of 1 - "
    "the areas under the shares of true positives and true negatives lost, t = 0, 2, ..., 100, each channel predicted "
    "where p > 0.5 (Mehta et al. 2022)",
    "ece_true": "ECE with the known posterior in place of the sampled labels",
    "posterior_l1": "mean over voxels and classes of |p - known posterior|",
    "dice": "null where a class is absent from reference and prediction, 0 where it is in only one; a composite is "
    "predicted where one of its classes wins, a channel of a region model where p > 0.5",
    "iou, precision, recall": "null where nothing is in the union, predicted, or there",
    "hd95_mm": "95th percentile of the surface distance; null where either mask is empty",
    "surface_dice": "share of the surface voxels of both masks within surface_tolerance_mm of the other's surface; "
    "null and 0 as dice",
    "volume_ml": "predicted is the segmentation's volume, expected the summed probability; error is predicted minus "
    "reference. independent: 95 % interval if voxels erred independently, far too narrow; dependent: from #{p > 0.977} "
    "to #{p > 0.023}, if all depended on one number; inside_*: the reference lies inside",
    "pooled_overlap": "of the voxels of all cases together",
    "ece_low, ece_high": "95 % interval of the pooled ECE, BCa bootstrap over patients: voxels of the drawn patients "
    "are pooled; null with fewer than 3 patients",
    "voxels": "number of voxels of the region that were scored; of independent channels, of the channel with the most",
    "zero_probability": "number of voxels whose true class has probability 0; they enter nll as the smallest float32",
    "value, n": "mean over the n cases that have the score, each case alike",
    "n_expected, n_scored": "cases that should have been scored, and that were; refused names the others with a reason",
    "low, high": "95 % interval, BCa bootstrap over patients; null with fewer than 3 patients",
    "null": "a ratio that divides by 0, or a distance to nothing; left out of means, n counts the cases with a value",
}
