// The C interface: plans a problem, picks an instruction set, spreads planes over threads and adds their sums in order, so
// that a result does not depend on the number of threads.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "export.h"
#include "kernel.h"

// the exp of glibc 2.29 differs from the one before in how it sets errno only, and would keep wheels off RHEL 8 (2.28)
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver exp, exp@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver exp, exp@GLIBC_2.17");
#endif

extern const Kernel medcalib_kernel_baseline;
#if defined(__x86_64__)
extern const Kernel medcalib_kernel_avx2;
extern const Kernel medcalib_kernel_avx512;
#endif

static bool runs(const char *name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return !strcmp(name, "baseline");
}

// The best instruction set of this machine, or the one that MEDCALIB_ISA names if the machine has it.
static const Kernel *kernel() {
  const Kernel *known[] = {
#if defined(__x86_64__)
      &medcalib_kernel_avx512, &medcalib_kernel_avx2,
#endif
      &medcalib_kernel_baseline};
  const char *wanted = getenv("MEDCALIB_ISA");
  for (const Kernel *k : known)
    if (runs(k->name) && (!wanted || !*wanted || !strcmp(wanted, k->name))) return k;
  return &medcalib_kernel_baseline;
}

MC_EXPORT int medcalib_abi(void) { return MEDCALIB_ABI; }

MC_EXPORT const char *medcalib_isa(void) { return kernel()->name; }

MC_EXPORT const char *medcalib_isas(void) {
#if defined(__x86_64__)
  return runs("avx512") ? "avx512 avx2 baseline" : runs("avx2") ? "avx2 baseline" : "baseline";
#else
  return "baseline";
#endif
}

static bool plan_of(const Problem &p, Plan &plan) {
  memset(&plan, 0, sizeof plan);
  plan.p = p;
  if (p.classes < 2 || p.classes > 64) return false;
  plan.plane = p.height * p.width;
  plan.chunk = 8192 / p.classes / 16 * 16;
  plan.chunk = plan.chunk > 512 ? 512 : plan.chunk;
  plan.padded = (plan.plane + plan.chunk - 1) / plan.chunk * plan.chunk;
  plan.fields = (int)p.classes + (p.padding == MC_PAD_ZEROS ? 1 : 0);
  plan.total = 1;
  for (int axis = 0; axis < 3; axis++) {
    if (p.size[axis] < 1 || p.size[axis] > 63 || p.size[axis] % 2 == 0) return false;
    plan.radius[axis] = p.size[axis] / 2;
    plan.total *= p.size[axis];
  }
  if (p.window == MC_WINDOW_NONE) plan.radius[0] = plan.radius[1] = plan.radius[2] = 0;
  while (plan.bits < 31 && (1 << plan.bits) <= plan.total) plan.bits++;
  if (plan.bits > 16) return false;
  plan.per_word = 32 / plan.bits;
  plan.words = (plan.fields + plan.per_word - 1) / plan.per_word;
  plan.mask = (1u << plan.bits) - 1u;
  for (int field = 0; field < plan.fields; field++) {
    plan.offset[field] = field / plan.per_word * plan.chunk;
    plan.shift[field] = (uint32_t)(plan.bits * (field % plan.per_word));
  }
  if (p.window == MC_WINDOW_SVLS) {
    double sum = 1.0;
    for (int axis = 0; axis < 3; axis++) {
      double axis_sum = 0.0;
      for (int i = 0; i < p.size[axis]; i++) {
        const double offset = i - plan.radius[axis], tap = exp(-offset * offset / (2 * p.sigma * p.sigma));
        plan.tap[axis][i] = (float)tap;
        axis_sum += tap;
      }
      sum *= axis_sum;
    }
    plan.outer = sum > 1.0 ? (float)(0.5 / (sum - 1.0)) : 0.0f;
    if (plan.total == 1) plan.p.window = MC_WINDOW_MEAN;  // a window of one voxel has no neighbors to share with
  }
  plan.f = {(float)p.own, (float)p.rest, (float)p.margin, (float)p.inverse_norm, (float)p.factor_boundary,
            (float)p.factor_interior, (float)p.weight_top, (float)(p.weight_rest / (double)(p.classes - 1)),
            (float)p.lam_min, (float)p.lam_max, 0.0f, 0.0f};
  for (int64_t i = 0; p.lam && i < 2 * p.classes; i++) {
    plan.lam[i / p.classes][i % p.classes] = (float)p.lam[i];
    plan.rho[i / p.classes][i % p.classes] = (float)p.rho[i];
  }
  plan.sums = MC_SUM_STATS + (p.want_stats ? 5 * (int)p.classes : 0);
  return true;
}

