// The C interface of the scorer: shares the memory out, spreads blocks over threads and adds their tables. All sums are
// integers, so neither the number of threads nor the order of calls changes a bit.
#include <string.h>

#include <initializer_list>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "export.h"
#include "score.h"

extern const ScoreKernel medcalib_score_baseline;
#if defined(__x86_64__)
extern const ScoreKernel medcalib_score_avx2;
extern const ScoreKernel medcalib_score_avx512;
#endif

MC_EXPORT const char *medcalib_isa(void);

static const ScoreKernel *kernel() {
#if defined(__x86_64__)
  const char *name = medcalib_isa();
  if (!strcmp(name, medcalib_score_avx512.name)) return &medcalib_score_avx512;
  if (!strcmp(name, medcalib_score_avx2.name)) return &medcalib_score_avx2;
#endif
  return &medcalib_score_baseline;
}

static const int64_t BLOCK = 1 << 15;          // voxels of a task
static const size_t BUDGET = (size_t)16 << 20;  // bytes for the slots of all threads, beyond two a thread
static const size_t MOST = (size_t)48 << 20;    // bytes of all threads; fewer threads run where they need more

// Where everything of one thread lies; with base == NULL only its size is computed. `own` tells whether it has tables of
// its own or adds to those of the problem.
static size_t lay_out(const ScorePlan &plan, char *base, bool own, ScoreSpace &ws) {
  size_t at = 0;
  const auto take = [&](size_t bytes) {
    char *found = base ? base + at : nullptr;
    at += (bytes + 63) / 64 * 64 + 64;
    return found;
  };
  const ScoreProblem &p = plan.p;
  const size_t cells = (size_t)plan.tables * MC_SCORE_CELLS, regions = (size_t)p.regions, slots = (size_t)plan.slots;
  const size_t pairs = (size_t)p.classes * (size_t)p.classes, chunk = (size_t)plan.chunk;
  const auto table = [&](size_t count, int64_t *shared) {
    int64_t *found = (int64_t *)take(own ? count * 8 : 0);
    return own ? found : shared;
  };
  ws.n = table(regions * cells, p.n);
  ws.correct = table(regions * cells, p.correct);
  ws.conf_hi = table(regions * cells, p.conf_hi);
  ws.conf_lo = table(regions * cells, p.conf_lo);
  ws.square = table(regions * (size_t)plan.tables * 2, p.square);
  ws.confusion = table(regions * pairs, p.confusion);
  ws.sums = table(regions * MC_SCORE_SUMS * 2, p.sums);
  ws.zero = table(regions, p.zero);
  ws.entries = (uint64_t *)take(slots * cells * MC_SCORE_COPIES * 16);
  ws.pairs = (uint32_t *)take(slots * pairs * 4);
  ws.slot_sums = (int64_t *)take(slots * (size_t)(MC_SLOT_SQUARE + 2 * plan.tables) * 8);
  ws.room = (int32_t *)take(slots * 4);
  ws.p = (double *)take((size_t)p.channels * chunk * 8);
  for (double **d : {&ws.top, &ws.true_p, &ws.squares, &ws.scale, &ws.added}) *d = (double *)take(chunk * 8);
  for (int64_t **d : {&ws.code, &ws.predicted, &ws.hit, &ws.listed, &ws.base, &ws.slot, &ws.key,
                      &ws.nll_hi, &ws.nll_lo})
    *d = (int64_t *)take(chunk * 8);
  for (uint8_t **d : {&ws.atom8, &ws.code8, &ws.predicted8, &ws.slot8}) *d = (uint8_t *)take(chunk);
  return (at + 4095) / 4096 * 4096;
}

