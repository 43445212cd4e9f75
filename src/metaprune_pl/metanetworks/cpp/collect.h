// What nodes make of the messages that they received: equations (16) to (18), forward and backward.
#pragma once

#include "send.h"

namespace {

// Equation (18): mean, deviation, maximum and minimum of 16 channels of a node's messages from the six numbers that it
// received, W apart, with its factor z.
template <class S> struct Moments {
  static constexpr S FLOOR = 1e-5;
  Vec<S> total, many_high, many_low, highest, lowest;  // as received
  Vec<S> mean, square, variance, high, low;
  INLINE Moments(const S* six, long W, long width, S share, Vec<S> z) {
    total = load_first(six, width), square = load_first(six + W, width) * share;
    highest = load_first(six + 2 * W, width), lowest = load_first(six + 3 * W, width);
    many_high = load_first(six + 4 * W, width), many_low = load_first(six + 5 * W, width);
    mean = z * total * share;
    variance = z * z * square - mean * mean;
    high = many_high > S(0) ? highest : zero<S>();  // a node without messages
    low = many_low > S(0) ? -lowest : zero<S>();
  }
  INLINE auto spreads() const { return variance > FLOOR; }
  INLINE Vec<S> deviation() const { return spreads() ? vsqrt<S>(spreads() ? variance : one<S>()) : zero<S>(); }
};

// The weights as the products take them, and what nodes received: statistic k's channel j is number k wide + j.
template <class S> struct Collector {
  const Nodes& nodes;
  const S *received, *factors;  // [2, N, 6, W], [N, 4, W]
  const int64_t* counts;        // [2, N]
  const long wide, width;       // a node's channels and statistics, padded
  Buffer<S> matrix, turned, bias;  // [H, width], [width, wide], [wide]

  Collector(const Nodes& nodes, const S* received, const int64_t* counts, const S* factors, const S* weight, const S* b)
      : nodes(nodes), received(received), factors(factors), counts(counts), wide(padded(nodes.H)), width(4 * wide),
        matrix(nodes.H * width), turned(width * wide), bias(wide) {
    for (long i = 0; i < nodes.H; ++i) {
      bias[i] = 2 * b[i];
      for (long k = 0; k < 4; ++k)
        for (long j = 0; j < nodes.H; ++j)
          matrix[i * width + k * wide + j] = turned[(k * wide + j) * wide + i] = weight[(i * 4 + k) * nodes.H + j];
    }
  }
  long channels(long j) const { return std::min(LANES, long(nodes.H) - j); }
  INLINE Vec<S> factor(long n, long j) const {
    return load_first(factors + (n * FACTORS + Z) * nodes.W + j, channels(j));
  }
  INLINE long at(long way, long n, long j) const { return (way * nodes.N + n) * 6 * nodes.W + j; }
  INLINE S share(long way, long n) const { return 1 / S(counts[way * nodes.N + n]); }  // of a message in the mean
  INLINE Moments<S> moments(long way, long n, long j, Vec<S> z) const {
    return Moments<S>(received + at(way, n, j), nodes.W, channels(j), share(way, n), z);
  }
  // The statistics of both directions together, [n, width].
  void run(long first, long n, S* inbox) const {
    for (long r = 0; r < n; ++r)
      for (long j = 0; j < nodes.H; j += LANES) {
        const Vec<S> z = factor(first + r, j);
        Vec<S> four[4] = {zero<S>(), zero<S>(), zero<S>(), zero<S>()};
        for (long way = 0; way < 2; ++way) {
          const Moments<S> m = moments(way, first + r, j, z);
          four[0] += m.mean;
          four[1] += m.deviation();
          four[2] += z * (z >= S(0) ? m.high : m.low);
          four[3] += z * (z >= S(0) ? m.low : m.high);
        }
        for (long k = 0; k < 4; ++k) store(inbox + r * width + k * wide + j, four[k]);
      }
  }
};

// What the nodes change by, [N, H].
template <class S> void collect(const Collector<S>& collector, S* out) {
  const Nodes& nodes = collector.nodes;
  for_each_chunk(nodes, [&](long, long first, long n) {
    Buffer<S> inbox(n * collector.width), change(n * collector.wide);
    collector.run(first, n, inbox.data());
    multiply(change.data(), n, inbox.data(), collector.width, collector.turned.data(), collector.bias.data(),
             collector.width, collector.wide);
    for (long r = 0; r < n; ++r) std::copy_n(&change[r * collector.wide], nodes.H, out + (first + r) * nodes.H);
  });
}

// Its backward pass, from the gradient [N, H]: what `message_gradient` takes, [2, N, 6, W], and the gradients of the
// factors, [N, 4, W], of the weight and of the bias.
template <class S>
void collect_backward(const Collector<S>& collector, const S* gradient, S* messages, S* g_factors, S* g_weight,
                      S* g_bias) {
  const Nodes& nodes = collector.nodes;
  const long H = nodes.H, W = nodes.W, wide = collector.wide, width = collector.width;
  Sums<S> sums(nodes, H * width + wide);
  for_each_chunk(nodes, [&](long thread, long first, long n) {
    Buffer<S> inbox(n * width), own(n * wide), g_inbox(n * width);
    S *g_matrix = sums.at(thread), *own_bias = g_matrix + H * width;
    collector.run(first, n, inbox.data());
    for (long r = 0; r < n; ++r) {
      std::copy_n(gradient + (first + r) * H, H, &own[r * wide]);
      for (long j = 0; j < wide; j += LANES) store(own_bias + j, load(own_bias + j) + 2 * load(&own[r * wide + j]));
    }
    outer(g_matrix, H, own.data(), wide, inbox.data(), width, n);
    multiply(g_inbox.data(), n, own.data(), wide, collector.matrix.data(), static_cast<S*>(nullptr), H, width);
    std::fill_n(g_factors + first * FACTORS * W, n * FACTORS * W, S(0));
    for (long r = 0; r < n; ++r)
      for (long j = 0; j < H; j += LANES) {
        const long all = std::min(LANES, W - j);  // padding, too
        const Vec<S> z = collector.factor(first + r, j);
        Vec<S> g[4], g_z = zero<S>();
        unroll<4>([&](auto k) INLINE { g[k] = load(&g_inbox[r * width + k * wide + j]); });
        for (long way = 0; way < 2; ++way) {
          const S share = collector.share(way, first + r);
          const Moments<S> m = collector.moments(way, first + r, j, z);
          const auto spreads = m.spreads();
          const Vec<S> g_variance = spreads ? g[1] * S(0.5) / vsqrt<S>(spreads ? m.variance : one<S>()) : zero<S>();
          const Vec<S> g_mean = g[0] - 2 * m.mean * g_variance;
          const Vec<S> g_high = z >= S(0) ? g[2] : g[3], g_low = z >= S(0) ? g[3] : g[2];
          g_z += g_mean * m.total * share + 2 * g_variance * z * m.square + g_high * m.high + g_low * m.low;
          const Vec<S> six[6] = {
              g_mean * z * share, 2 * g_variance * z * z * share,
              g_high * z / (m.many_high > S(1) ? m.many_high : one<S>()),
              -g_low * z / (m.many_low > S(1) ? m.many_low : one<S>()), m.highest, m.lowest,
          };
          S* to = messages + collector.at(way, first + r, j);
          for (long k = 0; k < 6; ++k) store_first(to + k * W, six[k], all);
        }
        store_first(g_factors + ((first + r) * FACTORS + Z) * W + j, g_z, all);
      }
  });
  const S* total = sums.total();
  for (long i = 0; i < H; ++i) {
    for (long k = 0; k < 4; ++k) std::copy_n(total + i * width + k * wide, H, g_weight + (i * 4 + k) * H);
    g_bias[i] = total[H * width + i];
  }
}

}  // namespace