// One block of memory for all buffers of a thread; with base == NULL only its size is computed.
static size_t lay_out(const Plan &plan, char *base, Workspace &ws) {
  size_t at = 0;
  const auto take = [&](size_t bytes) {
    char *found = base ? base + at : nullptr;
    at += (bytes + 63) / 64 * 64 + 64;
    return found;
  };
  const size_t ring = (size_t)plan.p.size[0], padded = (size_t)plan.padded, plane = (size_t)plan.plane;
  const size_t row = (size_t)plan.p.width + 2 * (size_t)plan.radius[2] + 16;
  const size_t local = (size_t)plan.chunk * 4, classes = (size_t)plan.p.classes;
  const bool mean = plan.p.window == MC_WINDOW_MEAN, svls = plan.p.window == MC_WINDOW_SVLS;
  ws.codes = (uint8_t *)take(ring * padded);
  ws.holes = (uint8_t *)take(ring);
  ws.box = (uint32_t *)take(mean ? ring * plan.words * padded * 4 : 0);
  ws.rows = (uint32_t *)take(mean ? plane * 4 : 0);
  ws.row = (uint32_t *)take(mean ? row * 4 : 0);
  ws.blur = (float *)take(svls ? ring * (classes + 1) * padded * 4 : 0);
  ws.blur_rows = (float *)take(svls ? plane * 4 : 0);
  ws.blur_row = (float *)take(svls ? row * 4 : 0);
  ws.z = (float *)take(classes * local);
  ws.e = (float *)take(classes * local);
  ws.share = (float *)take((classes + 1) * local);
  ws.counts = (uint32_t *)take(mean ? plan.words * local : 0);
  ws.code = (int32_t *)take(local);
  ws.vectors = (float *)take((size_t)(MC_SUM_STATS + 5 * classes) * 64);
  return at;
}

enum Work { FORWARD, BACKWARD, SHARES };

// What a penalty of one class counts for in the mean over classes.
static double per_class(const Problem &p) {
  return p.penalty == MC_PENALTY_ACLS ? 1.0 : p.scale / (double)p.classes;
}

// The upstream gradients, divided by what the parts of the loss are means over.
static void scale_gradients(const Problem &p, Plan &plan) {
  const double n = p.stats[0] > 0 ? p.stats[0] : 1.0;
  plan.f.grad_ce = (float)(*p.ce / n);
  plan.f.grad_penalty = (float)(*p.penalty_value / n * per_class(p));
}

static int run(const Problem &p, Work work) {
  Plan plan;
  if (!plan_of(p, plan)) return MC_UNSUPPORTED;
  if (work == BACKWARD) scale_gradients(p, plan);
  const Kernel *k = kernel();
  const int64_t planes = p.batch * p.depth;
  int threads = p.threads < 1 ? 1 : p.threads;
  if (p.classes * planes * plan.plane < 1 << 16) threads = 1;  // waking another one would take longer than the work
  if (threads > planes) threads = planes < 1 ? 1 : (int)planes;
  Workspace empty;
  memset(&empty, 0, sizeof empty);
  const size_t bytes = lay_out(plan, nullptr, empty);
  char *memory = (char *)malloc(bytes * (size_t)threads + 64);
  double *sums = (double *)calloc((size_t)(planes * plan.sums) + 1, sizeof(double));
  int bad = 0;
  if (!memory || !sums) {
    free(memory);
    free(sums);
    return MC_NO_MEMORY;
  }
  char *aligned = (char *)(((uintptr_t)memory + 63) / 64 * 64);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(| : bad)
#endif
  {
#ifdef _OPENMP
    const int me = omp_get_thread_num(), all = omp_get_num_threads();
#else
    const int me = 0, all = 1;
#endif
    Workspace ws;
    memset(&ws, 0, sizeof ws);
    lay_out(plan, aligned + bytes * (size_t)me, ws);
    memset(ws.vectors, 0, (size_t)(MC_SUM_STATS + 5 * p.classes) * 64);
    ws.image = -1;
    for (int64_t i = planes * me / all; i < planes * (me + 1) / all; i++) {
      if (work == SHARES)
        k->shares(plan, ws, i / p.depth, i % p.depth, (float *)p.grad);
      else
        k->plane(plan, ws, i / p.depth, i % p.depth, work == BACKWARD, sums + i * plan.sums);
    }
    bad |= ws.bad_label;
  }
  if (work == FORWARD) {
    double *all = sums;  // into the first plane, in order
    for (int64_t i = 1; i < planes; i++)
      for (int s = 0; s < plan.sums; s++) all[s] += sums[i * plan.sums + s];
    const double count = all[MC_SUM_COUNT], n = count > 0 ? count : 1.0;
    *p.ce = (float)(all[MC_SUM_CE] / n);
    *p.penalty_value = (float)(all[MC_SUM_PENALTY] / n * per_class(p));
    p.stats[0] = count;
    p.stats[1] = all[MC_SUM_BOUNDARY];
    for (int64_t s = 0; s < 5 * p.classes; s++) p.stats[2 + s] = p.want_stats ? all[MC_SUM_STATS + s] : 0.0;
  }
  free(memory);
  free(sums);
  return bad ? MC_BAD_LABEL : MC_OK;
}

MC_EXPORT int medcalib_forward(const Problem *p) { return run(*p, FORWARD); }

MC_EXPORT int medcalib_backward(const Problem *p) { return run(*p, BACKWARD); }

// Class shares of the window (batch, classes, depth, height, width) of the labels alone.
MC_EXPORT int medcalib_shares(const Problem *p) { return run(*p, SHARES); }
