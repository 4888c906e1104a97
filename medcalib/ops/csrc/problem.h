// What one call works on. Mirrored by medcalib/ops/_native.py: change both together, and MEDCALIB_ABI.
#ifndef MEDCALIB_PROBLEM_H
#define MEDCALIB_PROBLEM_H

#include <stdint.h>

#define MEDCALIB_ABI 2

enum { MC_F32 = 0, MC_BF16 = 1, MC_F16 = 2 };                  // logits_type
enum { MC_U8 = 0, MC_I16 = 1, MC_I32 = 2, MC_I64 = 3 };        // labels_type
enum { MC_TARGET_NONE = 0, MC_TARGET_LABEL = 1, MC_TARGET_WINDOW = 2 };
enum { MC_PENALTY_NONE = 0, MC_PENALTY_MARGIN = 1, MC_PENALTY_CALS = 2, MC_PENALTY_ACLS = 3, MC_PENALTY_NEIGHBOR = 4 };
enum { MC_WINDOW_NONE = 0, MC_WINDOW_MEAN = 1, MC_WINDOW_SVLS = 2 };
enum { MC_PAD_BACKGROUND = 0, MC_PAD_REPLICATE = 1, MC_PAD_ZEROS = 2 };

typedef struct {
  const void *logits;   // (batch, classes, depth, height, width), contiguous
  const void *labels;   // (batch, depth, height, width), contiguous
  const double *lam;    // (2, classes): in boundaries, in the interior
  const double *rho;    // (2, classes)
  double *stats;        // medcalib_stats_size(classes) numbers, see api.cpp
  double *parts;        // cross-entropy and penalty, means over valid voxels
  void *grad;           // as logits; backward only
  int64_t batch, classes, depth, height, width;
  int64_t ignore_index;
  int32_t logits_type, labels_type;
  int32_t has_ignore, want_stats;
  int32_t target, penalty, power, by_region, class_mean;
  int32_t window, padding;
  int32_t size[3];      // of the window, in array order
  int32_t threads;
  double own, rest;     // target of cross-entropy: own at the label, rest at every other class
  double margin, inverse_norm, factor_boundary, factor_interior, scale;
  double weight_top, weight_rest;
  double lam_min, lam_max;
  double sigma;
  double grad_ce, grad_penalty;  // upstream gradients, divided by the number of valid voxels
} Problem;

#endif
