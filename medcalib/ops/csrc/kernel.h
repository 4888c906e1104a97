// What api.cpp and the instruction sets share.
#ifndef MEDCALIB_KERNEL_H
#define MEDCALIB_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "problem.h"

// Sums of one plane: cross-entropy, penalty, valid voxels, then (with want_stats) those of FusedStats.
enum { MC_SUM_CE = 0, MC_SUM_PENALTY = 1, MC_SUM_COUNT = 2, MC_SUM_BOUNDARY = 3, MC_SUM_STATS = 4 };

// The real options as floats: a conversion for each vector of voxels would be felt.
struct Numbers {
  float own, rest, margin, inverse_norm, factor_boundary, factor_interior, weight_top, weight_rest, lam_min, lam_max;
  float grad_ce, grad_penalty;
};

// Derived from a problem once.
struct Plan {
  Problem p;
  int64_t plane;      // voxels in a plane (height * width)
  int64_t chunk;      // voxels handled at a time
  int64_t padded;     // plane, rounded up to a chunk
  int fields;         // counters: classes, and the outside where it belongs to no class
  int bits, per_word, words;
  uint32_t mask;       // of one counter
  int64_t offset[65];  // of the word of each field in Workspace::counts
  uint32_t shift[65];  // of each field in its word
  int radius[3];
  int total;          // voxels of the window
  float tap[3][64];   // Gaussian along each axis
  float outer;        // svls: weight of a neighbor is outer * Gaussian
  int sums;           // numbers per plane
  Numbers f;
  float lam[2][64], rho[2][64];
};

// Buffers of one thread.
struct Workspace {
  uint8_t *codes;     // ring of planes: class, or MC_IGNORED
  uint32_t *box;      // ring of planes: packed counts of the in-plane window
  float *blur;        // ring of planes: in-plane Gaussian of each field
  uint32_t *row, *rows;
  float *blur_row, *blur_rows;
  float *z, *e, *share;
  const float *from[64];  // logits of each class for the voxels at hand: in place, or a copy in z
  float *to[64];          // where exponentials and then gradients of each class go: in place, or e
  uint32_t *counts;
  int32_t *code;
  float *vectors;     // sums by lane
  uint8_t *holes;     // ring of planes: whether any voxel is ignored
  int64_t image, ready;
  int32_t bad_label;
  int32_t sum_counts; // whether the number of voxels that count in a window varies
};

enum { MC_IGNORED = 255 };

struct Kernel {
  const char *name;
  void (*plane)(const Plan &, Workspace &, int64_t image, int64_t depth, int backward, double *sums);
  void (*shares)(const Plan &, Workspace &, int64_t image, int64_t depth, float *out);
};

#endif
