// What messages come to at the nodes: their reduction, aggregation, and the way back, equation (18).
#pragma once

#include <memory>

#include "block.h"

namespace {

// Sum of the messages y and of y^2, maximum of y and of -y, and how often each is attained.
template <class S> struct Six {
  Vec<S> part[6];

  static Six empty() {
    const Vec<S> least = fill(-std::numeric_limits<S>::infinity());
    return {{zero<S>(), zero<S>(), least, least, zero<S>(), zero<S>()}};
  }
  INLINE static Six at(const S* from, long stride = LANES) {
    Six six;
    unroll<6>([&](auto k) INLINE { six.part[k] = load(from + k * stride); });
    return six;
  }
  INLINE void put(S* to, long stride = LANES) const {
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
  INLINE void join(const Six& other) {
    unroll<2>([&](auto k) INLINE { part[k] += other.part[k]; });
    unroll<2>([&](auto i) INLINE {
      constexpr long k = i + 2;
      const auto above = other.part[k] > part[k], same = other.part[k] == part[k];
      part[k + 2] = above ? other.part[k + 2] : (same ? part[k + 2] + other.part[k + 2] : part[k + 2]);
      part[k] = above ? other.part[k] : part[k];
    });
  }
  // The lanes where there is a message; the others say that there was none.
  INLINE Six only(Mask<S> where) const {
    Six six = empty();
    unroll<6>([&](auto k) INLINE { six.part[k] = where ? part[k] : six.part[k]; });
    return six;
  }
};

// What each g and row, or column, of a block found: `many` times W numbers.
template <class S> struct Found {
  const long numbers, many, width;
  std::unique_ptr<S[]> all;
  Found(long count, long many, long width)
      : numbers(many * width), many(many), width(width), all(std::make_unique_for_overwrite<S[]>(count * numbers)) {}
  S* at(long i) const { return &all[i * numbers]; }
  // Takes a vector's W numbers from `from` to where they belong in value k of number i.
  INLINE void put(const Tile<S>& tile, long i, long k, const S* from) const {
    S* to = at(i) + k * width + tile.slice * LANES;
    if (tile.narrow) std::memcpy(to, from, width * sizeof(S));
    else store(to, load(from));
  }
};

// Equation (18): mean, deviation, maximum and minimum of 16 channels of a node's messages from the six numbers that it
// received, W apart, with its factor z.
template <class S> struct Moments {
  static constexpr S FLOOR = 1e-5;
  Vec<S> total, many_high, many_low, highest, lowest;  // as received
  Vec<S> mean, square, variance, high, low;
  INLINE Moments(const S* six, long W, long width, S many, Vec<S> z) {
    total = load_first(six, width), square = load_first(six + W, width) / many;
    highest = load_first(six + 2 * W, width), lowest = load_first(six + 3 * W, width);
    many_high = load_first(six + 4 * W, width), many_low = load_first(six + 5 * W, width);
    mean = z * total / many;
    variance = z * z * square - mean * mean;
    high = many_high > S(0) ? highest : zero<S>();  // a node without messages
    low = many_low > S(0) ? -lowest : zero<S>();
  }
};

// For both directions together: received [2, N, 6, W], counts [2, N] and z [N, H] to [N, 4, H].
template <class S>
void aggregate(long N, long W, long H, long threads, const S* received, const int64_t* counts, const S* z, S* inbox) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < N; ++n)
    for (long j = 0; j < H; j += LANES) {
      const long width = std::min(LANES, H - j);
      const Vec<S> f = load_first(z + n * H + j, width);
      Vec<S> four[4] = {zero<S>(), zero<S>(), zero<S>(), zero<S>()};
      for (long way = 0; way < 2; ++way) {
        const Moments<S> m(received + (way * N + n) * 6 * W + j, W, width, S(counts[way * N + n]), f);
        four[0] += m.mean;
        four[1] += m.variance > m.FLOOR ? vsqrt<S>(m.variance > m.FLOOR ? m.variance : one<S>()) : zero<S>();
        four[2] += f * (f >= S(0) ? m.high : m.low);
        four[3] += f * (f >= S(0) ? m.low : m.high);
      }
      for (long k = 0; k < 4; ++k) store_first(inbox + (n * 4 + k) * H + j, four[k], width);
    }
}

// Its backward pass: what `message_gradient` takes, [2, N, 6, W], and the gradient of z, [N, H].
template <class S>
void aggregate_backward(long N, long W, long H, long threads, const S* received, const int64_t* counts, const S* z,
                        const S* inbox, S* out, S* g_z) {
#pragma omp parallel for num_threads(threads)
  for (long n = 0; n < N; ++n)
    for (long j = 0; j < H; j += LANES) {
      const long width = std::min(LANES, H - j);
      const Vec<S> f = load_first(z + n * H + j, width);
      Vec<S> g[4], g_f = zero<S>();
      unroll<4>([&](auto k) INLINE { g[k] = load_first(inbox + (n * 4 + k) * H + j, width); });
      for (long way = 0; way < 2; ++way) {
        const S many = S(counts[way * N + n]);
        const Moments<S> m(received + (way * N + n) * 6 * W + j, W, width, many, f);
        const auto spreads = m.variance > m.FLOOR;
        const Vec<S> g_variance = spreads ? g[1] * S(0.5) / vsqrt<S>(spreads ? m.variance : one<S>()) : zero<S>();
        const Vec<S> g_mean = g[0] - 2 * m.mean * g_variance;
        const Vec<S> g_high = f >= S(0) ? g[2] : g[3], g_low = f >= S(0) ? g[3] : g[2];
        g_f += g_mean * m.total / many + 2 * g_variance * f * m.square + g_high * m.high + g_low * m.low;
        const Vec<S> six[6] = {
            g_mean * f / many, 2 * g_variance * f * f / many,
            g_high * f / (m.many_high > S(1) ? m.many_high : one<S>()),
            -g_low * f / (m.many_low > S(1) ? m.many_low : one<S>()), m.highest, m.lowest,
        };
        S* to = out + (way * N + n) * 6 * W + j;
        for (long k = 0; k < 6; ++k) store_first(to + k * W, six[k], width);
      }
      store_first(g_z + n * H + j, g_f, width);
    }
}

// Gradient of a message y, equation (18): `received` as in equations.message_gradient.
template <class S> INLINE inline Vec<S> message_gradient(Vec<S> y, const Vec<S>* received) {
  Vec<S> u = received[0] + received[1] * y;
  u += y == received[4] ? received[2] : zero<S>();
  u -= -y == received[5] ? received[3] : zero<S>();
  return u;
}

}  // namespace
