// The work of `Kernels` on one block with all loops fused: edges are recomputed in tiles that stay in a core's cache.
//
// Memory has the hidden channel last. W is the hidden width, padded so that it divides, or is a multiple of, 16 lanes.
// Where W < 16, one vector holds 16 / W edges, and a row's factors are repeated to fill it. Letters: g block, r row
// (output neuron), c column (input neuron), t tap, l layer. Equation numbers are those of the paper, as in equations.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr long LANES = 16;
constexpr long MOST_BUNDLES = 64;
constexpr long TILE = 64;   // vectors of edges in a tile
constexpr long ROWS = 4;    // rows that are encoded together
constexpr long A = 0, B = 1, P = 2, Q = 3;  // factors; p' follows q
constexpr long EDGES = 64;  // edges that are decoded together, four vectors of them

template <class S> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(64)));
  typedef int32_t M __attribute__((vector_size(64)));
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(128)));
  typedef int64_t M __attribute__((vector_size(128)));
};
template <class S> using Vec = typename Lanes<S>::V;
template <class S> using Mask = typename Lanes<S>::M;

template <class S> inline Vec<S> load(const S* from) {
  Vec<S> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
template <class S> inline void store(S* to, Vec<S> v) { std::memcpy(to, &v, sizeof(v)); }
template <class S> inline Vec<S> fill(S x) { return x - Vec<S>{}; }
template <class S> inline Vec<S> spread(Vec<S> v, Mask<S> index) {
#if defined(__clang__)
  Vec<S> out;
  for (long i = 0; i < LANES; ++i) out[i] = v[index[i]];
  return out;
#else
  return __builtin_shuffle(v, index);
#endif
}

// f(0), f(1), ... with constants, so that arrays of vectors stay in registers.
#define INLINE __attribute__((always_inline))
template <long N, class F> INLINE inline void unroll(F f) {
  [&]<long... I>(std::integer_sequence<long, I...>) INLINE {
    (f(std::integral_constant<long, I>()), ...);
  }(std::make_integer_sequence<long, N>());
}

// Lane j of from[(j & d) != high], moved by d: one step of a transposition.
template <class S, long D> struct Step {
  Mask<S> low, high;
  Step() {
    for (long j = 0; j < LANES; ++j) {
      low[j] = j & D ? LANES + j - D : j;
      high[j] = j & D ? LANES + j : j + D;
    }
  }
};
template <class S> INLINE inline Vec<S> pick(Vec<S> a, Vec<S> b, Mask<S> index) {
#if defined(__clang__)
  Vec<S> out;
  for (long i = 0; i < LANES; ++i) out[i] = index[i] < LANES ? a[index[i]] : b[index[i] - LANES];
  return out;
#else
  return __builtin_shuffle(a, b, index);
#endif
}
template <class S, long D> INLINE inline void transpose_by(Vec<S>* rows) {
  static const Step<S, D> step;
  const Mask<S> low = step.low, high = step.high;
  unroll<LANES>([&](auto i) INLINE {
    if constexpr (!(i.value & D)) {
      const Vec<S> a = rows[i], b = rows[i + D];
      rows[i] = pick<S>(a, b, low);
      rows[i + D] = pick<S>(a, b, high);
    }
  });
}
// Transposes 16 vectors.
template <class S> inline void transpose(Vec<S>* rows) {
  transpose_by<S, 8>(rows);
  transpose_by<S, 4>(rows);
  transpose_by<S, 2>(rows);
  transpose_by<S, 1>(rows);
}

inline Vec<float> vexp(Vec<float> x) {  // Cephes' polynomial: 2 units in the last place
  x = x > 88.0f ? fill(88.0f) : x;
  x = x < -87.0f ? fill(-87.0f) : x;
  const Vec<float> magic = fill(12582912.0f);
  const Vec<float> n = (x * 1.44269504088896341f + magic) - magic;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> y = fill(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const Mask<float> bits = (__builtin_convertvector(n, Mask<float>) + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return y * scale;
}
inline Vec<double> vexp(Vec<double> x) {
  for (long i = 0; i < LANES; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace

// What Python passes, the same for every function.
template <class S> struct Block {
  const S* raw;             // [G, O, I, T]
  const S* weight;          // [T, W]
  const S* bias;            // [W]
  const int64_t* target;    // node of each row, [G, O]
  const int64_t* source;    // node of each column, [G, I]
  const S* const* factors;  // of the nodes in each layer so far: a, b, p, q and p', [N, 5, W]
  int64_t G, O, I, T, W, N, layers, threads;
};

namespace {

template <class S> Vec<S> one() { return fill(S(1)); }

// A block's edges, a tile of some rows and columns at a time; each thread has one.
template <class S> struct Tile {
  const Block<S>& block;
  const bool narrow;                  // several edges to a vector
  const long per_edge, per_vector;    // vectors of an edge, edges of a vector
  const long width;                   // numbers of a row's pattern
  const long most, size;              // columns and numbers of a tile
  Mask<S> lane_edge;                  // which of its vector's edges a lane belongs to
  const long updates;                 // that the edges have had
  long g = 0, begin = 0, columns = 0, vectors = 0;
  std::vector<S> weight, bias, past, patterns, edges, taps, row_sums, column_sums, own, there;

  Tile(const Block<S>& block, long updates)
      : block(block), narrow(block.W < LANES), per_edge(narrow ? 1 : block.W / LANES),
        per_vector(narrow ? LANES / block.W : 1), width(per_edge * LANES),
        most(std::min((block.I + per_vector - 1) / per_vector, std::max(1L, TILE / per_edge)) * per_vector),
        size(most * block.W), updates(updates), weight(block.T * width), bias(width), past(2 * updates * size),
        patterns(2 * updates * ROWS * width), edges(ROWS * size + LANES), taps(ROWS * block.T * (most + LANES)) {
    for (long i = 0; i < LANES; ++i) lane_edge[i] = i / std::min(long(block.W), LANES);
    for (long t = 0; t < block.T; ++t) pattern(&weight[t * width], block.weight + t * block.W);
    pattern(bias.data(), block.bias);
  }
  // A row's values, repeated to fill a vector.
  void pattern(S* to, const S* from) const {
    for (long i = 0; i < width; i += block.W) std::memcpy(to + i, from, block.W * sizeof(S));
  }
  // One of many values of the nodes, [N, many, W], at the tile's columns, side by side; zeros in the rest of the last
  // vector.
  void gather(S* to, const S* values, long many, long which) const {
    const int64_t* source = block.source + g * block.I + begin;
    for (long c = 0; c < columns; ++c)
      std::memcpy(to + c * block.W, values + (source[c] * many + which) * block.W, block.W * sizeof(S));
    std::fill(to + columns * block.W, to + vectors * LANES, S(0));
  }
  const S* row(const S* values, long r, long many, long which) const {
    return values + (block.target[g * block.O + r] * many + which) * block.W;
  }
  long tail() const { return columns % per_vector * block.W; }  // numbers of the last vector; 0 where it is full

  void move(long to_g, long to) {
    g = to_g;
    begin = to;
    columns = std::min(most, long(block.I) - to);
    vectors = (columns + per_vector - 1) / per_vector * per_edge;
    for (long l = 0; l < updates; ++l)
      for (long k = 0; k < 2; ++k) gather(&past[(2 * l + k) * size], block.factors[l], 5, Q + k);
  }

  // Equations (13) and (19): the edges of R rows, encoded and updated as in the layers before. Never inlined: forward
  // and backward passes must find the same bits, since they compare messages with their maximum.
  template <long R> __attribute__((noinline)) void encode(long first) {
    const long T = block.T, stride = most + LANES;
    const S* raw[R];
    for (long r = 0; r < R; ++r) {
      raw[r] = block.raw + ((g * block.O + first + r) * block.I + begin) * T;
      for (long l = 0; l < updates; ++l)
        for (long k = 0; k < 2; ++k)
          pattern(&patterns[((l * R + r) * 2 + k) * width], row(block.factors[l], first + r, 5, P + k));
      for (long c = 0; narrow && c < columns; ++c)
        for (long t = 0; t < T; ++t) taps[(r * T + t) * stride + c] = raw[r][c * T + t];
    }
    for (long v = 0; v < per_edge; ++v) {
      for (long k = v; k < vectors; k += per_edge) {
        Vec<S> e[R];
        unroll<R>([&](auto r) INLINE { e[r] = load(&bias[v * LANES]); });
        const long from = k / per_edge * T;
        for (long t = 0; t < T; ++t) {
          const Vec<S> w = load(&weight[t * width + v * LANES]);
          if (narrow)
            unroll<R>([&](auto r) INLINE {
              e[r] += w * spread<S>(load(&taps[(r * T + t) * stride + k * per_vector]), lane_edge);
            });
          else
            unroll<R>([&](auto r) INLINE { e[r] += w * raw[r][from + t]; });
        }
        for (long l = 0; l < updates; ++l) {
          const Vec<S> q = load(&past[2 * l * size + k * LANES]), p = load(&past[(2 * l + 1) * size + k * LANES]);
          const S* at = &patterns[l * R * 2 * width + v * LANES];
          unroll<R>([&](auto r) INLINE {
            e[r] *= load(at + 2 * r * width) * q + S(1) + load(at + (2 * r + 1) * width) * p;
          });
        }
        unroll<R>([&](auto r) INLINE { store(&edges[r * size + k * LANES], e[r]); });
      }
    }
  }
};

// Sum of the messages y and of y^2, maximum of y and of -y, and how often each is attained.
template <class S> struct Six {
  Vec<S> part[6];

  static Six empty() {
    const Vec<S> zero = fill(S(0)), least = fill(-std::numeric_limits<S>::infinity());
    return {{zero, zero, least, least, zero, zero}};
  }
  INLINE static Six at(const S* from, long stride) {
    Six six;
    unroll<6>([&](auto k) INLINE { six.part[k] = load(from + k * stride); });
    return six;
  }
  INLINE void put(S* to, long stride) const {
    unroll<6>([&](auto k) INLINE { store(to + k * stride, part[k]); });
  }
  INLINE void further(long k, Vec<S> y) {
    const auto above = y > part[k], same = y == part[k];
    part[k + 2] = above ? one<S>() : (same ? part[k + 2] + S(1) : part[k + 2]);
    part[k] = above ? y : part[k];
  }
  INLINE void receive(Vec<S> y) {
    part[0] += y;
    part[1] += y * y;
    further(2, y);
    further(3, -y);
  }
  Six joined(const Six& other) const {
    Six six = *this;
    for (long k = 0; k < 2; ++k) six.part[k] += other.part[k];
    for (long k = 2; k < 4; ++k) {
      const auto above = other.part[k] > part[k], same = other.part[k] == part[k];
      six.part[k + 2] = above ? other.part[k + 2] : (same ? part[k + 2] + other.part[k + 2] : part[k + 2]);
      six.part[k] = above ? other.part[k] : part[k];
    }
    return six;
  }
};

// Joins what two sets of messages were reduced to: the six numbers of each lie a stride apart.
template <class S> void join(S* into, long stride, const S* from, long from_stride) {
  for (long k = 0; k < 2; ++k) into[k * stride] += from[k * from_stride];
  for (long k = 2; k < 4; ++k) {
    S &high = into[k * stride], &count = into[(k + 2) * stride];
    const S other = from[k * from_stride], others = from[(k + 2) * from_stride];
    count = other > high ? others : other == high ? count + others : count;
    high = std::max(high, other);
  }
}

// Splits a block among threads: all of its g, and the rows of one g where there are fewer of them than threads.
template <class S> struct Split {
  long parts, rows, bundle, bundles;  // parts of a g's rows, rows of a part; how many g go together
  explicit Split(const Block<S>& block)
      : bundle((block.G + MOST_BUNDLES - 1) / MOST_BUNDLES), bundles((block.G + bundle - 1) / bundle) {
    const long wanted = std::min(long(block.O), (block.threads + long(block.G) - 1) / long(block.G));
    rows = ((block.O + wanted - 1) / wanted + ROWS - 1) / ROWS * ROWS;
    parts = (block.O + rows - 1) / rows;
  }
};

// Calls work(tile, g, part, first row, last row) for every piece of the block.
template <class S, class Work> void for_each_piece(const Block<S>& block, const Split<S>& split, long updates, Work work) {
#pragma omp parallel num_threads(block.threads)
  {
    Tile<S> tile(block, updates);
#pragma omp for schedule(dynamic, 1)
    for (long piece = 0; piece < split.bundles * split.parts; ++piece) {
      const long part = piece % split.parts, first = part * split.rows, start = piece / split.parts * split.bundle;
      for (long g = start; g < std::min(long(block.G), start + split.bundle); ++g)
        work(tile, g, part, first, std::min(long(block.O), first + split.rows));
    }
  }
}

// Sums of numbers over all pieces of a block, in an order that does not depend on the threads' pace.
template <class S> struct Parts {
  const Split<S>& split;
  const long numbers;
  std::vector<S> all;
  Parts(const Split<S>& split, long numbers)
      : split(split), numbers(numbers), all(split.bundles * split.parts * numbers) {}
  S* at(long g, long part) { return &all[(g / split.bundle * split.parts + part) * numbers]; }
  std::vector<S> total() const {
    std::vector<S> sum(numbers);
    for (size_t i = 0; i < all.size(); ++i) sum[i % numbers] += all[i];
    return sum;
  }
};

// Calls work(row, number of rows, Rows<number>) so that most rows are taken four at a time.
template <long R> struct Rows {};
template <class Work> void by_rows(long first, long last, Work work) {
  for (; first + ROWS <= last; first += ROWS) work(first, Rows<ROWS>());
  for (; first < last; ++first) work(first, Rows<1>());
}

// Adds what every g and r found, [G * K, numbers], to the nodes. Each thread has its share of the nodes.
template <class S, class Add>
void for_each_node(const Block<S>& block, const int64_t* node, long count, Add add) {
#pragma omp parallel for num_threads(block.threads)
  for (long thread = 0; thread < block.threads; ++thread) {
    const long first = block.N * thread / block.threads, last = block.N * (thread + 1) / block.threads;
    for (long i = 0; i < count; ++i)
      if (first <= node[i] && node[i] < last) add(i, node[i]);
  }
}

// Equations (14) and (15) of the last layer, joined to what the nodes received as rows and as columns, [2, N, 6, W].
template <class S> void statistics(const Block<S>& block, S* received) {
  const Split<S> split(block);
  const long W = block.W, all = block.G * block.I * 6 * W;
  const S* factors = block.factors[block.layers - 1];
  const auto to_rows = std::make_unique_for_overwrite<S[]>(block.G * block.O * 6 * W);
  const auto to_columns = std::make_unique_for_overwrite<S[]>(split.parts * all);
  for_each_piece(block, split, block.layers - 1, [&](Tile<S>& tile, long g, long part, long first, long last) {
    const long width = tile.width, size = tile.size;
    S* columns = &to_columns[part * all];
    tile.row_sums.resize((last - first) * 6 * width);
    tile.column_sums.resize(6 * size), tile.there.resize(size), tile.own.resize(ROWS * width);
    S *at_rows = tile.row_sums.data(), *at_columns = tile.column_sums.data();
    for (long i = 0; i < last - first; ++i)
      for (long v = 0; v < width; v += LANES) Six<S>::empty().put(&at_rows[i * 6 * width + v], width);
    for (long begin = 0; begin < block.I; begin += tile.most) {
      tile.move(g, begin);
      tile.gather(tile.there.data(), factors, 5, B);
      for (long k = 0; k < tile.vectors * LANES; k += LANES) Six<S>::empty().put(&at_columns[k], size);
      by_rows(first, last, [&]<long R>(long row, Rows<R>) {
        tile.template encode<R>(row);
        for (long r = 0; r < R; ++r) tile.pattern(&tile.own[r * width], tile.row(factors, row + r, 5, A));
        for (long v = 0; v < tile.per_edge; ++v) {
          Vec<S> own[R];
          unroll<R>([&](auto r) INLINE { own[r] = load(&tile.own[r * width + v * LANES]); });
          for (long k = v; k < tile.vectors; k += tile.per_edge) {
            Six<S> six = Six<S>::at(&at_columns[k * LANES], size);
            unroll<R>([&](auto r) INLINE { six.receive(own[r] * load(&tile.edges[r * size + k * LANES])); });
            six.put(&at_columns[k * LANES], size);
          }
          const long full = tile.tail() ? tile.vectors - 1 : tile.vectors;
          for (long r = 0; r < R; ++r) {
            S* at = &at_rows[(row + r - first) * 6 * width + v * LANES];
            Six<S> six = Six<S>::at(at, width);
            for (long k = v; k < full; k += tile.per_edge)
              six.receive(load(&tile.there[k * LANES]) * load(&tile.edges[r * size + k * LANES]));
            six.put(at, width);
            for (long i = 0; i < tile.tail(); ++i) {  // lanes of a last vector that is not full
              const S y = tile.there[full * LANES + i] * tile.edges[r * size + full * LANES + i];
              const S single[6] = {y, y * y, y, -y, S(1), S(1)};
              join(at + i, width, single, 1);
            }
          }
        }
      });
      for (long c = 0; c < tile.columns; ++c)
        for (long k = 0; k < 6; ++k)
          std::memcpy(columns + ((g * block.I + begin + c) * 6 + k) * W, at_columns + k * size + c * W, W * sizeof(S));
    }
    for (long i = 0; i < last - first; ++i) {  // fold the pattern of a narrow row
      S* at = &at_rows[i * 6 * width];
      for (long j = W; j < width; ++j) join(at + j % W, width, at + j, width);
      for (long k = 0; k < 6; ++k)
        std::memcpy(&to_rows[((g * block.O + first + i) * 6 + k) * W], at + k * width, W * sizeof(S));
    }
  });
  const auto meet = [&](S* node, const S* found) {
    if (W < LANES) {
      for (long j = 0; j < W; ++j) join(node + j, W, found + j, W);
    } else {
      for (long j = 0; j < W; j += LANES) Six<S>::at(node + j, W).joined(Six<S>::at(found + j, W)).put(node + j, W);
    }
  };
  for_each_node(block, block.target, block.G * block.O, [&](long i, long node) {
    meet(received + node * 6 * W, &to_rows[i * 6 * W]);
  });
  for_each_node(block, block.source, block.G * block.I, [&](long i, long node) {
    for (long part = 0; part < split.parts; ++part)
      meet(received + (block.N + node) * 6 * W, &to_columns[part * all + i * 6 * W]);
  });
}

// Equation (18): mean, deviation, maximum and minimum of a node's messages from what it received, with its factor z.
template <class S> struct Moments {
  S mean, square, variance, high, low;
  Moments(const S* six, long W, S many, S z)
      : mean(z * six[0] / many), square(six[W] / many), variance(z * z * square - mean * mean), high(six[2 * W]),
        low(-six[3 * W]) {
    high = six[4 * W] > 0 ? high : S(0);  // a node without messages
    low = six[4 * W] > 0 ? low : S(0);
  }
};
constexpr double FLOOR = 1e-5;

// For both directions together: received [2, N, 6, W], counts [2, N] and z [N, H] to [N, 4, H].
template <class S>
void aggregate(long N, long W, long H, long threads, const S* received, const int64_t* counts, const S* z, S* inbox) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < N; ++n) {
    S* out = inbox + n * 4 * H;
    std::fill(out, out + 4 * H, S(0));
    for (long way = 0; way < 2; ++way) {
      const S *six = received + (way * N + n) * 6 * W, *factor = z + n * H, many = S(counts[way * N + n]);
#pragma omp simd
      for (long j = 0; j < H; ++j) {
        const S f = factor[j];
        const Moments<S> m(six + j, W, many, f);
        out[j] += m.mean;
        out[H + j] += m.variance > S(FLOOR) ? std::sqrt(m.variance) : S(0);
        out[2 * H + j] += f * (f >= 0 ? m.high : m.low);
        out[3 * H + j] += f * (f >= 0 ? m.low : m.high);
      }
    }
  }
}

// Its backward pass: what `message_gradient` takes, [2, N, 6, W], and the gradient of z, [N, H].
template <class S>
void aggregate_backward(long N, long W, long H, long threads, const S* received, const int64_t* counts, const S* z,
                        const S* inbox, S* out, S* g_z) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < N; ++n) {
    std::fill(g_z + n * H, g_z + (n + 1) * H, S(0));
    const S *g = inbox + n * 4 * H, *factor = z + n * H;
    for (long way = 0; way < 2; ++way) {
      const S *six = received + (way * N + n) * 6 * W, many = S(counts[way * N + n]);
      S* to = out + (way * N + n) * 6 * W;
#pragma omp simd
      for (long j = 0; j < H; ++j) {
        const S f = factor[j];
        const Moments<S> m(six + j, W, many, f);
        const S inverse = S(0.5) / std::sqrt(std::max(m.variance, S(FLOOR)));
        const S g_variance = m.variance > S(FLOOR) ? g[H + j] * inverse : S(0);
        const S g_mean = g[j] - 2 * m.mean * g_variance;
        const S g_high = f >= 0 ? g[2 * H + j] : g[3 * H + j], g_low = f >= 0 ? g[3 * H + j] : g[2 * H + j];
        g_z[n * H + j] += g_mean * six[j] / many + 2 * g_variance * f * m.square + g_high * m.high + g_low * m.low;
        to[j] = g_mean * f / many;
        to[W + j] = 2 * g_variance * f * f / many;
        to[2 * W + j] = g_high * f / std::max(six[4 * W + j], S(1));
        to[3 * W + j] = -g_low * f / std::max(six[5 * W + j], S(1));
        to[4 * W + j] = six[2 * W + j];
        to[5 * W + j] = six[3 * W + j];
      }
    }
  }
}

// Gradient of a message y, equation (18): `received` as in equations.message_gradient.
template <class S> INLINE inline Vec<S> message_gradient(Vec<S> y, const Vec<S>* received) {
  const Vec<S> zero = fill(S(0));
  Vec<S> u = received[0] + received[1] * y;
  u += y == received[4] ? received[2] : zero;
  u -= -y == received[5] ? received[3] : zero;
  return u;
}

// Backward pass of equations (14), (15) and (19) of the last layer, as equations.layer_backward: `gradient` of the
// edges, [G, O, I, W], goes from after to before the update; that of the factors, [N, 5, W], is added to.
template <class S> void layer_backward(const Block<S>& block, const S* received, S* gradient, S* g_factors) {
  const Split<S> split(block);
  const long W = block.W, all = block.G * block.I * 3 * W;
  const S *factors = block.factors[block.layers - 1], *to_columns = received + block.N * 6 * W;
  const auto g_rows = std::make_unique_for_overwrite<S[]>(block.G * block.O * 3 * W);
  const auto g_columns = std::make_unique_for_overwrite<S[]>(split.parts * all);
  for_each_piece(block, split, block.layers - 1, [&](Tile<S>& tile, long g, long part, long first, long last) {
    const long width = tile.width, size = tile.size;
    tile.row_sums.assign((last - first) * 3 * width, S(0));
    tile.column_sums.resize(3 * size), tile.there.resize(9 * size), tile.own.resize(9 * width);
    S *at_rows = tile.row_sums.data(), *sums = tile.column_sums.data(), *there = tile.there.data();
    S *found = &g_columns[part * all], *own = tile.own.data();
    for (long begin = 0; begin < block.I; begin += tile.most) {
      tile.move(g, begin);
      for (long k = 0; k < 6; ++k) tile.gather(there + k * size, to_columns, 6, k);
      tile.gather(there + 6 * size, factors, 5, B);
      for (long k = 0; k < 2; ++k) tile.gather(there + (7 + k) * size, factors, 5, Q + k);
      std::fill(sums, sums + 3 * size, S(0));
      by_rows(first, last, [&]<long R>(long row, Rows<R>) {
        tile.template encode<R>(row);
        for (long r = 0; r < R; ++r) {
          for (long k = 0; k < 6; ++k) tile.pattern(own + k * width, tile.row(received, row + r, 6, k));
          tile.pattern(own + 6 * width, tile.row(factors, row + r, 5, A));
          for (long k = 0; k < 2; ++k) tile.pattern(own + (7 + k) * width, tile.row(factors, row + r, 5, P + k));
          S* edge_gradient = gradient + ((g * block.O + row + r) * block.I + begin) * W;
          S* out = &at_rows[(row + r - first) * 3 * width];
          for (long v = 0; v < tile.per_edge; ++v) {
            Vec<S> mine[9], sum[3];
            unroll<9>([&](auto i) INLINE { mine[i] = load(own + i * width + v * LANES); });
            unroll<3>([&](auto i) INLINE { sum[i] = load(out + i * width + v * LANES); });
            for (long k = v; k < tile.vectors; k += tile.per_edge) {
              const long left = std::min(LANES, tile.columns * W - k * LANES);
              const Vec<S> e = load(&tile.edges[r * size + k * LANES]);
              Vec<S> other[9], ge = fill(S(0));
              unroll<9>([&](auto i) INLINE { other[i] = load(there + i * size + k * LANES); });
              if (left == LANES) ge = load(edge_gradient + k * LANES);
              else std::memcpy(&ge, edge_gradient + k * LANES, left * sizeof(S));
              const Vec<S> u1 = message_gradient<S>(mine[6] * e, other), u2 = message_gradient<S>(other[6] * e, mine);
              const Vec<S> t = ge * e;
              sum[0] += u1 * e;
              sum[1] += t * other[7];
              sum[2] += t * other[8];
              S* at = sums + k * LANES;
              store(at, load(at) + u2 * e);
              store(at + size, load(at + size) + t * mine[8]);
              store(at + 2 * size, load(at + 2 * size) + t * mine[7]);
              ge = ge * (mine[7] * other[7] + S(1) + mine[8] * other[8]) + u1 * mine[6] + u2 * other[6];
              if (left == LANES) store(edge_gradient + k * LANES, ge);
              else std::memcpy(edge_gradient + k * LANES, &ge, left * sizeof(S));
            }
            unroll<3>([&](auto i) INLINE { store(out + i * width + v * LANES, sum[i]); });
          }
        }
      });
      for (long c = 0; c < tile.columns; ++c)
        for (long k = 0; k < 3; ++k)
          std::memcpy(found + ((g * block.I + begin + c) * 3 + k) * W, sums + k * size + c * W, W * sizeof(S));
    }
    for (long i = 0; i < last - first; ++i)
      for (long k = 0; k < 3; ++k) {
        S* at = &at_rows[(i * 3 + k) * width];
        for (long j = W; j < width; ++j) at[j % W] += at[j];
        std::memcpy(&g_rows[((g * block.O + first + i) * 3 + k) * W], at, W * sizeof(S));
      }
  });
  const auto add = [&](S* to, const S* from) {
    for (long j = 0; j < W; ++j) to[j] += from[j];
  };
  const long row_factors[] = {A, P, Q}, column_factors[] = {B, Q + 1, Q};
  for_each_node(block, block.target, block.G * block.O, [&](long i, long node) {
    for (long k = 0; k < 3; ++k) add(g_factors + (node * 5 + row_factors[k]) * W, &g_rows[(i * 3 + k) * W]);
  });
  for_each_node(block, block.source, block.G * block.I, [&](long i, long node) {
    for (long part = 0; part < split.parts; ++part)
      for (long k = 0; k < 3; ++k)
        add(g_factors + (node * 5 + column_factors[k]) * W, &g_columns[part * all + (i * 3 + k) * W]);
  });
}

// Backward pass of equation (13): sums of w g^T, [T, W], and of g, [W].
template <class S> void encode_backward(const Block<S>& block, const S* gradient, S* g_weight, S* g_bias) {
  const Split<S> split(block);
  const long W = block.W, T = block.T;
  Parts<S> parts(split, (T + 1) * std::max(W, LANES));
  for_each_piece(block, split, 0, [&](Tile<S>& tile, long g, long part, long first, long last) {
    const long width = tile.width, stride = tile.most + LANES;
    S* sums = parts.at(g, part);
    for (long r = first; r < last; ++r) {
      for (long begin = 0; begin < block.I; begin += tile.most) {
        const long columns = std::min(tile.most, block.I - begin), at = (g * block.O + r) * block.I + begin;
        const S* raw = block.raw + at * T;
        for (long c = 0; c < columns; ++c)
          for (long t = 0; t < T; ++t) tile.taps[t * stride + c] = raw[c * T + t];
        for (long v = 0; v < tile.per_edge; ++v) {
          for (long k = v; k * LANES < columns * W; k += tile.per_edge) {
            Vec<S> ge = fill(S(0));
            const S* from = gradient + at * W + k * LANES;
            const long left = std::min(LANES, columns * W - k * LANES);
            if (left == LANES) ge = load(from);
            else std::memcpy(&ge, from, left * sizeof(S));
            const long c = k / tile.per_edge * tile.per_vector;
            store(&sums[v * LANES], load(&sums[v * LANES]) + ge);
            for (long t = 0; t < T; ++t) {
              const S* w = &tile.taps[t * stride + c];
              const Vec<S> wide = tile.narrow ? spread<S>(load(w), tile.lane_edge) : fill(*w);
              S* to = &sums[(t + 1) * width + v * LANES];
              store(to, load(to) + ge * wide);
            }
          }
        }
      }
    }
  });
  const std::vector<S> total = parts.total();
  const long width = std::max(W, LANES);
  for (long t = 0; t <= T; ++t)
    for (long i = 0; i < width; ++i) (t ? g_weight + (t - 1) * W : g_bias)[i % W] += total[t * width + i];
}

// 64 edges with the hidden channel first, [channel, 64], on their way through the decoder, equations (21) and (23).
template <class S> struct Decoding {
  const Block<S>& block;
  const long H, T;
  const S *first, *first_bias, *last, *last_bias;  // [H, H], [H], [T, H], [T]
  std::vector<S> x, scale, act, hidden;            // normalised edges, 1 / deviation, silu(hidden) and hidden layer
  long at[EDGES];                                  // number of each edge in [G, O, I]
  long count = 0;

  Decoding(const Block<S>& block, long H, const S* const* decoder)
      : block(block), H(H), T(block.T), first(decoder[0]), first_bias(decoder[1]), last(decoder[2]),
        last_bias(decoder[3]), x(H * EDGES), scale(EDGES), act(H * EDGES), hidden(H * EDGES) {}

  // out[o] = bias[o] + sum_k matrix[o, k] in[k], for 64 edges; (row, column) strides of the matrix
  static void multiply(S* out, const S* matrix, long row, long column, const S* in, const S* bias, long n, long m) {
    constexpr long V = EDGES / LANES, B = 4;
    for (long o = 0; o < n; o += B) {
      Vec<S> sum[B][V];
      const S* at[B];
      unroll<B>([&](auto i) INLINE {
        at[i] = matrix + std::min(o + i, n - 1) * row;
        const Vec<S> start = fill(bias ? bias[std::min(o + i, n - 1)] : S(0));
        unroll<V>([&](auto v) INLINE { sum[i][v] = start; });
      });
      for (long k = 0; k < m; ++k) {
        Vec<S> value[V];
        unroll<V>([&](auto v) INLINE { value[v] = load(in + k * EDGES + v * LANES); });
        unroll<B>([&](auto i) INLINE {
          const S factor = at[i][k * column];
          unroll<V>([&](auto v) INLINE { sum[i][v] += value[v] * factor; });
        });
      }
      unroll<B>([&](auto i) INLINE {
        if (o + i < n) unroll<V>([&](auto v) INLINE { store(out + (o + i) * EDGES + v * LANES, sum[i][v]); });
      });
    }
  }
  // Edges, each with its channels side by side, into x.
  void gather(const S* const* from) {
    for (long j = 0; j < H; j += LANES)
      for (long i = 0; i < EDGES; i += LANES) {
        Vec<S> part[LANES];
        for (long k = 0; k < LANES; ++k) part[k] = load(from[i + k] + j);
        transpose<S>(part);
        for (long k = 0; k < std::min(LANES, H - j); ++k) store(&x[(j + k) * EDGES + i], part[k]);
      }
  }
  // The way back, from [H, 64] to where each edge has its channels; beyond H they are zero.
  void scatter(const S* values, S* const* to, long width) const {
    for (long j = 0; j < width; j += LANES)
      for (long i = 0; i < EDGES; i += LANES) {
        Vec<S> part[LANES];
        for (long k = 0; k < LANES; ++k) part[k] = j + k < H ? load(values + (j + k) * EDGES + i) : fill(S(0));
        transpose<S>(part);
        for (long k = 0; k < LANES; ++k)
          if (to[i + k]) std::memcpy(to[i + k] + j, &part[k], std::min(LANES, width - j) * sizeof(S));
      }
  }
  // Runs the first layer on what was gathered into x.
  void run() {
    for (long v = 0; v < EDGES; v += LANES) {
      Vec<S> mean = fill(S(0)), square = fill(S(0));
      for (long j = 0; j < H; ++j) mean += load(&x[j * EDGES + v]);
      mean /= fill(S(H));
      for (long j = 0; j < H; ++j) {
        const Vec<S> centred = load(&x[j * EDGES + v]) - mean;
        store(&x[j * EDGES + v], centred);
        square += centred * centred;
      }
      Vec<S> inverse = square / fill(S(H)) + S(1e-5);
      for (long i = 0; i < LANES; ++i) inverse[i] = S(1) / std::sqrt(inverse[i]);
      store(&scale[v], inverse);
      for (long j = 0; j < H; ++j) store(&x[j * EDGES + v], load(&x[j * EDGES + v]) * inverse);
    }
    multiply(hidden.data(), first, H, 1, x.data(), first_bias, H, H);
    for (long i = 0; i < H * EDGES; i += LANES) {
      const Vec<S> h = load(&hidden[i]);
      store(&act[i], h / (vexp(-h) + S(1)));
    }
  }
};

// Calls work(decoding) for all edges, 64 at a time, decoded up to the hidden layer.
template <class S, class Work>
void for_edges(const Block<S>& block, const Split<S>& split, long H, const S* const* decoder, Work work) {
  for_each_piece(block, split, block.layers, [&](Tile<S>& tile, long g, long part, long first, long last) {
    Decoding<S> decoding(block, H, decoder);
    for (long begin = 0; begin < block.I; begin += tile.most) {
      tile.move(g, begin);
      by_rows(first, last, [&]<long R>(long row, Rows<R>) {
        tile.template encode<R>(row);
        for (long start = 0; start < R * tile.columns; start += EDGES) {
          decoding.count = std::min(EDGES, R * tile.columns - start);
          long r = start / tile.columns, c = start % tile.columns;
          const S* from[EDGES];  // the last edge again where there are fewer
          for (long i = 0; i < EDGES; ++i) {
            decoding.at[i] = (g * block.O + row + r) * block.I + begin + c;
            from[i] = &tile.edges[r * tile.size + c * block.W];
            if (i + 1 < decoding.count && ++c == tile.columns) c = 0, ++r;
          }
          decoding.gather(from);
          decoding.run();
          work(decoding, g, part);
        }
      });
    }
  });
}

// Equations (21) and (23): new features of the edges, [G, O, I, T].
template <class S> void decode(const Block<S>& block, long H, const S* const* decoder, S* out) {
  for_edges(block, Split<S>(block), H, decoder, [&](Decoding<S>& d, long, long) {
    std::vector<S> delta(d.T * EDGES);
    d.multiply(delta.data(), d.last, H, 1, d.act.data(), d.last_bias, d.T, H);
    for (long i = 0; i < d.count; ++i)
      for (long t = 0; t < d.T; ++t)
        out[d.at[i] * d.T + t] = block.raw[d.at[i] * d.T + t] + delta[t * EDGES + i];
  });
}

// into[o, k] += sum over 64 edges of left[o, edge] right[edge, k]; `right` in rows of `width` lanes
template <class S, long V> void outer(S* into, const S* left, const S* right, long n, long width) {
  constexpr long B = 4;
  for (long o = 0; o < n; o += B)
    for (long k = 0; k < width; k += V * LANES) {
      Vec<S> sum[B][V];
      long at[V];  // the last ones again where there are fewer
      unroll<V>([&](auto v) INLINE { at[v] = std::min(k + v * LANES, width - LANES); });
      unroll<B>([&](auto i) INLINE { unroll<V>([&](auto v) INLINE { sum[i][v] = fill(S(0)); }); });
      for (long edge = 0; edge < EDGES; ++edge) {
        Vec<S> value[V];
        unroll<V>([&](auto v) INLINE { value[v] = load(right + edge * width + at[v]); });
        unroll<B>([&](auto i) INLINE {
          const S factor = left[std::min(o + i, n - 1) * EDGES + edge];
          unroll<V>([&](auto v) INLINE { sum[i][v] += value[v] * factor; });
        });
      }
      unroll<B>([&](auto i) INLINE {
        unroll<V>([&](auto v) INLINE {
          S* to = into + (o + i) * width + k + v * LANES;
          if (o + i < n && k + v * LANES < width) store(to, load(to) + sum[i][v]);
        });
      });
    }
}

template <class S> void outer(S* into, const S* left, const S* right, long n, long width) {
  if (width == LANES) outer<S, 1>(into, left, right, n, width);
  else if (width == 2 * LANES) outer<S, 2>(into, left, right, n, width);
  else outer<S, 4>(into, left, right, n, width);
}

// Backward pass of `decode`: from the gradient of the new features to that of the edges, [G, O, I, W], and of the
// decoder's weights and biases.
template <class S>
void decode_backward(const Block<S>& block, long H, const S* const* decoder, const S* g_new, S* gradient,
                     S* const* g_decoder) {
  const Split<S> split(block);
  const long T = block.T, wide = (H + LANES - 1) / LANES * LANES;
  Parts<S> parts(split, (H + T) * (wide + 1));
  for_edges(block, split, H, decoder, [&](Decoding<S>& d, long g, long part) {
    thread_local std::vector<S> g_out, g_hidden, g_x, turned;
    g_out.assign(T * EDGES, S(0)), g_hidden.resize(H * EDGES), g_x.resize(H * EDGES), turned.assign(EDGES * wide, S(0));
    for (long i = 0; i < d.count; ++i)
      for (long t = 0; t < T; ++t) g_out[t * EDGES + i] = g_new[d.at[i] * T + t];
    S *first = parts.at(g, part), *last = first + H * wide, *biases = last + T * wide;
    const auto add_bias = [](S* bias, const S* values, long n) {
      for (long o = 0; o < n; ++o) {
        Vec<S> sum = load(values + o * EDGES);
        for (long v = LANES; v < EDGES; v += LANES) sum += load(values + o * EDGES + v);
        for (long i = 0; i < LANES; ++i) bias[o] += sum[i];
      }
    };
    S *turned_rows[EDGES], *to[EDGES];
    for (long i = 0; i < EDGES; ++i) {
      turned_rows[i] = &turned[i * wide];
      to[i] = i < d.count ? gradient + d.at[i] * block.W : nullptr;
    }
    const auto turn = [&](const S* values) { d.scatter(values, turned_rows, wide); };
    turn(d.act.data());
    outer(last, g_out.data(), turned.data(), T, wide);
    add_bias(biases + H, g_out.data(), T);
    d.multiply(g_hidden.data(), d.last, 1, H, g_out.data(), nullptr, H, T);
    for (long i = 0; i < H * EDGES; i += LANES) {  // silu'(h) = s (1 + h (1 - s)), where s is the sigmoid of h
      const Vec<S> h = load(&d.hidden[i]), s = fill(S(1)) / (vexp(-h) + S(1));
      store(&g_hidden[i], load(&g_hidden[i]) * s * (h * (fill(S(1)) - s) + S(1)));
    }
    turn(d.x.data());
    outer(first, g_hidden.data(), turned.data(), H, wide);
    add_bias(biases, g_hidden.data(), H);
    d.multiply(g_x.data(), d.first, 1, H, g_hidden.data(), nullptr, H, H);
    for (long v = 0; v < EDGES; v += LANES) {
      Vec<S> mean = fill(S(0)), along = fill(S(0));
      for (long j = 0; j < H; ++j) {
        const Vec<S> value = load(&g_x[j * EDGES + v]);
        mean += value;
        along += value * load(&d.x[j * EDGES + v]);
      }
      mean /= fill(S(H));
      along /= fill(S(H));
      for (long j = 0; j < H; ++j) {
        const Vec<S> own = load(&g_x[j * EDGES + v]) - mean - load(&d.x[j * EDGES + v]) * along;
        store(&g_x[j * EDGES + v], own * load(&d.scale[v]));
      }
    }
    d.scatter(g_x.data(), to, block.W);
  });
  const std::vector<S> total = parts.total();
  for (long o = 0; o < H + T; ++o) {
    for (long k = 0; k < H; ++k) (o < H ? g_decoder[0] + o * H : g_decoder[2] + (o - H) * H)[k] = total[o * wide + k];
    (o < H ? g_decoder[1] + o : g_decoder[3] + o - H)[0] = total[(H + T) * wide + o];
  }
}
}  // namespace

// What Python calls, for each type.
#define EXPORT(S, name)                                                                                               \
  extern "C" {                                                                                                        \
  void statistics_##name(const Block<S>* block, S* received) { statistics(*block, received); }                        \
  void aggregate_##name(int64_t N, int64_t W, int64_t H, int64_t threads, const S* received, const int64_t* counts,   \
                        const S* z, S* inbox) {                                                                       \
    aggregate(N, W, H, threads, received, counts, z, inbox);                                                          \
  }                                                                                                                   \
  void aggregate_backward_##name(int64_t N, int64_t W, int64_t H, int64_t threads, const S* received,                 \
                                 const int64_t* counts, const S* z, const S* inbox, S* out, S* g_z) {                 \
    aggregate_backward(N, W, H, threads, received, counts, z, inbox, out, g_z);                                       \
  }                                                                                                                   \
  void layer_backward_##name(const Block<S>* block, const S* received, S* gradient, S* g_factors) {                   \
    layer_backward(*block, received, gradient, g_factors);                                                            \
  }                                                                                                                   \
  void encode_backward_##name(const Block<S>* block, const S* gradient, S* g_weight, S* g_bias) {                     \
    encode_backward(*block, gradient, g_weight, g_bias);                                                              \
  }                                                                                                                   \
  void decode_##name(const Block<S>* block, int64_t H, const S* const* decoder, S* out) {                             \
    decode(*block, H, decoder, out);                                                                                  \
  }                                                                                                                   \
  void decode_backward_##name(const Block<S>* block, int64_t H, const S* const* decoder, const S* g_new, S* gradient, \
                              S* const* g_decoder) {                                                                  \
    decode_backward(*block, H, decoder, g_new, gradient, g_decoder);                                                  \
  }                                                                                                                   \
  }

EXPORT(float, f32)
EXPORT(double, f64)
