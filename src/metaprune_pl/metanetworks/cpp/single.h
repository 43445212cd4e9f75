// Messages of blocks of one edge each (shortcuts, depthwise convolutions): without tiles, 16 channels at a time.
#pragma once

#include "nodes.h"

namespace {

// The edges of such a block, and the values at their ends.
template <class S> struct Single {
  const Block<S>& block;
  const S* factors;
  explicit Single(const Block<S>& block) : block(block), factors(block.factors[block.layers - 1]) {}
  static bool fits(const Block<S>& block) { return block.O == 1 && block.I == 1; }
  long width(long j) const { return std::min(LANES, long(block.W) - j); }
  Vec<S> at_row(const S* values, long g, long many, long which, long j) const {
    return load_first(values + (block.target[g] * many + which) * block.W + j, width(j));
  }
  Vec<S> at_column(const S* values, long g, long many, long which, long j) const {
    return load_first(values + (block.source[g] * many + which) * block.W + j, width(j));
  }
  Vec<S> sign(long j) const { return load_first(block.inverter + j, width(j)); }
  // As Tile::encode.
  __attribute__((noinline)) Vec<S> edge(long g, long j) const {
    Vec<S> e = load_first(block.bias + j, width(j));
    for (long t = 0; t < block.T; ++t)
      e += load_first(block.weight + t * block.W + j, width(j)) * block.raw[g][t];
    for (long l = 0; l + 1 < block.layers; ++l) e *= update(block.factors[l], g, j);
    return e;
  }
  Vec<S> update(const S* of, long g, long j) const {
    return at_row(of, g, FACTORS, P, j) * at_column(of, g, FACTORS, Q, j) + S(1) +
           at_row(of, g, FACTORS, Q, j) * at_column(of, g, FACTORS, P, j) * sign(j);
  }
  // Calls work(g, first channel) for all edges and slices, shared by the threads.
  template <class Work> void for_each(Work work) const {
#pragma omp parallel for num_threads(block.threads)
    for (long g = 0; g < block.G; ++g)
      for (long j = 0; j < block.W; j += LANES) work(g, j);
  }
};

// As `statistics` in messages.h.
template <class S> void single_statistics(const Block<S>& block, S* received) {
  const Single<S> single(block);
  const long W = block.W;
  const Found<S> messages(block.G, 2, W);
  single.for_each([&](long g, long j) {
    const Vec<S> e = single.edge(g, j);
    store_first(messages.at(g) + j, e * single.at_column(single.factors, g, FACTORS, A, j) * single.sign(j),
                single.width(j));
    store_first(messages.at(g) + W + j, e * single.at_row(single.factors, g, FACTORS, A, j), single.width(j));
  });
  for (long way = 0; way < 2; ++way)
    for_each_node(block, way ? block.source : block.target, block.G, [&](long g, long node) {
      for (long j = 0; j < W; j += LANES) {
        Six<S> own = Six<S>::empty(), six;
        own.template receive<1>([&](auto) INLINE { return load_first(messages.at(g) + way * W + j, single.width(j)); });
        S* at = received + (way * block.N + node) * 6 * W + j;
        unroll<6>([&](auto k) INLINE { six.part[k] = load_first(at + k * W, single.width(j)); });
        six.join(own);
        unroll<6>([&](auto k) INLINE { store_first(at + k * W, six.part[k], single.width(j)); });
      }
    });
}

// As `layer_backward` in messages.h.
template <class S>
void single_layer_backward(const Block<S>& block, const S* received, S* gradient, S* g_factors) {
  const Single<S> single(block);
  const long W = block.W;
  const S *factors = single.factors, *to_columns = received + block.N * 6 * W;
  const Found<S> found(block.G, 6, W);
  single.for_each([&](long g, long j) {
    const long width = single.width(j);
    S* at = gradient + g * W + j;
    const Vec<S> e = single.edge(g, j), ge = load_first(at, width), t = ge * e;
    const Vec<S> a = single.at_row(factors, g, FACTORS, A, j), sign = single.sign(j);
    const Vec<S> b = single.at_column(factors, g, FACTORS, A, j) * sign;
    Vec<S> at_row[6], at_column[6];
    unroll<6>([&](auto k) INLINE {
      at_row[k] = single.at_row(received, g, 6, k, j);
      at_column[k] = single.at_column(to_columns, g, 6, k, j);
    });
    const Vec<S> u1 = message_gradient<S>(a * e, at_column), u2 = message_gradient<S>(b * e, at_row);
    const Vec<S> six[6] = {
        u1 * e, t * single.at_column(factors, g, FACTORS, Q, j), t * single.at_column(factors, g, FACTORS, P, j) * sign,
        u2 * e * sign, t * single.at_row(factors, g, FACTORS, Q, j) * sign, t * single.at_row(factors, g, FACTORS, P, j),
    };
    for (long k = 0; k < 6; ++k) store_first(found.at(g) + k * W + j, six[k], width);
    store_first(at, ge * single.update(factors, g, j) + u1 * a + u2 * b, width);
  });
  const long which[] = {A, P, Q, A, P, Q};  // of the rows, and of the columns
  for (long way = 0; way < 2; ++way)
    for_each_node(block, way ? block.source : block.target, block.G, [&](long g, long node) {
      for (long k = 3 * way; k < 3 * way + 3; ++k)
        for (long j = 0; j < W; ++j) g_factors[(node * FACTORS + which[k]) * W + j] += found.at(g)[k * W + j];
    });
}

}  // namespace
