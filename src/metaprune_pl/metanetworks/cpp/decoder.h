// The decoder, forward and backward: equations (21) and (23).
//
// It takes a row of a tile at a time. As there, a place is one edge with all its slices where W is 16 or more (wide),
// or one vector with 16 / W edges (narrow); a wide matrix product takes single numbers of its left factor from memory,
// a narrow one spreads them over the lanes of their edge.
#pragma once

#include "block.h"

namespace {

// The decoder's weights as the products take them, and up to TILE places on their way through it.
template <class S> struct Decoding {
  const Tile<S>& tile;
  const long H, T, wide, wide_taps;  // numbers of a place, and of its taps in a wide block
  Buffer<S> first, first_turned, first_bias, last, last_turned, last_bias;
  Buffer<S> valid;                                    // 1 in the lanes of real channels
  Buffer<S> x, scale, hidden, gate, act;              // normalised edges, 1 / deviation, hidden layer, sigmoid and silu
  Buffer<S> taps, g_act, g_x;
  Mask<S> spreads[LANES], partner[4], first_lane;     // narrow: channel k of each edge; lane ^ 1, 2, 4, 8; edge i
  long places = 0, edges = 0, at = 0;                 // of this row; number of the first edge in [O, I]

  explicit Decoding(const Tile<S>& tile)
      : tile(tile), H(tile.block.H), T(tile.block.T), wide(std::max(long(tile.block.W), LANES)),
        wide_taps((T + LANES - 1) / LANES * LANES), first(H * wide), first_turned(H * wide), first_bias(wide),
        last(T * wide), last_turned(H * wide_taps), last_bias(wide_taps), valid(wide), x(TILE * wide),
        scale(TILE * LANES), hidden(TILE * wide), gate(TILE * wide), act(TILE * wide), taps(TILE * wide_taps),
        g_act(TILE * wide), g_x(TILE * wide) {
    const long W = tile.block.W;
    const S* const* decoder = tile.block.decoder;
    for (long i = 0; i < wide; ++i) {
      const long j = i % W;
      if (j >= H) continue;
      valid[i] = 1, first_bias[i] = decoder[1][j];
      for (long k = 0; k < H; ++k) {
        first[k * wide + i] = decoder[0][k * H + j];
        first_turned[k * wide + i] = decoder[0][j * H + k];
      }
      for (long t = 0; t < T; ++t) last[t * wide + i] = decoder[2][t * H + j];
    }
    for (long t = 0; t < T; ++t) {
      last_bias[t] = decoder[3][t];
      for (long k = 0; k < H; ++k) last_turned[k * wide_taps + t] = decoder[2][t * H + k];
    }
    for (long i = 0; i < LANES; ++i) {
      for (long k = 0; k < LANES; ++k) spreads[k][i] = tile.narrow ? i - i % W + k % W : 0;
      for (long k = 0; k < 4; ++k) partner[k][i] = i ^ (1 << k);
      first_lane[i] = i * W % LANES;
    }
  }

  // The sum over the channels of each edge, in all its lanes.
  INLINE Vec<S> channel_sum(Vec<S> v) const {
    for (long k = 0; (1 << k) < std::min(long(tile.block.W), LANES); ++k) v += spread<S>(v, partner[k]);
    return v;
  }

  // out[p] = bias + sum_k in[p, k] matrix[k], for all places; `out` and the rows of the matrix are `width` numbers.
  void multiply(S* out, const S* in, long in_width, const S* matrix, const S* bias, long k, long width) const {
    if (tile.narrow) {
      for (long p = 0; p < places; ++p) {
        Vec<S> sum = bias ? load(bias) : zero<S>();
        const Vec<S> v = load(in + p * LANES);
        for (long i = 0; i < k; ++i) sum += spread<S>(v, spreads[i]) * load(matrix + i * LANES);
        store(out + p * LANES, sum);
      }
      return;
    }
    ::multiply(out, places, in, in_width, matrix, bias, k, width);
  }
  // into[i] += sum_p left[p, i] right[p], for all places; `right` and `into` are `wide` numbers.
  void outer(S* into, const S* left, long left_width, const S* right, long n) const {
    if (tile.narrow) {
      for (long i = 0; i < n; ++i) {
        Vec<S> sum = load(into + i * LANES);
        for (long p = 0; p < places; ++p)
          sum += spread<S>(load(left + p * LANES), spreads[i]) * load(right + p * LANES);
        store(into + i * LANES, sum);
      }
      return;
    }
    ::outer(into, n, left, left_width, right, wide, places);
  }

  // Edges, whose slices lie a stride apart, through LayerNorm and the first layer.
  void run(const S* from, long stride) {
    for (long p = 0; p < places; ++p) {
      Vec<S> mean = zero<S>(), square = zero<S>();
      for (long j = 0; j < wide; j += LANES) mean += load(from + j / LANES * stride + p * LANES);
      mean = channel_sum(mean) / S(H);
      for (long j = 0; j < wide; j += LANES) {
        const Vec<S> centred = (load(from + j / LANES * stride + p * LANES) - mean) * load(&valid[j]);
        store(&x[p * wide + j], centred);
        square += centred * centred;
      }
      const Vec<S> inverse = one<S>() / vsqrt<S>(channel_sum(square) / S(H) + S(1e-5));
      store(&scale[p * LANES], inverse);
      for (long j = 0; j < wide; j += LANES) store(&x[p * wide + j], load(&x[p * wide + j]) * inverse);
    }
    multiply(hidden.data(), x.data(), wide, first_turned.data(), first_bias.data(), H, wide);
    for (long i = 0; i < places * wide; i += LANES) {
      const Vec<S> h = load(&hidden[i]), s = one<S>() / (vexp(-h) + S(1));
      store(&gate[i], s);
      store(&act[i], h * s);
    }
  }

  // Equation (23): new features from the raw ones, [E, T].
  void finish(const S* raw, S* out) {
    if (!tile.narrow) {
      multiply(taps.data(), act.data(), wide, last_turned.data(), last_bias.data(), H, wide_taps);
      for (long i = 0; i < edges; ++i)
        for (long t = 0; t < T; ++t) out[i * T + t] = raw[i * T + t] + taps[i * wide_taps + t];
      return;
    }
    for (long p = 0; p < places; ++p)
      for (long t = 0; t < T; ++t) {
        const Vec<S> delta = channel_sum(load(&act[p * LANES]) * load(&last[t * wide])) + last_bias[t];
        S found[LANES];
        store(found, spread<S>(delta, first_lane));
        const long from = p * tile.per_vector, many = std::min(tile.per_vector, edges - from);
        for (long i = from; i < from + many; ++i) out[i * T + t] = raw[i * T + t] + found[i - from];
      }
  }

  // Gradient of the last layer's input, into g_act, and sums for its weights, [T, wide], and biases, [T, 16].
  void finish_backward(const S* g_new, S* g_last, S* g_bias) {
    if (!tile.narrow) {
      for (long i = 0; i < edges; ++i)
        for (long t = 0; t < T; ++t) taps[i * wide_taps + t] = g_new[i * T + t], g_bias[t * LANES] += g_new[i * T + t];
      multiply(g_act.data(), taps.data(), wide_taps, last.data(), nullptr, T, wide);
      outer(g_last, taps.data(), wide_taps, act.data(), T);
      return;
    }
    std::fill(g_act.begin(), g_act.begin() + places * LANES, S(0));
    for (long p = 0; p < places; ++p)
      for (long t = 0; t < T; ++t) {
        const long from = p * tile.per_vector, many = std::min(tile.per_vector, edges - from);
        S single[LANES] = {};
        for (long i = 0; i < many; ++i) single[i] = g_new[(from + i) * T + t];
        const Vec<S> g = spread<S>(load(single), tile.lane_edge);
        store(&g_act[p * LANES], load(&g_act[p * LANES]) + g * load(&last[t * wide]));
        store(g_last + t * wide, load(g_last + t * wide) + g * load(&act[p * LANES]));
        store(g_bias + t * LANES, load(g_bias + t * LANES) + load(single));
      }
  }

  // From g_act to the gradient of the edges, whose slices are `stride` apart, and sums for the first layer's weights,
  // [H, wide], and biases.
  void run_backward(S* g_first, S* g_bias, S* gradient, long stride) {
    for (long p = 0; p < places; ++p)
      for (long j = 0; j < wide; j += LANES) {  // silu'(h) = s (1 + h (1 - s)), where s is the gate
        const Vec<S> h = load(&hidden[p * wide + j]), s = load(&gate[p * wide + j]);
        const Vec<S> g = load(&g_act[p * wide + j]) * s * (h * (one<S>() - s) + S(1));
        store(&g_act[p * wide + j], g);
        store(g_bias + j, load(g_bias + j) + g);
      }
    outer(g_first, g_act.data(), wide, x.data(), H);
    multiply(g_x.data(), g_act.data(), wide, first.data(), nullptr, H, wide);
    for (long p = 0; p < places; ++p) {
      Vec<S> mean = zero<S>(), along = zero<S>();
      for (long j = 0; j < wide; j += LANES) {
        const Vec<S> value = load(&g_x[p * wide + j]);
        mean += value;
        along += value * load(&x[p * wide + j]);
      }
      mean = channel_sum(mean) / S(H), along = channel_sum(along) / S(H);
      const long left = tile.narrow ? edges * tile.block.W - p * LANES : wide;  // numbers to write
      for (long j = 0; j < wide; j += LANES) {
        const Vec<S> own = load(&g_x[p * wide + j]) - mean - load(&x[p * wide + j]) * along;
        store_first(gradient + j / LANES * stride + p * LANES, own * load(&scale[p * LANES]) * load(&valid[j]),
                    std::min(LANES, left));
      }
    }
  }
};

// Calls work(decoding, g, part) for the edges of each row of each tile, decoded up to the hidden layer.
template <class S, class Work>
void for_edges(const Block<S>& block, const Split<S>& split, Work work) {
  constexpr long CHUNK = 4 * ROWS;  // rows whose edges are at hand with all their slices
  for_each_piece(block, split, block.layers, [&](Tile<S>& tile, long part, long g, long last_g, long first, long last) {
    Decoding<S> decoding(tile);
    const long stride = CHUNK * tile.size;
    Buffer<S> edges(tile.slices * stride);
    for (; g < last_g; ++g)
      for (long start = first; start < last; start += CHUNK) {
        const long end = std::min(last, start + CHUNK);
        tile.for_each_place(g, [&] {
          by_rows(start, end, [&]<long R>(long row, Rows<R>) {
            tile.template encode<R>(row, &edges[tile.slice * stride + (row - start) * tile.size]);
          });
          if (tile.slice + 1 < tile.slices) return;
          decoding.places = tile.vectors, decoding.edges = tile.columns;
          for (long row = start; row < end; ++row) {
            decoding.at = row * block.I + tile.begin;
            decoding.run(&edges[(row - start) * tile.size], stride);
            work(decoding, g, part);
          }
        });
      }
  });
}

// Equations (21) and (23): new features of the edges of each g, [O, I, T].
template <class S> void decode(const Block<S>& block, S* const* out) {
  for_edges(block, Split<S>(block), [&](Decoding<S>& d, long g, long) {
    d.finish(block.raw[g] + d.at * d.T, out[g] + d.at * d.T);
  });
}

// Backward pass of `decode`: from the gradient of the new features to that of the edges, and of the decoder's
// weights and biases.
template <class S>
void decode_backward(const Block<S>& block, const S* const* g_new, S* gradient, S* const* g_decoder) {
  const Split<S> split(block);
  const long T = block.T, W = block.W, H = block.H, wide = std::max(W, LANES);
  Parts<S> parts(split, (H + T + 1) * wide + T * LANES);
  for_edges(block, split, [&](Decoding<S>& d, long g, long part) {
    S *first = parts.at(g, part), *bias = first + H * wide, *last = bias + wide, *last_bias = last + T * wide;
    d.finish_backward(g_new[g] + d.at * T, last, last_bias);
    const long all = block.O * block.I;
    d.run_backward(first, bias, gradient + (g * all * W + d.at * std::min(LANES, W)), all * LANES);
  });
  const Buffer<S> total = parts.total();
  const S *first = total.data(), *bias = first + H * wide, *last = bias + wide, *last_bias = last + T * wide;
  const auto put = [&](S* to, const S* from, long n) {  // a narrow row has the sums of several edges
    for (long j = 0; j < n; ++j) {
      to[j] = 0;
      for (long i = j; i < wide; i += W) to[j] += from[i];
    }
  };
  for (long o = 0; o < H; ++o) put(g_decoder[0] + o * H, first + o * wide, H);
  put(g_decoder[1], bias, H);
  for (long t = 0; t < T; ++t) {
    put(g_decoder[2] + t * H, last + t * wide, H);
    g_decoder[3][t] = 0;
    for (long i = 0; i < LANES; ++i) g_decoder[3][t] += last_bias[t * LANES + i];
  }
}

}  // namespace
