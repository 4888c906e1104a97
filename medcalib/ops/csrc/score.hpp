// The one-pass scorer of one instruction set, with vectors of doubles. All names are local to the object: an inline
// function shared with another instruction set could be linked in its stead.
//
// Built without contraction of a * b + c, so that every instruction set gives the same bits. An entry of a table is two
// words: the sum of x = p * 2^48, and in bit fields the sum of the low 24 bits of x (37), the voxels (14), the hits (13).
// It has copies, so that additions to the same cell need not wait for each other.
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "score.h"

namespace {

constexpr int W = MC_WIDTH / 2;
typedef double vd __attribute__((vector_size(8 * W)));
typedef int64_t vl __attribute__((vector_size(8 * W)));
typedef uint64_t vu __attribute__((vector_size(8 * W)));
typedef uint64_t word2 __attribute__((vector_size(16)));

constexpr int CELLS = MC_SCORE_CELLS, GRID = 300, TAIL = 16, HEAD = TAIL + 1;
constexpr int64_t LOW = (1 << 24) - 1, ONE = 1ll << 37, HIT = 1ll << 51;
constexpr int COPIES = MC_SCORE_COPIES;
constexpr int FULL = 8191;  // voxels that the fields of an entry hold
constexpr double THRESHOLD = (double)1e-3f, NLL_FLOOR = 0x1p-126;
constexpr double SHIFT = 0x1.8p52;  // x + SHIFT rounds x to an integer, in the low bits of the sum
constexpr int64_t SHIFT_BITS = 0x4338000000000000;

inline vd load(const double *p) {
  vd v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline vl load(const int64_t *p) {
  vl v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(double *p, vd v) { memcpy(p, &v, sizeof v); }
inline void store(int64_t *p, vl v) { memcpy(p, &v, sizeof v); }
inline vd splat(double x) { return x - (vd){}; }
inline vl splat(int64_t x) { return x - (vl){}; }

#if defined(__AVX512F__)
#define MC_HELD(v) "+v"(v)
#elif defined(__x86_64__)
#define MC_HELD(v) "+x"(v)
#else
#define MC_HELD(v) "+m"(v)
#endif
// A constant that stays in a register: GCC would move an integer to a vector again and again in the loop.
inline vl held(int64_t x) {
  vl v = splat(x);
  asm("" : MC_HELD(v));
  return v;
}

inline bool same(vl a, vl b) {
#if defined(__AVX512F__)
  return _mm512_cmpneq_epi64_mask((__m512i)a, (__m512i)b) == 0;
#elif defined(__AVX2__)
  const vl d = a ^ b;
  return _mm256_testz_si256((__m256i)d, (__m256i)d);
#else
  const vl d = a ^ b;
  int64_t any = 0;
  for (int i = 0; i < W; i++) any |= d[i];
  return any == 0;
#endif
}

inline int64_t total(vl v) {
  int64_t sum = 0;
  for (int i = 0; i < W; i++) sum += v[i];
  return sum;
}

// Nonnegative values below 2^3 in units of 2^-48, rounded to even.
inline vl fixed(vd p) { return (vl)(p * 0x1p48 + SHIFT) - SHIFT_BITS; }

// exp for x <= 0: 2^n * e^r with |r| <= ln(2)/2; the polynomial is off by 3e-18. NaN stays NaN.
inline vd expn(vd x) {
  x = x < -746.0 ? splat(-746.0) : x;
  const vd t = x * 0x1.71547652b82fep0 + SHIFT;
  const vd n = t - SHIFT;
  const vd r = (x - n * 0x1.62e42fefap-1) - n * 0x1.cf79abc9e3b3ap-40;  // the first product is exact
  const vd r2 = r * r, r4 = r2 * r2;  // pairs of terms, so that they need not wait for each other
  const vd a = (0x1.000000000000bp-1 + 0x1.5555555555561p-3 * r) + (0x1.5555555550030p-5 + 0x1.111111110d642p-7 * r) * r2;
  const vd b = (0x1.6c16c185a751dp-10 + 0x1.a01a01badf235p-13 * r) + (0x1.a0199693cf72ep-16 + 0x1.71dddfd3a60bap-19 * r) * r2;
  const vd q = a + (b + (0x1.28b049009386bp-22 + 0x1.af857a5042f7ep-26 * r) * r4) * r4;
  const vd y = (q * r2 + r) + 1.0;
  const vl e = (vl)t - SHIFT_BITS;  // below 2^-1000 in two steps: the result can be subnormal
  const vl up = e < -1000 ? splat((int64_t)1223) : splat((int64_t)1023);
  const vd down = e < -1000 ? splat(0x1p-200) : splat(1.0);
  return y * (vd)((e + up) << 52) * down;
}

// log for normal x in (0, 1]: exponent and log(1+f) = f - s * (f - q), s = f / (2 + f), q a series in s^2.
inline vd logn(vd x) {
  const vu bits = (vu)x;
  vl e = (vl)(bits >> 52) - 1023;
  vd m = (vd)((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  e = m > 0x1.6a09e667f3bcdp0 ? e + 1 : e;
  m = m > 0x1.6a09e667f3bcdp0 ? m * 0.5 : m;
  const vd f = m - 1.0, s = f / (m + 1.0), z = s * s;
  const vd z2 = z * z;
  const vd a = (0x1.5555555555592p-1 + 0x1.999999997fd76p-2 * z) + (0x1.24924941f5011p-2 + 0x1.c71c520604c50p-3 * z) * z2;
  const vd b = (0x1.74663fa29ad56p-3 + 0x1.39a1a6ef6231ep-3 * z) + 0x1.2f0634b5ae1b1p-3 * z2;
  const vd q = a + b * (z2 * z2);
  const vd n = (vd)(e + SHIFT_BITS) - SHIFT;
  return n * 0x1.62e42fefap-1 + (f - (s * (f - q * z) - n * 0x1.cf79abc9e3b3ap-40));
}

// Fine cell of p in [0, 1]: cell_index of _score_cells.py.
struct Cells {
  const vl even = held(HEAD - 1), odd = held(HEAD), tail = held(TAIL - 1), exponent = held(1014), one = held(1);
  const vl last = held(2 * GRID - 1 + HEAD - 1), above = held(2 * GRID - 2 + HEAD), top = held(CELLS - 1);
  const vl shift = held(SHIFT_BITS);

  inline vl of(vd p) const {
    const vd scaled = p * (double)GRID;
    const vd t = scaled + SHIFT, r = t - SHIFT;
    vl k = (vl)t - shift;
    k = r > scaled ? k - one : k;
    vl c = k + k + even;
    c = r != scaled ? c + one : c;
    const vd small = p > 0.5 ? 1.0 - p : p;
    vl halvings = exponent - (vl)((vu)small >> 52);
    halvings = halvings > tail ? tail : halvings;
    const vl head = p > THRESHOLD ? odd - halvings : even - halvings;
    const vl found = c == odd ? head : c;
    c = c == last ? halvings + above : found;
    c = p == 0.0 ? (vl){} : c;
    return p == 1.0 ? top : c;
  }
};

// ---------------------------------------------------------------- reading a chunk

template <typename T>
void encode(const ScorePlan &plan, ScoreSpace &ws, int64_t start, int n) {
  const T *labels = (const T *)plan.p.labels + start;
  const T classes = (T)plan.p.classes;
  const uint8_t *atom = ws.atom8;
  uint8_t *code = ws.code8, wrong = 0;
  for (int i = 0; i < n; i++) {
    const T label = labels[i];
    const bool known = (label >= 0) & (label < classes);
    wrong |= known ? (uint8_t)0 : atom[i];
    code[i] = known ? (uint8_t)label : (uint8_t)0;
  }
  ws.bad_label |= wrong != 0;
}

void read_labels(const ScorePlan &plan, ScoreSpace &ws, int64_t start, int n) {
  switch (plan.p.labels_type) {
    case MC_U8: encode<uint8_t>(plan, ws, start, n); break;
    case MC_I16: encode<int16_t>(plan, ws, start, n); break;
    case MC_I32: encode<int32_t>(plan, ws, start, n); break;
    default: encode<int64_t>(plan, ws, start, n);
  }
  for (int i = n; i < plan.chunk; i++) ws.code8[i] = 0;
  const uint8_t *narrow = ws.code8;
  int64_t *wide = ws.code;
  for (int i = 0; i < plan.chunk; i++) wide[i] = narrow[i];
}

template <typename T>
void read_values(const ScorePlan &plan, ScoreSpace &ws, int64_t start, int n) {
  for (int k = 0; k < plan.p.channels; k++) {
    const T *from = (const T *)plan.p.values + k * plan.p.value_stride + start;
    double *to = ws.p + k * plan.chunk;
    for (int i = 0; i < n; i += (int)(64 / sizeof(T))) __builtin_prefetch(from + plan.chunk + i);
    for (int i = 0; i < n; i++) to[i] = (double)from[i];
    for (int i = n; i < plan.chunk; i++) to[i] = 0.0;
  }
}

// Which regions hold each voxel, as bits; says whether it is the same combination for all.
bool read_regions(const ScorePlan &plan, ScoreSpace &ws, int64_t start, int n) {
  uint8_t *atom = ws.atom8;
  memcpy(atom, plan.p.holds + start, (size_t)n);
  memset(atom + n, 0, (size_t)(plan.chunk - n));
  for (int r = 1; r < plan.p.regions; r++) {
    const uint8_t *holds = plan.p.holds + r * plan.p.holds_stride + start;
    for (int i = 0; i < n; i++) atom[i] = (uint8_t)(atom[i] | (holds[i] << r));
  }
  int differs = 0;
  for (int i = 0; i < plan.chunk; i++) differs |= atom[i] ^ atom[0];
  return !differs;
}

void report_bad(ScoreSpace &ws, vl bad, int i) {
  for (int j = 0; j < W; j++) ws.bad_value |= bad[j] && ws.atom8[i + j];
}

inline vd clamped(vd p) {  // NaN becomes 0: voxels outside all regions may hold anything
  p = p > 0.0 ? p : (vd){};
  return p < 1.0 ? p : splat(1.0);
}

// Exponentials, and in `scale` what makes probabilities of them.
void exponentials(const ScorePlan &plan, ScoreSpace &ws) {
  const int channels = plan.p.channels, chunk = plan.chunk;
  for (int i = 0; i < chunk; i += W) {
    double *z = ws.p + i;
    vd highest = load(z), sum = {};
    for (int k = 1; k < channels; k++) {
      const vd other = load(z + k * chunk);
      highest = highest > other ? highest : other;
    }
    for (int k = 0; k < channels; k++) {
      const vd e = expn(load(z + k * chunk) - highest);
      store(z + k * chunk, e);
      sum += e;
    }
    store(ws.scale + i, 1.0 / sum);
  }
}

// The largest probability, its class, that of the true class, and the sum of squares.
template <bool LOGITS>
void classify(const ScorePlan &plan, ScoreSpace &ws) {
  const int channels = plan.p.channels, chunk = plan.chunk;
  for (int i = 0; i < chunk; i += W) {
    const vl code = load(ws.code + i);
    const vd scale = LOGITS ? load(ws.scale + i) : (vd){};
    vd top = splat(-1.0), true_p = {}, squares = {}, lowest = {}, highest = splat(1.0), nothing = {};
    vl predicted = {}, class_k = {};
    for (int k = 0; k < channels; k++) {
      double *at = ws.p + k * chunk + i;
      vd p = load(at);
      if (LOGITS) {
        p = p * scale;
        p = p > 0.0 ? p : (vd){};  // NaN, where a voxel outside all regions holds anything
      } else {
        lowest = p < lowest ? p : lowest;
        highest = p > highest ? p : highest;
        nothing += p - p;  // NaN where p is
        p = clamped(p);
      }
      store(at, p);
      predicted = p > top ? class_k : predicted;
      top = p > top ? p : top;
      true_p = code == class_k ? p : true_p;
      squares += p * p;
      class_k += 1;
    }
    const vl bad = LOGITS ? (vl)(scale != scale) : ~((lowest >= 0.0) & (highest <= 1.0) & (nothing == 0.0));
    if (!same(bad, (vl){})) report_bad(ws, bad, i);
    store(ws.top + i, top);
    store(ws.true_p + i, true_p);
    store(ws.squares + i, squares);
    store(ws.predicted + i, predicted);
    store(ws.hit + i, predicted == code ? splat(HIT) : (vl){});
  }
  const int64_t *wide = ws.predicted;
  uint8_t *narrow = ws.predicted8;
  for (int i = 0; i < chunk; i++) narrow[i] = (uint8_t)wide[i];
}

// Channels on their own: a sigmoid where asked for.
void separate(const ScorePlan &plan, ScoreSpace &ws) {
  for (int k = 0; k < plan.p.channels; k++)
    for (int i = 0; i < plan.chunk; i += W) {
      double *at = ws.p + k * plan.chunk + i;
      vd p = load(at);
      if (plan.p.logits) {
        const vd e = expn(p > 0.0 ? -p : p), inverse = 1.0 / (1.0 + e);
        p = p > 0.0 ? inverse : e * inverse;
      }
      const vl bad = ~((p >= 0.0) & (p <= 1.0));
      if (!same(bad, (vl){})) report_bad(ws, bad, i);
      store(at, clamped(p));
    }
}

// ---------------------------------------------------------------- tables

// The entries of a table are found by their distance in bytes.
constexpr int64_t STEP = COPIES * (int64_t)sizeof(word2);

inline word2 *entry_at(char *table, int64_t distance, int copy) {
  return (word2 *)(table + distance) + copy;
}

#if defined(__clang__)
#define MC_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MC_MIX(a, b, ...) __builtin_shuffle(a, b, (vl){__VA_ARGS__})
#endif

inline void scatter(char *table, const int64_t *key, vl x, vl fields) {
  alignas(64) word2 pairs[W];
#if MC_WIDTH == 16
  const vl first = MC_MIX(x, fields, 0, 8, 1, 9, 2, 10, 3, 11), second = MC_MIX(x, fields, 4, 12, 5, 13, 6, 14, 7, 15);
#elif MC_WIDTH == 8
  const vl first = MC_MIX(x, fields, 0, 4, 1, 5), second = MC_MIX(x, fields, 2, 6, 3, 7);
#else
  const vl first = MC_MIX(x, fields, 0, 2), second = MC_MIX(x, fields, 1, 3);
#endif
  memcpy(pairs, &first, sizeof first);
  memcpy(pairs + W / 2, &second, sizeof second);
#pragma GCC unroll 8
  for (int j = 0; j < W; j++) *entry_at(table, key[j], j % COPIES) += pairs[j];
}

// Adds channel `table`; hits come with it, or (by_code) are the voxels of class `table - 1`. Where all voxels of a chunk
// share a cell, as in the background of a sharp network, they are summed first: additions to one entry wait for each
// other. Elsewhere nothing branches. The squares are those of slot `first`.
template <bool BY_CODE>
void histogram(const ScorePlan &plan, ScoreSpace &ws, int table, const double *p, const int64_t *hits, int first) {
  const Cells cells;
  const vl code = held(table - 1), hit = held(HIT), one = held(ONE), low = held(LOW), here = held(first);
  int64_t *key = ws.key;
  vl square = {}, square_low = {}, differs = {};
  for (int i = 0; i < plan.chunk; i += W) {
    const vd v = load(p + i);
    const vl y = fixed(v * v), mine = load(ws.slot + i);
    square = mine == here ? square + y : square;
    square_low = mine == here ? square_low + (y & low) : square_low;
    const vl at = cells.of(v) * STEP + load(ws.base + i);
    store(key + i, at);
    differs |= at ^ load(key);
  }
  char *entries = (char *)ws.entries + (int64_t)table * CELLS * STEP;
  const bool alike = same(differs, (vl){}) && same(load(key), splat(key[0]));
  vl sum_x = {}, sum_fields = {};
  for (int i = 0; i < plan.chunk; i += W) {
    const vl x = fixed(load(p + i));
    vl fields = (x & low) + one;
    if (BY_CODE)
      fields = load(ws.code + i) == code ? fields + hit : fields;
    else
      fields += load(hits + i);
    if (alike) {
      sum_x += x;
      sum_fields += fields;
    } else {
      scatter(entries, key + i, x, fields);
    }
  }
  if (alike) *entry_at(entries, key[0], 0) += (word2){(uint64_t)total(sum_x), (uint64_t)total(sum_fields)};
  int64_t *sums = ws.slot_sums + (int64_t)first * (MC_SLOT_SQUARE + 2 * plan.tables) + MC_SLOT_SQUARE + 2 * table;
  const int64_t rest = total(square_low);
  sums[0] += (total(square) - rest) >> 24;
  sums[1] += rest;
}

// The squares of a further slot of a chunk of several.
void squares_of(const ScorePlan &plan, ScoreSpace &ws, int table, const double *p, int slot) {
  vl square = {}, square_low = {};
  for (int i = 0; i < plan.chunk; i += W) {
    const vd v = load(p + i);
    const vl y = fixed(v * v), mine = load(ws.slot + i);
    square = mine == (int64_t)slot ? square + y : square;
    square_low = mine == (int64_t)slot ? square_low + (y & LOW) : square_low;
  }
  int64_t *sums = ws.slot_sums + (int64_t)slot * (MC_SLOT_SQUARE + 2 * plan.tables) + MC_SLOT_SQUARE + 2 * table;
  const int64_t rest = total(square_low);
  sums[0] += (total(square) - rest) >> 24;
  sums[1] += rest;
}

// Limbs of nonnegative values of any size, the high one first.
inline void split(vd v, vl &high, vl &low) {
  const vd t = v * 0x1p24 + SHIFT;
  const vl rest = fixed(v - (t - SHIFT) * 0x1p-24);  // of either sign
  const vl h = (vl)t - SHIFT_BITS;
  high = rest < 0 ? h - 1 : h;
  low = rest & LOW;
}

// -log of the probability of the true class, as limbs.
void logarithms(const ScorePlan &plan, ScoreSpace &ws) {
  for (int i = 0; i < plan.chunk; i += W) {
    const vd p = load(ws.true_p + i);
    vl high, low;
    split(-logn(p > NLL_FLOOR ? p : splat(NLL_FLOOR)), high, low);
    store(ws.nll_hi + i, high);
    store(ws.nll_lo + i, low);
  }
}

void sums_of(const ScorePlan &plan, ScoreSpace &ws, int slot) {
  vl brier_hi = {}, brier_lo = {}, nll_hi = {}, nll_lo = {}, zero = {};
  for (int i = 0; i < plan.chunk; i += W) {
    const vd p = load(ws.true_p + i);
    const vd b = (load(ws.squares + i) - 2.0 * p) + 1.0;
    const vl mine = load(ws.slot + i) == (int64_t)slot;
    vl high, low;
    split(b > 0.0 ? b : (vd){}, high, low);
    brier_hi += high & mine;
    brier_lo += low & mine;
    nll_hi += load(ws.nll_hi + i) & mine;
    nll_lo += load(ws.nll_lo + i) & mine;
    zero -= (p == 0.0) & mine;
  }
  int64_t *sums = ws.slot_sums + (int64_t)slot * (MC_SLOT_SQUARE + 2 * plan.tables);
  sums[MC_SLOT_BRIER] += total(brier_hi);
  sums[MC_SLOT_BRIER + 1] += total(brier_lo);
  sums[MC_SLOT_NLL] += total(nll_hi);
  sums[MC_SLOT_NLL + 1] += total(nll_lo);
  sums[MC_SLOT_ZERO] += total(zero);
}

inline uint64_t eight(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

void confuse(const ScorePlan &plan, ScoreSpace &ws) {
  const int64_t classes = plan.p.classes;
  const uint64_t all = 0x0101010101010101u;
  for (int i = 0; i < plan.chunk; i += 8) {
    const uint8_t *slot = ws.slot8 + i, *code = ws.code8 + i, *predicted = ws.predicted8 + i;
    if (eight(slot) == slot[0] * all && eight(code) == code[0] * all && eight(predicted) == predicted[0] * all) {
      ws.pairs[(slot[0] * classes + code[0]) * classes + predicted[0]] += 8;
      continue;
    }
    for (int j = 0; j < 8; j++) ws.pairs[(slot[j] * classes + code[j]) * classes + predicted[j]]++;
  }
}

// ---------------------------------------------------------------- slots

// Adds a slot to the regions that it belongs to, and empties it.
void empty(const ScorePlan &plan, ScoreSpace &ws, int slot) {
  const int atom = ws.atom_of[slot], regions = plan.p.regions;
  const int64_t tables = plan.tables, pairs = (int64_t)plan.p.classes * plan.p.classes;
  uint64_t *entries = ws.entries + slot * tables * CELLS * COPIES * 2;
  for (int64_t c = 0; c < tables * CELLS; c++) {
    uint64_t *entry = entries + c * COPIES * 2;
    word2 sum = {};
    for (int i = 0; i < COPIES; i++) sum += *entry_at((char *)entry, 0, i);
    const uint64_t x = sum[0], fields = sum[1];
    if (!fields) continue;
    for (int i = 0; i < COPIES; i++) *entry_at((char *)entry, 0, i) = (word2){};
    const uint64_t low = fields & (ONE - 1);
    for (int r = 0; r < regions; r++) {
      if (!((atom >> r) & 1)) continue;
      const int64_t at = r * tables * CELLS + c;
      ws.n[at] += (int64_t)((fields >> 37) & 0x3fff);
      ws.correct[at] += (int64_t)(fields >> 51);
      ws.conf_hi[at] += (int64_t)((x - low) >> 24);
      ws.conf_lo[at] += (int64_t)low;
    }
  }
  int64_t *sums = ws.slot_sums + slot * (MC_SLOT_SQUARE + 2 * tables);
  uint32_t *counted = ws.pairs + slot * pairs;
  for (int r = 0; r < regions; r++) {
    if (!((atom >> r) & 1)) continue;
    for (int s = 0; s < 4; s++) ws.sums[r * 2 * MC_SCORE_SUMS + s] += sums[MC_SLOT_BRIER + s];
    ws.zero[r] += sums[MC_SLOT_ZERO];
    for (int64_t s = 0; s < 2 * tables; s++) ws.square[r * 2 * tables + s] += sums[MC_SLOT_SQUARE + s];
    for (int64_t s = 0; s < pairs; s++) ws.confusion[r * pairs + s] += counted[s];
  }
  memset(sums, 0, (size_t)(MC_SLOT_SQUARE + 2 * tables) * sizeof *sums);
  memset(counted, 0, (size_t)pairs * sizeof *counted);
  ws.room[slot] = 0;
}

void empty_all(const ScorePlan &plan, ScoreSpace &ws) {
  for (int slot = 1; slot < ws.used; slot++) empty(plan, ws, slot);
  memset(ws.slot_of, 0, sizeof ws.slot_of);
  ws.used = 1;
  ws.filled = -1;
}

// Adds the chunk at hand to the slots of the given combinations of regions; the other voxels go to slot 0.
void add_chunk(const ScorePlan &plan, ScoreSpace &ws, const int *slots, int count, bool uniform) {
  const ScoreProblem &p = plan.p;
  const int64_t stride = (int64_t)plan.tables * CELLS * STEP;
  for (int s = 0; s < count; s++) {
    if (ws.room[slots[s]] + plan.chunk > FULL) empty(plan, ws, slots[s]);
    ws.room[slots[s]] += plan.chunk;
  }
  if (!uniform || ws.filled != ws.atom8[0]) {
    uint8_t of[256] = {0};
    for (int s = 0; s < count; s++) of[ws.atom_of[slots[s]]] = (uint8_t)slots[s];
    for (int i = 0; i < plan.chunk; i++) ws.slot8[i] = of[ws.atom8[i]];
    for (int i = 0; i < plan.chunk; i++) ws.slot[i] = ws.slot8[i];
    for (int i = 0; i < plan.chunk; i++) ws.base[i] = (int64_t)ws.slot8[i] * stride;
    ws.filled = uniform ? ws.atom8[0] : -1;
  }
  const auto further = [&](int table, const double *from) {
    for (int s = 1; s < count; s++) squares_of(plan, ws, table, from, slots[s]);
  };
  const auto listed = [&](int row) {
    const uint8_t *member = p.members + (int64_t)row * p.classes;
    for (int i = 0; i < plan.chunk; i++) ws.listed[i] = member[ws.code8[i]] ? HIT : 0;
  };
  if (!p.grouped) {
    histogram<false>(plan, ws, 0, ws.top, ws.hit, slots[0]);
    further(0, ws.top);
    for (int s = 0; s < count; s++) sums_of(plan, ws, slots[s]);
    confuse(plan, ws);
  }
  for (int k = 0; k < p.channels && p.classwise; k++) {
    const double *from = ws.p + k * plan.chunk;
    if (p.grouped) {
      listed(k);
      histogram<false>(plan, ws, 1 + k, from, ws.listed, slots[0]);
    } else {
      histogram<true>(plan, ws, 1 + k, from, nullptr, slots[0]);
    }
    further(1 + k, from);
  }
  for (int c = 0; c < p.composites; c++) {
    const uint8_t *member = p.members + (int64_t)c * p.classes;
    memset(ws.added, 0, (size_t)plan.chunk * sizeof *ws.added);
    for (int k = 0; k < p.classes; k++)
      for (int i = 0; member[k] && i < plan.chunk; i++) ws.added[i] += ws.p[k * plan.chunk + i];
    for (int i = 0; i < plan.chunk; i++) ws.added[i] = ws.added[i] < 1.0 ? ws.added[i] : 1.0;
    listed(c);
    histogram<false>(plan, ws, 1 + p.channels + c, ws.added, ws.listed, slots[0]);
    further(1 + p.channels + c, ws.added);
  }
}

// Gives slots to the combinations of regions in the chunk, as many as there are at a time.
void distribute(const ScorePlan &plan, ScoreSpace &ws, bool uniform) {
  bool seen[256] = {false};
  int waiting[256], left = 0;
  for (int i = 0; i < (uniform ? 1 : plan.chunk); i++) {
    const int atom = ws.atom8[i];
    if (atom && !seen[atom]) waiting[left++] = atom;
    seen[atom] = true;
  }
  while (left) {
    int slots[256], count = 0, still = 0;
    for (int w = 0; w < left; w++) {
      const int atom = waiting[w];
      if (!ws.slot_of[atom] && ws.used < plan.slots) {
        ws.slot_of[atom] = ws.used;
        ws.atom_of[ws.used++] = atom;
      }
      if (ws.slot_of[atom])
        slots[count++] = ws.slot_of[atom];
      else
        waiting[still++] = atom;
    }
    if (count) add_chunk(plan, ws, slots, count, uniform);
    if (still) empty_all(plan, ws);
    left = still;
  }
}

void block(const ScorePlan &plan, ScoreSpace &ws, int64_t start, int64_t end) {
  const ScoreProblem &p = plan.p;
  for (; start < end; start += plan.chunk) {
    const int n = end - start < plan.chunk ? (int)(end - start) : plan.chunk;
    const bool uniform = read_regions(plan, ws, start, n);
    if (uniform && !ws.atom8[0]) continue;
    read_labels(plan, ws, start, n);
    if (p.values_type == MC_SCORE_F32)
      read_values<float>(plan, ws, start, n);
    else
      read_values<double>(plan, ws, start, n);
    if (p.grouped) {
      separate(plan, ws);
    } else {
      if (p.logits) {
        exponentials(plan, ws);
        classify<true>(plan, ws);
      } else {
        classify<false>(plan, ws);
      }
      logarithms(plan, ws);
    }
    distribute(plan, ws, uniform);
  }
}

}  // namespace

#define MC_JOIN(a, b) a##b
#define MC_NAME(a, b) MC_JOIN(a, b)
#define MC_TEXT(a) #a
#define MC_STRING(a) MC_TEXT(a)

extern const ScoreKernel MC_NAME(medcalib_score_, MC_ISA);
const ScoreKernel MC_NAME(medcalib_score_, MC_ISA) = {MC_STRING(MC_ISA), block, empty_all};
