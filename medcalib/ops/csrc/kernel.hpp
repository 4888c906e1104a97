// The kernels of one instruction set, written once with vectors of MC_WIDTH floats. All names are local to the object:
// an inline function shared with another instruction set could be linked in its stead.
#include <math.h>
#include <string.h>

#include "kernel.h"

namespace {

constexpr int W = MC_WIDTH;
typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));

inline vf load(const float *p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
inline vi loadi(const int32_t *p) {
  vi v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline vu loadu(const uint32_t *p) {
  vu v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline vf splat(float x) { return x - (vf){}; }
inline vi isplat(int32_t x) { return x - (vi){}; }
inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
inline vf keep(vi mask, vf a) { return (vf)(mask & (vi)a); }
inline vf relu(vf a) { return a > 0.0f ? a : a * 0.0f; }  // NaN stays NaN
inline vf magnitude(vf a) { return (vf)((vi)a & 0x7fffffff); }
inline vf sign(vf a) { return keep(a != 0.0f, (vf)(((vi)a & (int32_t)0x80000000) | (vi)splat(1.0f))); }

// exp for x <= 0: 2^n * e^r with |r| <= ln(2)/2; relative error below 2e-7. NaN stays NaN.
inline vf expn(vf x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  const vf shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
  const vf n = shifted - 12582912.0f;
  const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vf y = splat(1.0f / 720.0f);
  y = y * r + 1.0f / 120.0f;
  y = y * r + 1.0f / 24.0f;
  y = y * r + 1.0f / 6.0f;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  return (vf)((vi)y + ((vi)shifted << 23));
}

// log for x >= 1, finite: exponent and a series in s = (m-1)/(m+1). NaN and infinity stay what they are.
inline vf logn(vf x) {
  const vi bits = (vi)x;
  vi exponent = ((bits >> 23) & 0xff) - 127;
  vf m = (vf)((bits & 0x007fffff) | 0x3f800000);
  const vi high = m > 1.41421356f;
  m = select(high, m * 0.5f, m);
  exponent = exponent - high;
  const vf s = (m - 1.0f) / (m + 1.0f);
  const vf q = s * s;
  vf y = splat(1.0f / 9.0f);
  y = y * q + 1.0f / 7.0f;
  y = y * q + 0.2f;
  y = y * q + 1.0f / 3.0f;
  const vf n = __builtin_convertvector(exponent, vf);
  const vf found = n * 0.693359375f + (2.0f * s + (2.0f * s * q * y - n * 2.12194440e-4f));
  return select(x < INFINITY, found, x);
}

inline double total(vf v) {
  double sum[4] = {0.0, 0.0, 0.0, 0.0};  // four chains, each waiting for itself only
  for (int i = 0; i < W; i++) sum[i % 4] += (double)v[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// ---------------------------------------------------------------- labels and their windows

// In the type of the labels throughout: a wider one would leave lanes unused.
template <typename T>
uint8_t encode(const T *labels, int64_t n, const Plan &plan, uint8_t *codes, int32_t *bad) {
  const T ignore = (T)plan.p.ignore_index, classes = (T)plan.p.classes;
  const bool has_ignore = plan.p.has_ignore && (int64_t)ignore == plan.p.ignore_index;
  T wrong = 0, holes = 0;
  for (int64_t i = 0; i < n; i++) {
    const T label = labels[i];
    const bool ignored = has_ignore & (label == ignore);
    const bool known = (label >= 0) & (label < classes);
    wrong |= (T)(!ignored & !known);
    holes |= (T)ignored;
    codes[i] = (known & !ignored) ? (uint8_t)label : (uint8_t)MC_IGNORED;
  }
  *bad |= (int32_t)wrong;
  return (uint8_t)holes;
}

uint8_t encode_plane(const Plan &plan, Workspace &ws, int64_t image, int64_t depth, uint8_t *codes) {
  const int64_t at = (image * plan.p.depth + depth) * plan.plane;
  switch (plan.p.labels_type) {
    case MC_U8: return encode((const uint8_t *)plan.p.labels + at, plan.plane, plan, codes, &ws.bad_label);
    case MC_I16: return encode((const int16_t *)plan.p.labels + at, plan.plane, plan, codes, &ws.bad_label);
    case MC_I32: return encode((const int32_t *)plan.p.labels + at, plan.plane, plan, codes, &ws.bad_label);
    default: return encode((const int64_t *)plan.p.labels + at, plan.plane, plan, codes, &ws.bad_label);
  }
}

inline uint32_t word_of(const Plan &plan, int word, int field) {
  const int place = field - word * plan.per_word;
  return place >= 0 && place < plan.per_word ? 1u << (plan.bits * place) : 0u;
}

inline int outside_field(const Plan &plan) { return plan.p.padding == MC_PAD_ZEROS ? (int)plan.p.classes : 0; }

inline int64_t clamped(int64_t i, int64_t n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

// Packed counts of the in-plane window: bits [b c, b (c+1)) of a word count the voxels of its c-th class.
void box_plane(const Plan &plan, Workspace &ws, const uint8_t *codes, uint32_t *box) {
  const int64_t height = plan.p.height, width = plan.p.width;
  const int ry = plan.radius[1], rx = plan.radius[2];
  const bool replicate = plan.p.padding == MC_PAD_REPLICATE;
  for (int word = 0; word < plan.words; word++) {
    const uint32_t first = (uint32_t)(word * plan.per_word), per = (uint32_t)plan.per_word, bits = (uint32_t)plan.bits;
    const uint32_t outside = word_of(plan, word, outside_field(plan));
    uint32_t *row = ws.row + rx;
    for (int64_t y = 0; y < height; y++) {
      const uint8_t *line = codes + y * width;
      for (int64_t x = 0; x < width; x++) {
        const uint32_t place = (uint32_t)line[x] - first;
        row[x] = place < per ? 1u << ((bits * place) & 31u) : 0u;
      }
      for (int i = 1; i <= rx; i++) {
        row[-i] = replicate ? row[0] : outside;
        row[width - 1 + i] = replicate ? row[width - 1] : outside;
      }
      uint32_t *sum = ws.rows + y * width;
      if (rx == 1) {
        for (int64_t x = 0; x < width; x++) sum[x] = row[x - 1] + row[x] + row[x + 1];
        continue;
      }
      for (int64_t x = 0; x < width; x++) sum[x] = row[x];
      for (int i = 1; i <= rx; i++)
        for (int64_t x = 0; x < width; x++) sum[x] += row[x - i] + row[x + i];
    }
    uint32_t *out = box + word * plan.padded;
    const uint32_t beyond = outside * (uint32_t)(2 * rx + 1);
    for (int64_t y = 0; y < height; y++) {
      uint32_t *sum = out + y * width;
      const uint32_t *own = ws.rows + y * width;
      if (ry == 1 && y > 0 && y + 1 < height) {
        for (int64_t x = 0; x < width; x++) sum[x] = own[x - width] + own[x] + own[x + width];
        continue;
      }
      memcpy(sum, own, (size_t)width * sizeof *sum);
      for (int i = -ry; i <= ry; i++) {
        if (i == 0) continue;
        const int64_t near = replicate ? clamped(y + i, height) : y + i;
        if (near < 0 || near >= height) {
          for (int64_t x = 0; x < width; x++) sum[x] += beyond;
        } else {
          const uint32_t *other = ws.rows + near * width;
          for (int64_t x = 0; x < width; x++) sum[x] += other[x];
        }
      }
    }
  }
}

// In-plane Gaussian of each field; the last field but the classes counts what is valid or outside.
void blur_plane(const Plan &plan, Workspace &ws, const uint8_t *codes, float *blur) {
  const int64_t height = plan.p.height, width = plan.p.width;
  const int ry = plan.radius[1], rx = plan.radius[2], classes = (int)plan.p.classes;
  const bool replicate = plan.p.padding == MC_PAD_REPLICATE;
  bool present[256] = {false};
  for (int64_t i = 0; i < plan.plane; i++) present[codes[i]] = true;
  for (int field = 0; field <= classes; field++) {
    const bool counts = field == classes;
    const bool outside = !replicate && (counts || (plan.p.padding == MC_PAD_BACKGROUND && field == 0));
    float *out = blur + field * plan.padded;
    if (!counts && !present[field] && !outside) {
      memset(out, 0, (size_t)plan.plane * sizeof *out);
      continue;
    }
    const float around = outside ? 1.0f : 0.0f;
    float *row = ws.blur_row + rx;
    float beyond = plan.tap[2][rx] * around;
    for (int i = 1; i <= rx; i++) beyond += 2 * plan.tap[2][rx + i] * around;
    for (int64_t y = 0; y < height; y++) {
      const uint8_t *line = codes + y * width;
      for (int64_t x = 0; x < width; x++)
        row[x] = (counts ? line[x] != MC_IGNORED : line[x] == field) ? 1.0f : 0.0f;
      for (int i = 1; i <= rx; i++) {
        row[-i] = replicate ? row[0] : around;
        row[width - 1 + i] = replicate ? row[width - 1] : around;
      }
      float *sum = ws.blur_rows + y * width;
      for (int64_t x = 0; x < width; x++) sum[x] = plan.tap[2][rx] * row[x];
      for (int i = 1; i <= rx; i++)
        for (int64_t x = 0; x < width; x++) sum[x] += plan.tap[2][rx + i] * (row[x - i] + row[x + i]);
    }
    for (int64_t y = 0; y < height; y++) {
      float *sum = out + y * width;
      for (int64_t x = 0; x < width; x++) sum[x] = 0.0f;
      for (int i = -ry; i <= ry; i++) {
        const float tap = plan.tap[1][ry + i];
        const int64_t near = replicate ? clamped(y + i, height) : y + i;
        if (near < 0 || near >= height) {
          for (int64_t x = 0; x < width; x++) sum[x] += tap * beyond;
        } else {
          const float *other = ws.blur_rows + near * width;
          for (int64_t x = 0; x < width; x++) sum[x] += tap * other[x];
        }
      }
    }
  }
}

inline int64_t slot(const Plan &plan, int64_t depth) { return depth % plan.p.size[0]; }
inline uint8_t *codes_of(const Plan &plan, Workspace &ws, int64_t depth) {
  return ws.codes + slot(plan, depth) * plan.padded;
}
inline uint32_t *box_of(const Plan &plan, Workspace &ws, int64_t depth) {
  return ws.box + slot(plan, depth) * plan.words * plan.padded;
}
inline float *blur_of(const Plan &plan, Workspace &ws, int64_t depth) {
  return ws.blur + slot(plan, depth) * (plan.p.classes + 1) * plan.padded;
}

// Bring the planes that the window around `depth` needs into the ring.
void advance(const Plan &plan, Workspace &ws, int64_t image, int64_t depth) {
  const int64_t last = clamped(depth + plan.radius[0], plan.p.depth);
  int64_t next = clamped(depth - plan.radius[0], plan.p.depth);
  if (ws.image == image && ws.ready >= next) next = ws.ready + 1;
  for (; next <= last; next++) {
    uint8_t *codes = codes_of(plan, ws, next);
    ws.holes[slot(plan, next)] = encode_plane(plan, ws, image, next, codes);
    if (plan.p.window == MC_WINDOW_MEAN) box_plane(plan, ws, codes, box_of(plan, ws, next));
    if (plan.p.window == MC_WINDOW_SVLS) blur_plane(plan, ws, codes, blur_of(plan, ws, next));
  }
  ws.image = image;
  ws.ready = last;
  ws.sum_counts = plan.fields > plan.p.classes;
  for (int64_t near = clamped(depth - plan.radius[0], plan.p.depth); near <= last; near++)
    ws.sum_counts |= ws.holes[slot(plan, near)];
}

// Window counts of voxels [start, start + n) of the plane: ws.counts[word * chunk + i].
void window_counts(const Plan &plan, Workspace &ws, int64_t depth, int64_t start, int64_t n) {
  const bool replicate = plan.p.padding == MC_PAD_REPLICATE;
  for (int word = 0; word < plan.words; word++) {
    uint32_t *sum = ws.counts + word * plan.chunk;
    const uint32_t beyond =
        word_of(plan, word, outside_field(plan)) * (uint32_t)((2 * plan.radius[1] + 1) * (2 * plan.radius[2] + 1));
    if (plan.radius[0] == 1 && depth > 0 && depth + 1 < plan.p.depth) {
      const int64_t at = word * plan.padded + start;
      const uint32_t *before = box_of(plan, ws, depth - 1) + at, *own = box_of(plan, ws, depth) + at;
      const uint32_t *after = box_of(plan, ws, depth + 1) + at;
      for (int64_t x = 0; x < n; x++) sum[x] = before[x] + own[x] + after[x];
      continue;
    }
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int i = -plan.radius[0]; i <= plan.radius[0]; i++) {
      const int64_t near = replicate ? clamped(depth + i, plan.p.depth) : depth + i;
      if (near < 0 || near >= plan.p.depth) {
        for (int64_t x = 0; x < n; x++) sum[x] += beyond;
      } else {
        const uint32_t *other = box_of(plan, ws, near) + word * plan.padded + start;
        for (int64_t x = 0; x < n; x++) sum[x] += other[x];
      }
    }
  }
}

// SVLS shares of voxels [start, start + n): ws.share[k * chunk + i]; the field after the classes is the weight counted.
void window_shares(const Plan &plan, Workspace &ws, int64_t depth, int64_t start, int64_t n) {
  const bool replicate = plan.p.padding == MC_PAD_REPLICATE;
  const int classes = (int)plan.p.classes, rz = plan.radius[0];
  const uint8_t *codes = codes_of(plan, ws, depth) + start;
  float plane_weight = 0.0f;
  for (int i = -plan.radius[1]; i <= plan.radius[1]; i++)
    for (int j = -plan.radius[2]; j <= plan.radius[2]; j++)
      plane_weight += plan.tap[1][plan.radius[1] + i] * plan.tap[2][plan.radius[2] + j];
  float *counted = ws.share + classes * plan.chunk;
  for (int field = classes; field >= 0; field--) {
    float *sum = ws.share + field * plan.chunk;
    const bool outside = field == classes || (plan.p.padding == MC_PAD_BACKGROUND && field == 0);
    for (int64_t x = 0; x < n; x++) sum[x] = 0.0f;
    for (int i = -rz; i <= rz; i++) {
      const float tap = plan.tap[0][rz + i];
      const int64_t near = replicate ? clamped(depth + i, plan.p.depth) : depth + i;
      if (near < 0 || near >= plan.p.depth) {
        const float beyond = outside ? tap * plane_weight : 0.0f;
        for (int64_t x = 0; x < n; x++) sum[x] += beyond;
      } else {
        const float *other = blur_of(plan, ws, near) + field * plan.padded + start;
        for (int64_t x = 0; x < n; x++) sum[x] += tap * other[x];
      }
    }
    // the center weighs 1/2 in place of its Gaussian, which is 1
    for (int64_t x = 0; x < n; x++) {
      const bool own = field == classes ? codes[x] != MC_IGNORED : codes[x] == field;
      sum[x] = own ? (sum[x] - 1.0f) * plan.outer + 0.5f : sum[x] * plan.outer;
    }
    if (field < classes)
      for (int64_t x = 0; x < n; x++) sum[x] = counted[x] > 1e-20f ? sum[x] / counted[x] : 0.0f;
  }
}

// ---------------------------------------------------------------- numbers in and out

inline float from_bf16(uint16_t v) {
  const uint32_t bits = (uint32_t)v << 16;
  float f = 0.0f;
  memcpy(&f, &bits, 4);
  return f;
}
inline uint16_t to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}
inline float from_f16(uint16_t v) {
  const uint32_t sign = (uint32_t)(v & 0x8000u) << 16, rest = v & 0x7fffu;
  uint32_t bits = (rest << 13) + 0x38000000u;
  if (rest >= 0x7c00u) bits = (rest << 13) | 0x7f800000u;
  float f = 0.0f;
  memcpy(&f, &bits, 4);
  if (rest < 0x400u) f = (float)rest * 5.9604644775390625e-8f;  // subnormal: 2^-24
  uint32_t out;
  memcpy(&out, &f, 4);
  out |= sign;
  memcpy(&f, &out, 4);
  return f;
}
inline uint16_t to_f16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (bits < 0x38800000u) {  // subnormal: adding 0.5 rounds at 2^-24
    float small;
    memcpy(&small, &bits, 4);
    small += 0.5f;
    uint32_t rounded;
    memcpy(&rounded, &small, 4);
    return (uint16_t)(sign | (rounded - 0x3f000000u));
  }
  bits += 0xfffu + ((bits >> 13) & 1u);
  return (uint16_t)(sign | ((bits - 0x38000000u) >> 13));
}

void load_logits(const Plan &plan, int64_t at, int64_t n, float *z) {
  if (plan.p.logits_type == MC_F32) {
    memcpy(z, (const float *)plan.p.logits + at, (size_t)n * 4);
  } else if (plan.p.logits_type == MC_BF16) {
    const uint16_t *from = (const uint16_t *)plan.p.logits + at;
    for (int64_t i = 0; i < n; i++) z[i] = from_bf16(from[i]);
  } else {
    const uint16_t *from = (const uint16_t *)plan.p.logits + at;
    for (int64_t i = 0; i < n; i++) z[i] = from_f16(from[i]);
  }
}

void store_gradient(const Plan &plan, int64_t at, int64_t n, const float *g) {
  if (plan.p.logits_type == MC_F32) {
    memcpy((float *)plan.p.grad + at, g, (size_t)n * 4);
  } else if (plan.p.logits_type == MC_BF16) {
    uint16_t *to = (uint16_t *)plan.p.grad + at;
    for (int64_t i = 0; i < n; i++) to[i] = to_bf16(g[i]);
  } else {
    uint16_t *to = (uint16_t *)plan.p.grad + at;
    for (int64_t i = 0; i < n; i++) to[i] = to_f16(g[i]);
  }
}

// ---------------------------------------------------------------- the loss of a vector of voxels

// Counts and region of one vector of voxels.
struct Window {
  vf inverse;   // 1 / voxels that count
  vi boundary;  // mask
};

inline vu counts_of(const Plan &plan, const Workspace &ws, int64_t i, int k) {
  return (loadu(ws.counts + plan.offset[k] + i) >> plan.shift[k]) & plan.mask;
}

inline Window window_at(const Plan &plan, const Workspace &ws, int64_t i, vi code, bool by_region) {
  const int classes = (int)plan.p.classes;
  vu inside = (vu)isplat(plan.total), members = inside;
  if (ws.sum_counts) {
    inside = (vu){};
    for (int k = 0; k < classes; k++) inside += counts_of(plan, ws, i, k);
    members = plan.fields > classes ? inside + counts_of(plan, ws, i, classes) : inside;
  }
  Window w;
  const vf size = __builtin_convertvector((vi)members, vf);
  w.inverse = keep(size > 0.0f, 1.0f / (size > 0.0f ? size : splat(1.0f)));
  w.boundary = (vi){} - 1;
  if (by_region) {
    vu own = {};
    for (int word = 0; word < plan.words; word++) {
      const vu place = (vu)(code - word * plan.per_word);
      const vi here = (vi)(place < (uint32_t)plan.per_word);
      const vu shift = (place * (uint32_t)plan.bits) & 31u;
      own |= ((loadu(ws.counts + word * plan.chunk + i) >> shift) & plan.mask) & (vu)here;
    }
    w.boundary = (vi)(own < inside);
  }
  return w;
}

// Sums by lane: ce, penalty, count, boundary, then slope[2][C], violation[2][C].
inline void add_lane(Workspace &ws, int index, vf v) {
  float *at = ws.vectors + (int64_t)index * W;
  store(at, load(at) + v);
}

// PLAIN: a mean window, P(h_k) of each class, no sums for multipliers; then those options cost nothing. NC: the number of
// classes, or 0 for any.
template <int PENALTY, int TARGET, bool BACKWARD, bool PLAIN, int NC>
void block(const Plan &plan, Workspace &ws, int64_t i) {
  const Problem &p = plan.p;
  const bool want_stats = !PLAIN && p.want_stats, class_mean = !PLAIN && p.class_mean;
  const int classes = NC ? NC : (int)p.classes;
  const int64_t chunk = plan.chunk;
  const vi code = loadi(ws.code + i);
  const vi valid = code != (int32_t)MC_IGNORED;
  const bool svls = !PLAIN && p.window == MC_WINDOW_SVLS, by_region = p.by_region;
  const Numbers &f = plan.f;
  const float margin = f.margin, inverse_norm = f.inverse_norm;

  Window window = {};
  if (PENALTY == MC_PENALTY_NEIGHBOR || TARGET == MC_TARGET_WINDOW)
    if (!svls) window = window_at(plan, ws, i, code, by_region);
  const auto share = [&](int k) -> vf {
    if (svls) return load(ws.share + k * chunk + i);
    return __builtin_convertvector((vi)counts_of(plan, ws, i, k), vf) * window.inverse;
  };
  const vf factor = by_region ? select(window.boundary, splat(f.factor_boundary), splat(f.factor_interior))
                              : splat(f.factor_boundary);
  const auto chosen = [&](const float (&numbers)[2][64], int k) -> vf {
    if (!by_region) return splat(numbers[0][k]);
    return select(window.boundary, splat(numbers[0][k]), splat(numbers[1][k]));
  };

  vf top = load(ws.from[0] + i);
  for (int k = 1; k < classes; k++) {
    const vf v = load(ws.from[k] + i);
    top = v > top ? v : top;
  }

  vf sum = {}, to_label = {}, to_all = {}, weight = {}, penalty = {}, slopes = {}, ties = {}, mean_h = {};
  for (int k = 0; k < classes; k++) {
    const vf v = load(ws.from[k] + i);
    const vf distance = top - v;
    if (TARGET != MC_TARGET_NONE) {
      const vf ek = expn(-distance);
      sum += ek;
      if (BACKWARD) store(ws.to[k] + i, ek);
      if (TARGET == MC_TARGET_LABEL) {
        to_label = select(code == k, distance, to_label);
        if (!BACKWARD && f.rest != 0.0f) to_all += distance;  // a masked class lies infinitely far
      } else {
        const vf t = share(k);
        weight += t;
        to_label += keep(t > 0.0f, t * distance);
      }
    }
    if (PENALTY == MC_PENALTY_MARGIN) {
      const vf excess = distance - margin;
      if (p.power == 1) {
        if (!BACKWARD) penalty += relu(excess);
        if (BACKWARD) slopes += keep(excess > 0.0f, splat(1.0f));
      } else {
        const vf used = p.power == 2 ? relu(excess) : excess;
        if (!BACKWARD) penalty += used * used;
        if (BACKWARD) slopes += 2.0f * used;
      }
      if (BACKWARD) ties += keep(distance == 0.0f, splat(1.0f));
    }
    if (PENALTY == MC_PENALTY_CALS) {
      const float lam = plan.lam[0][k], rho = plan.rho[0][k];
      const vf h = (distance - margin) * inverse_norm;
      const vf slope = lam + rho * h;
      if (!BACKWARD) {
        penalty += select(slope >= 0.0f, h * (lam + rho * h * 0.5f), splat(-lam * lam / (2.0f * rho)) + 0.0f * h);
        if (want_stats) {
          vf bounded = relu(slope);
          bounded = bounded < f.lam_min ? splat(f.lam_min) : bounded;
          bounded = bounded > f.lam_max ? splat(f.lam_max) : bounded;
          add_lane(ws, MC_SUM_STATS + k, keep(valid, bounded));
          add_lane(ws, MC_SUM_STATS + 2 * classes + k, keep(valid, h));
        }
      } else {
        slopes += relu(slope) * inverse_norm;
        ties += keep(distance == 0.0f, splat(1.0f));
      }
    }
    if (PENALTY == MC_PENALTY_ACLS && !BACKWARD) {
      const vf over = relu(v - margin), below = relu(distance - margin);
      penalty += keep(distance == 0.0f, f.weight_top * over * over);
      penalty += f.weight_rest * below * below;
    }
    if (PENALTY == MC_PENALTY_NEIGHBOR && (!BACKWARD || class_mean)) {
      const vf h = magnitude(v - factor * share(k));
      if (class_mean) {
        mean_h += h;
      } else {
        const vf lam = chosen(plan.lam, k), rho = chosen(plan.rho, k);
        penalty += h * (lam + 0.5f * rho * h);
        if (want_stats) {
          vf slope = lam + rho * h;
          slope = slope < f.lam_min ? splat(f.lam_min) : slope;
          slope = slope > f.lam_max ? splat(f.lam_max) : slope;
          const vi first = valid & window.boundary, second = valid & ~window.boundary;
          add_lane(ws, MC_SUM_STATS + k, keep(by_region ? first : valid, slope));
          add_lane(ws, MC_SUM_STATS + 2 * classes + k, keep(by_region ? first : valid, h));
          if (by_region) {
            add_lane(ws, MC_SUM_STATS + classes + k, keep(second, slope));
            add_lane(ws, MC_SUM_STATS + 3 * classes + k, keep(second, h));
          }
        }
      }
    }
  }
  vf mean_slope = {};
  if (PENALTY == MC_PENALTY_NEIGHBOR && class_mean) {
    mean_h *= 1.0f / classes;
    const vf lam = chosen(plan.lam, 0), rho = chosen(plan.rho, 0);
    mean_slope = lam + rho * mean_h;
    penalty = mean_h * (lam + 0.5f * rho * mean_h) * (float)classes;  // divided by the classes below
    if (!BACKWARD && want_stats) {
      vf slope = mean_slope < f.lam_min ? splat(f.lam_min) : mean_slope;
      slope = slope > f.lam_max ? splat(f.lam_max) : slope;
      const vi first = by_region ? valid & window.boundary : valid, second = valid & ~first;
      add_lane(ws, MC_SUM_STATS, keep(first, slope));
      add_lane(ws, MC_SUM_STATS + classes, keep(second, slope));
      add_lane(ws, MC_SUM_STATS + 2 * classes, keep(first, mean_h));
      add_lane(ws, MC_SUM_STATS + 3 * classes, keep(second, mean_h));
    }
  }

  if (!BACKWARD) {
    add_lane(ws, MC_SUM_COUNT, keep(valid, splat(1.0f)));
    if (TARGET != MC_TARGET_NONE) {
      const vf spread = logn(sum);
      vf ce = TARGET == MC_TARGET_LABEL ? f.own * (to_label + spread) : to_label + weight * spread;
      if (TARGET == MC_TARGET_LABEL && f.rest != 0.0f)
        ce += f.rest * ((float)(classes - 1) * spread + (to_all - to_label));
      add_lane(ws, MC_SUM_CE, keep(valid, ce));
    }
    if (PENALTY != MC_PENALTY_NONE) add_lane(ws, MC_SUM_PENALTY, keep(valid, penalty));
    if (by_region && want_stats) add_lane(ws, MC_SUM_BOUNDARY, keep(valid & window.boundary, splat(1.0f)));
    return;
  }

  const float grad_ce = f.grad_ce, grad_penalty = f.grad_penalty;
  const vf inverse_sum = grad_ce / sum;
  const vf shared = slopes / (ties > 0.0f ? ties : splat(1.0f));
  const float own = f.own * grad_ce, rest = f.rest * grad_ce;
  const vf all = TARGET == MC_TARGET_LABEL ? splat(f.own + (float)(classes - 1) * f.rest) : weight;
  for (int k = 0; k < classes; k++) {
    const vf v = load(ws.from[k] + i);
    vf g = {};
    if (TARGET == MC_TARGET_LABEL)
      g = load(ws.to[k] + i) * inverse_sum * all - select(code == k, splat(own), splat(rest));
    if (TARGET == MC_TARGET_WINDOW) g = load(ws.to[k] + i) * inverse_sum * all - grad_ce * share(k);
    const vf distance = top - v;
    if (PENALTY == MC_PENALTY_MARGIN) {
      const vf excess = distance - margin;
      vf slope;
      if (p.power == 1)
        slope = keep(excess > 0.0f, splat(1.0f));
      else
        slope = 2.0f * (p.power == 2 ? relu(excess) : excess);
      g += grad_penalty * (keep(distance == 0.0f, shared) - slope);
    }
    if (PENALTY == MC_PENALTY_CALS) {
      const vf h = (distance - margin) * inverse_norm;
      const vf slope = relu(plan.lam[0][k] + plan.rho[0][k] * h) * inverse_norm;
      g += grad_penalty * (keep(distance == 0.0f, shared) - slope);
    }
    if (PENALTY == MC_PENALTY_ACLS) {
      const vf over = keep(distance == 0.0f, relu(v - margin)), below = relu(distance - margin);
      g += grad_penalty * (2.0f * f.weight_top * over - 2.0f * f.weight_rest * below);
    }
    if (PENALTY == MC_PENALTY_NEIGHBOR) {
      const vf difference = v - factor * share(k);
      if (class_mean)
        g += grad_penalty * sign(difference) * mean_slope;
      else
        g += grad_penalty * (chosen(plan.lam, k) * sign(difference) + chosen(plan.rho, k) * difference);
    }
    store(ws.to[k] + i, keep(valid, g));
  }
}

typedef void (*Block)(const Plan &, Workspace &, int64_t);

template <int PENALTY, int TARGET, bool BACKWARD, bool PLAIN>
Block by_classes(int64_t classes) {
  switch (classes) {
    case 2: return block<PENALTY, TARGET, BACKWARD, PLAIN, 2>;
    case 3: return block<PENALTY, TARGET, BACKWARD, PLAIN, 3>;
    case 4: return block<PENALTY, TARGET, BACKWARD, PLAIN, 4>;
    default: return block<PENALTY, TARGET, BACKWARD, PLAIN, 0>;
  }
}

template <int PENALTY, bool BACKWARD, bool PLAIN = false>
Block by_target(const Problem &p) {
  switch (p.target) {
    case MC_TARGET_LABEL: return by_classes<PENALTY, MC_TARGET_LABEL, BACKWARD, PLAIN>(p.classes);
    case MC_TARGET_WINDOW: return by_classes<PENALTY, MC_TARGET_WINDOW, BACKWARD, PLAIN>(p.classes);
    default: return by_classes<PENALTY, MC_TARGET_NONE, BACKWARD, PLAIN>(p.classes);
  }
}

template <bool BACKWARD>
Block by_neighbor(const Problem &p) {
  const bool plain = p.window == MC_WINDOW_MEAN && !p.class_mean && (BACKWARD || !p.want_stats);
  return plain ? by_target<MC_PENALTY_NEIGHBOR, BACKWARD, true>(p) : by_target<MC_PENALTY_NEIGHBOR, BACKWARD>(p);
}

template <bool BACKWARD>
Block by_penalty(const Problem &p) {
  switch (p.penalty) {
    case MC_PENALTY_MARGIN: return by_target<MC_PENALTY_MARGIN, BACKWARD>(p);
    case MC_PENALTY_CALS: return by_target<MC_PENALTY_CALS, BACKWARD>(p);
    case MC_PENALTY_ACLS: return by_target<MC_PENALTY_ACLS, BACKWARD>(p);
    case MC_PENALTY_NEIGHBOR: return by_neighbor<BACKWARD>(p);
    default: return by_target<MC_PENALTY_NONE, BACKWARD>(p);
  }
}

void flush(const Plan &plan, Workspace &ws, double *sums) {
  const int lanes = plan.p.want_stats ? MC_SUM_STATS + 4 * (int)plan.p.classes : MC_SUM_STATS;
  for (int s = 0; s < lanes; s++) {
    sums[s] += total(load(ws.vectors + (int64_t)s * W));
    store(ws.vectors + (int64_t)s * W, (vf){});
  }
}

void plane(const Plan &plan, Workspace &ws, int64_t image, int64_t depth, int backward, double *sums) {
  const Problem &p = plan.p;
  const Block run = backward ? by_penalty<true>(p) : by_penalty<false>(p);
  advance(plan, ws, image, depth);
  const uint8_t *codes = codes_of(plan, ws, depth);
  for (int64_t start = 0; start < plan.plane; start += plan.chunk) {
    const int64_t n = plan.plane - start < plan.chunk ? plan.plane - start : plan.chunk;
    const int64_t full = (n + W - 1) / W * W;
    // many classes at a power-of-two distance would crowd one set of the cache
    const bool in_place = p.logits_type == MC_F32 && n == full && p.classes <= 8;
    for (int64_t k = 0; k < p.classes; k++) {
      const int64_t at = ((image * p.classes + k) * p.depth + depth) * plan.plane + start;
      if (in_place) {
        ws.from[k] = (const float *)p.logits + at;
        ws.to[k] = (float *)p.grad + (backward ? at : 0);
        continue;
      }
      load_logits(plan, at, n, ws.z + k * plan.chunk);
      for (int64_t i = n; i < full; i++) ws.z[k * plan.chunk + i] = 0.0f;
      ws.from[k] = ws.z + k * plan.chunk;
      ws.to[k] = ws.e + k * plan.chunk;
    }
    for (int64_t i = 0; i < n; i++) ws.code[i] = codes[start + i];
    for (int64_t i = n; i < full; i++) ws.code[i] = MC_IGNORED;
    if (p.window == MC_WINDOW_MEAN) window_counts(plan, ws, depth, start, n);
    if (p.window == MC_WINDOW_SVLS) window_shares(plan, ws, depth, start, n);
    for (int64_t i = 0; i < full; i += W) run(plan, ws, i);
    if (backward) {
      for (int64_t k = 0; k < p.classes && !in_place; k++)
        store_gradient(plan, ((image * p.classes + k) * p.depth + depth) * plan.plane + start, n, ws.e + k * plan.chunk);
    } else {
      flush(plan, ws, sums);
      if (p.want_stats)
        for (int64_t i = 0; i < n; i++)
          if (codes[start + i] != MC_IGNORED) sums[MC_SUM_STATS + 4 * p.classes + codes[start + i]] += 1.0;
    }
  }
}

void shares(const Plan &plan, Workspace &ws, int64_t image, int64_t depth, float *out) {
  const Problem &p = plan.p;
  advance(plan, ws, image, depth);
  for (int64_t start = 0; start < plan.plane; start += plan.chunk) {
    const int64_t n = plan.plane - start < plan.chunk ? plan.plane - start : plan.chunk;
    const int64_t full = (n + W - 1) / W * W;
    if (p.window == MC_WINDOW_SVLS) {
      window_shares(plan, ws, depth, start, n);
    } else {
      window_counts(plan, ws, depth, start, n);
      for (int64_t i = 0; i < full; i += W) {
        const Window window = window_at(plan, ws, i, (vi){}, false);
        for (int k = 0; k < (int)p.classes; k++)
          store(ws.share + k * plan.chunk + i,
                __builtin_convertvector((vi)counts_of(plan, ws, i, k), vf) * window.inverse);
      }
    }
    for (int64_t k = 0; k < p.classes; k++)
      memcpy(out + ((image * p.classes + k) * p.depth + depth) * plan.plane + start, ws.share + k * plan.chunk,
             (size_t)n * 4);
  }
}

}  // namespace

#define MC_JOIN(a, b) a##b
#define MC_NAME(a, b) MC_JOIN(a, b)
#define MC_TEXT(a) #a
#define MC_STRING(a) MC_TEXT(a)

extern const Kernel MC_NAME(medcalib_kernel_, MC_ISA);
const Kernel MC_NAME(medcalib_kernel_, MC_ISA) = {MC_STRING(MC_ISA), plane, shares};
