// What score_api.cpp and the instruction sets of the scorer share.
#ifndef MEDCALIB_SCORE_H
#define MEDCALIB_SCORE_H

#include <stddef.h>
#include <stdint.h>

#include "problem.h"

enum { MC_SCORE_F32 = 0, MC_SCORE_F64 = 1 };  // values_type
enum { MC_SCORE_CELLS = 632, MC_SCORE_SUMS = 3, MC_SCORE_REGIONS = 8, MC_SCORE_CLASSES = 255, MC_SCORE_COPIES = 4 };

// What one call adds to the tables. Mirrored by medcalib/ops/_native.py: change both together, and MEDCALIB_ABI.
typedef struct {
  const void *values;       // (channels, n): rows value_stride elements apart
  const void *labels;       // (n,), contiguous
  const uint8_t *holds;     // (regions, n) of 0 and 1: rows holds_stride bytes apart
  const uint8_t *members;   // (composites or, grouped, channels; classes) of 0 and 1
  int64_t *n;               // (regions, tables, MC_SCORE_CELLS)
  int64_t *correct;         // the same
  int64_t *conf_hi;         // the same
  int64_t *conf_lo;         // the same
  int64_t *square;          // (regions, tables, 2)
  int64_t *confusion;       // (regions, classes, classes)
  int64_t *sums;            // (regions, MC_SCORE_SUMS, 2)
  int64_t *zero;            // (regions,)
  void *scratch;            // medcalib_score_bytes, zeros at first; a call leaves what the next one needs
  int64_t voxels, value_stride, holds_stride;
  int32_t channels, classes, regions, composites;
  int32_t values_type, labels_type;
  int32_t logits, grouped, classwise;
  int32_t threads;
} ScoreProblem;

// Derived from a problem once.
struct ScorePlan {
  ScoreProblem p;
  int tables;     // top label, channels, composites
  int chunk;      // voxels handled at a time
  int slots;      // combinations of regions that have a table at a time; slot 0 takes what is in no region
  int threads;
};

// Sums that are kept apart for each slot. Nothing overflows: a slot is emptied before it holds 2^13 voxels.
enum { MC_SLOT_BRIER = 0, MC_SLOT_NLL = 2, MC_SLOT_ZERO = 4, MC_SLOT_SQUARE = 5 };

// Memory of one thread.
struct ScoreSpace {
  uint64_t *entries;        // (slots, tables, cells, copies, 2): see score.hpp
  uint32_t *pairs;          // (slots, classes, classes)
  int64_t *slot_sums;       // (slots, MC_SLOT_SQUARE + 2 * tables)
  int64_t *n, *correct, *conf_hi, *conf_lo, *square, *confusion, *sums, *zero;  // as those of the problem
  double *p;                // (channels, chunk)
  double *top, *true_p, *squares, *scale, *added;
  int64_t *code, *predicted, *hit, *listed, *base, *slot, *key, *nll_hi, *nll_lo;
  uint8_t *atom8, *code8, *predicted8, *slot8;
  int32_t *room;            // voxels that a slot has taken
  int32_t slot_of[256];     // by combination of regions; 0: none
  int32_t atom_of[256];     // by slot
  int used;                 // slots given away, slot 0 included
  int filled;               // the combination of regions with which base and slot are filled, or -1
  int bad_label, bad_value;
};

struct ScoreKernel {
  const char *name;
  void (*block)(const ScorePlan &, ScoreSpace &, int64_t start, int64_t end);
  void (*finish)(const ScorePlan &, ScoreSpace &);
};

#endif