// A plan that depends on the problem alone, not on the number of voxels, so that scratch can be used again.
static bool plan_of(const ScoreProblem &p, ScorePlan &plan) {
  memset(&plan, 0, sizeof plan);
  plan.p = p;
  if (p.channels < 1 || p.channels > MC_SCORE_CLASSES || p.classes < 1 || p.classes > MC_SCORE_CLASSES) return false;
  if (p.regions < 1 || p.regions > MC_SCORE_REGIONS || p.composites < 0) return false;
  plan.tables = 1 + p.channels + p.composites;
  plan.chunk = p.channels <= 16 ? 256 : p.channels <= 64 ? 128 : 64;
  plan.threads = p.threads < 1 ? 1 : p.threads;
  ScoreSpace empty;
  memset(&empty, 0, sizeof empty);
  plan.slots = 2;
  const size_t two = lay_out(plan, nullptr, plan.threads > 1, empty);
  if (two * (size_t)plan.threads > MOST) plan.threads = two >= MOST ? 1 : (int)(MOST / two);
  plan.slots = 3;
  const size_t slot = lay_out(plan, nullptr, plan.threads > 1, empty) - two;
  const size_t more = BUDGET / (size_t)plan.threads / (slot + 1);
  const int most = 1 << p.regions;
  plan.slots = more >= (size_t)most ? most : 2 + (int)more;
  if (plan.slots > most) plan.slots = most;
  if (plan.slots > 255) plan.slots = 255;
  return true;
}

MC_EXPORT int64_t medcalib_score_bytes(const ScoreProblem *p) {
  ScorePlan plan;
  ScoreSpace empty;
  memset(&empty, 0, sizeof empty);
  return plan_of(*p, plan) ? (int64_t)(lay_out(plan, nullptr, plan.threads > 1, empty) * (size_t)plan.threads) : -1;
}

static void move(int64_t *from, int64_t *to, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    to[i] += from[i];
    from[i] = 0;
  }
}

static void collect(const ScorePlan &plan, ScoreSpace &ws) {
  const ScoreProblem &p = plan.p;
  const int64_t regions = p.regions, cells = regions * plan.tables * MC_SCORE_CELLS;
  move(ws.n, p.n, cells);
  move(ws.correct, p.correct, cells);
  move(ws.conf_hi, p.conf_hi, cells);
  move(ws.conf_lo, p.conf_lo, cells);
  move(ws.square, p.square, regions * plan.tables * 2);
  move(ws.confusion, p.confusion, regions * p.classes * p.classes);
  move(ws.sums, p.sums, regions * MC_SCORE_SUMS * 2);
  move(ws.zero, p.zero, regions);
}

MC_EXPORT int medcalib_score(const ScoreProblem *p) {
  ScorePlan plan;
  if (!plan_of(*p, plan)) return MC_UNSUPPORTED;
  const ScoreKernel *k = kernel();
  const int64_t blocks = (p->voxels + BLOCK - 1) / BLOCK;
  const bool own = plan.threads > 1;
  ScoreSpace empty;
  memset(&empty, 0, sizeof empty);
  const size_t bytes = lay_out(plan, nullptr, own, empty);
  const int threads = blocks < plan.threads ? (blocks < 1 ? 1 : (int)blocks) : plan.threads;
  int bad_label = 0, bad_value = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(| : bad_label, bad_value)
#endif
  {
    int me = 0;
#ifdef _OPENMP
    me = omp_get_thread_num();
#endif
    ScoreSpace ws;
    memset(&ws, 0, sizeof ws);
    lay_out(plan, (char *)p->scratch + bytes * (size_t)me, own, ws);
    memset(ws.room, 0, (size_t)plan.slots * sizeof *ws.room);
    ws.used = 1;
    ws.filled = -1;
#ifdef _OPENMP
#pragma omp for schedule(dynamic) nowait
#endif
    for (int64_t i = 0; i < blocks; i++)
      k->block(plan, ws, i * BLOCK, (i + 1) * BLOCK < p->voxels ? (i + 1) * BLOCK : p->voxels);
    k->finish(plan, ws);
    if (own) {
#ifdef _OPENMP
#pragma omp critical
#endif
      collect(plan, ws);
    }
    bad_label |= ws.bad_label;
    bad_value |= ws.bad_value;
  }
  return bad_label ? MC_BAD_LABEL : bad_value ? MC_BAD_VALUE : MC_OK;
}
