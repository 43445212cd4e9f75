// The encoder's backward pass: equation (13).
#pragma once

#include "block.h"

namespace {

// Backward pass of equation (13): sums of w g^T, [T, W], and of g, [W].
template <class S> void encode_backward(const Block<S>& block, const S* gradient, S* g_weight, S* g_bias) {
  const Split<S> split(block);
  const long W = block.W, T = block.T, width = std::max(W, LANES);
  Parts<S> parts(split, (T + 1) * width);
  for_each_g(block, split, 0, [&](Tile<S>& tile, long g, long part, long first, long last) {
    const long stride = tile.most + LANES;
    tile.for_each_place(g, [&] {
      S* sums = parts.at(g, part) + tile.slice * LANES;
      for (long r = first; r < last; ++r) {
        const S *raw = block.raw[g] + (r * block.I + tile.begin) * T, *from = gradient + tile.place(r);
        for (long t = 0; tile.narrow && t < T; ++t)
          for (long c = 0; c < tile.columns; ++c) tile.taps[t * stride + c] = raw[c * T + t];
        for (long k = 0; k < tile.vectors; ++k, from += LANES) {
          const Vec<S> ge = k < tile.full ? load(from) : load_first(from, tile.tail);
          store(sums + T * width, load(sums + T * width) + ge);
          for (long t = 0; t < T; ++t) {
            const S* w = &tile.taps[t * stride + k * tile.per_vector];
            const Vec<S> wide = tile.narrow ? spread<S>(load(w), tile.lane_edge) : fill(raw[k * T + t]);
            store(sums + t * width, load(sums + t * width) + ge * wide);
          }
        }
      }
    });
  });
  const Buffer<S> total = parts.total();
  for (long t = 0; t <= T; ++t)
    for (long i = 0; i < width; ++i) (t < T ? g_weight + t * W : g_bias)[i % W] += total[t * width + i];
}

}  // namespace
