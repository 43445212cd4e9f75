// What a layer's nodes send: LayerNorm, one linear layer and SiLU give their factors, forward and backward.
#pragma once

#include "block.h"

namespace {

// What Python passes for the work on nodes.
struct Nodes {
  int64_t N, H, W, threads;
};

constexpr long CHUNK = 32;  // nodes at a time

// Calls work(thread, first node, number of nodes) for chunks of nodes; each thread has its share of them.
template <class Work> void for_each_chunk(const Nodes& nodes, Work work) {
#pragma omp parallel for num_threads(nodes.threads) schedule(static, 1)
  for (long thread = 0; thread < nodes.threads; ++thread) {
    const long end = nodes.N * (thread + 1) / nodes.threads;
    for (long n = nodes.N * thread / nodes.threads; n < end; n += CHUNK) work(thread, n, std::min(CHUNK, end - n));
  }
}

// Sums of the threads.
template <class S> struct Sums {
  const long numbers;
  Buffer<S> all;
  Sums(const Nodes& nodes, long numbers) : numbers(numbers), all(nodes.threads * numbers) {}
  S* at(long thread) { return &all[thread * numbers]; }
  const S* total() {
    for (size_t i = numbers; i < all.size(); ++i) all[i % numbers] += all[i];
    return all.data();
  }
};

template <class S> INLINE inline S sum_lanes(Vec<S> v) {
  S sum = 0;
  for (long i = 0; i < LANES; ++i) sum += v[i];
  return sum;
}

// The weights as the products take them: factor k's channel j is number k W + j of a row.
template <class S> struct Sender {
  const Nodes& nodes;
  const long wide, width, out;                // a node's channels and factors, padded; its factors
  Buffer<S> matrix, turned, bias, valid;      // [out, wide], [wide, width], [width], [wide]

  Sender(const Nodes& nodes, const S* weight, const S* b)
      : nodes(nodes), wide(padded(nodes.H)), width(padded(FACTORS * nodes.W)), out(FACTORS * nodes.W),
        matrix(width * wide), turned(wide * width), bias(width), valid(wide) {
    for (long j = 0; j < nodes.H; ++j) valid[j] = 1;
    for (long k = 0; k < FACTORS; ++k)
      for (long j = 0; j < nodes.H; ++j) {
        const S* from = weight + (k * nodes.H + j) * nodes.H;
        const long at = k * nodes.W + j;
        bias[at] = b[k * nodes.H + j];
        for (long i = 0; i < nodes.H; ++i) matrix[at * wide + i] = turned[i * width + at] = from[i];
      }
  }
  // Normalised nodes, what their deviations are divided by, and the linear layer's output.
  void run(const S* from, long n, S* x, S* scale, S* hidden) const {
    for (long r = 0; r < n; ++r, x += wide) {
      Vec<S> sum = zero<S>(), square = zero<S>();
      for (long j = 0; j < wide; j += LANES) {
        const Vec<S> v = load_first(from + r * nodes.H + j, std::min(LANES, long(nodes.H) - j));
        store(x + j, v);
        sum += v;
      }
      const S mean = sum_lanes<S>(sum) / nodes.H;
      for (long j = 0; j < wide; j += LANES) {
        const Vec<S> centred = (load(x + j) - mean) * load(&valid[j]);
        store(x + j, centred);
        square += centred * centred;
      }
      scale[r] = S(1) / std::sqrt(sum_lanes<S>(square) / nodes.H + S(1e-5));
      for (long j = 0; j < wide; j += LANES) store(x + j, load(x + j) * scale[r]);
    }
    multiply(hidden, n, x - n * wide, wide, turned.data(), bias.data(), nodes.H, width);
  }
};

// [N, H] to the factors [N, 4, W].
template <class S> void send(const Nodes& nodes, const S* from, const S* weight, const S* bias, S* factors) {
  const Sender<S> sender(nodes, weight, bias);
  for_each_chunk(nodes, [&](long, long first, long n) {
    Buffer<S> x(n * sender.wide), scale(n), hidden(n * sender.width);
    sender.run(from + first * nodes.H, n, x.data(), scale.data(), hidden.data());
    for (long r = 0; r < n; ++r)
      for (long j = 0; j < sender.out; j += LANES) {
        const Vec<S> h = load(&hidden[r * sender.width + j]), s = one<S>() / (vexp(-h) + S(1));
        store_first(factors + (first + r) * sender.out + j, h * s, std::min(LANES, sender.out - j));
      }
  });
}

// From the gradient of the factors to those of the nodes, the weight and the bias.
template <class S>
void send_backward(const Nodes& nodes, const S* from, const S* weight, const S* bias, const S* gradient, S* g_nodes,
                   S* g_weight, S* g_bias) {
  const Sender<S> sender(nodes, weight, bias);
  const long wide = sender.wide, width = sender.width, out = sender.out, H = nodes.H;
  Sums<S> sums(nodes, width * (wide + 1));
  for_each_chunk(nodes, [&](long thread, long first, long n) {
    Buffer<S> x(n * wide), scale(n), hidden(n * width), g_x(n * wide);
    S *g_matrix = sums.at(thread), *own_bias = g_matrix + width * wide;
    sender.run(from + first * H, n, x.data(), scale.data(), hidden.data());
    for (long r = 0; r < n; ++r)
      for (long j = 0; j < width; j += LANES) {  // silu'(h) = s (1 + h (1 - s)), where s is the sigmoid
        const Vec<S> h = load(&hidden[r * width + j]), s = one<S>() / (vexp(-h) + S(1));
        const Vec<S> g = load_first(gradient + (first + r) * out + j, std::min(LANES, out - j)) * s *
                         (h * (one<S>() - s) + S(1));
        store(&hidden[r * width + j], g);
        store(own_bias + j, load(own_bias + j) + g);
      }
    outer(g_matrix, out, hidden.data(), width, x.data(), wide, n);
    multiply(g_x.data(), n, hidden.data(), width, sender.matrix.data(), static_cast<S*>(nullptr), out, wide);
    for (long r = 0; r < n; ++r) {
      Vec<S> sum = zero<S>(), along = zero<S>();
      for (long j = 0; j < wide; j += LANES) {
        sum += load(&g_x[r * wide + j]);
        along += load(&g_x[r * wide + j]) * load(&x[r * wide + j]);
      }
      const S mean = sum_lanes<S>(sum) / H, part = sum_lanes<S>(along) / H;
      for (long j = 0; j < wide; j += LANES)
        store_first(g_nodes + (first + r) * H + j,
                    (load(&g_x[r * wide + j]) - mean - load(&x[r * wide + j]) * part) * scale[r],
                    std::min(LANES, H - j));
    }
  });
  const S* total = sums.total();
  for (long k = 0; k < FACTORS; ++k)
    for (long j = 0; j < H; ++j) {
      const long at = k * nodes.W + j;
      std::copy_n(total + at * wide, H, g_weight + (k * H + j) * H);
      g_bias[k * H + j] = total[width * wide + at];
    }
}

}  // namespace
