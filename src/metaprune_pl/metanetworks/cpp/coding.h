// The encoder's backward pass and the decoder, forward and backward: equations (13), (21) and (23).
#pragma once

#include "block.h"

namespace {

constexpr long EDGES = 64;  // edges that are decoded together, four vectors of them

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
        const long at = (g * block.O + r) * block.I + tile.begin;
        const S *raw = block.raw + at * T, *from = gradient + at * W + tile.slice * LANES;
        for (long t = 0; tile.narrow && t < T; ++t)
          for (long c = 0; c < tile.columns; ++c) tile.taps[t * stride + c] = raw[c * T + t];
        for (long k = 0; k < tile.vectors; ++k, from += tile.hop) {
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

// 64 edges with the hidden channel first, [channel, 64], on their way through the decoder, equations (21) and (23).
template <class S> struct Decoding {
  const long H, T, wide;                           // wide: H to the next multiple of 16
  const S *first, *first_bias, *last, *last_bias;  // [H, H], [H], [T, H], [T]
  Buffer<S> staged;                                // edges as they come, [64, wide]
  Buffer<S> x, scale, act, hidden;                 // normalised edges, 1 / deviation, silu(hidden) and hidden layer
  long at[EDGES];                                  // number of each edge in [G, O, I]
  long count = 0;

  Decoding(const Block<S>& block, long H, const S* const* decoder)
      : H(H), T(block.T), wide((H + LANES - 1) / LANES * LANES), first(decoder[0]), first_bias(decoder[1]),
        last(decoder[2]), last_bias(decoder[3]), staged(EDGES * wide + LANES), x(H * EDGES), scale(EDGES),
        act(H * EDGES), hidden(H * EDGES) {}

  // Takes an edge whose slices lie a stride apart; true where these are 64.
  bool add(const S* from, long stride, long number) {
    for (long j = 0; j < wide; j += LANES) store(&staged[count * wide + j], load(from + j / LANES * stride));
    at[count++] = number;
    return count == EDGES;
  }

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
  // What was staged into x.
  void gather() {
    for (long j = 0; j < H; j += LANES)
      for (long i = 0; i < EDGES; i += LANES) {
        Vec<S> part[LANES];
        for (long k = 0; k < LANES; ++k) part[k] = load(&staged[(i + k) * wide + j]);
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
  // Runs the first layer on what was staged.
  void run() {
    gather();
    for (long v = 0; v < EDGES; v += LANES) {
      Vec<S> mean = fill(S(0)), square = fill(S(0));
      for (long j = 0; j < H; ++j) mean += load(&x[j * EDGES + v]);
      mean /= fill(S(H));
      for (long j = 0; j < H; ++j) {
        const Vec<S> centred = load(&x[j * EDGES + v]) - mean;
        store(&x[j * EDGES + v], centred);
        square += centred * centred;
      }
      const Vec<S> inverse = one<S>() / vsqrt<S>(square / fill(S(H)) + S(1e-5));
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

// Calls work(decoding, g, part) for all edges, 64 at a time where a piece has them, decoded up to the hidden layer.
template <class S, class Work>
void for_edges(const Block<S>& block, const Split<S>& split, long H, const S* const* decoder, Work work) {
  constexpr long CHUNK = 4 * ROWS;  // rows whose edges are at hand with all their slices
  for_each_piece(block, split, block.layers, [&](Tile<S>& tile, long part, long first_g, long last_g, long first, long last) {
    Decoding<S> decoding(block, H, decoder);
    const auto decode = [&] {
      decoding.run();
      work(decoding, first_g, part);
      decoding.count = 0;
    };
    const long stride = CHUNK * tile.size;
    Buffer<S> edges(tile.slices * stride + LANES);
    for (long g = first_g; g < last_g; ++g)
      for (long start = first; start < last; start += CHUNK) {
        const long end = std::min(last, start + CHUNK);
        tile.for_each_place(g, [&] {
          by_rows(start, end, [&]<long R>(long row, Rows<R>) {
            tile.template encode<R>(row, &edges[tile.slice * stride + (row - start) * tile.size]);
          });
          if (tile.slice + 1 < tile.slices) return;
          for (long row = start; row < end; ++row)
            for (long c = 0; c < tile.columns; ++c) {
              const S* from = &edges[(row - start) * tile.size + c * (tile.narrow ? long(block.W) : LANES)];
              if (decoding.add(from, stride, (g * block.O + row) * block.I + tile.begin + c)) decode();
            }
        });
      }
    if (decoding.count) decode();
  });
}

// Equations (21) and (23): new features of the edges, [G, O, I, T].
template <class S> void decode(const Block<S>& block, long H, const S* const* decoder, S* out) {
  for_edges(block, Split<S>(block), H, decoder, [&](Decoding<S>& d, long, long) {
    Buffer<S> delta(d.T * EDGES);
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
    thread_local Buffer<S> g_out, g_hidden, g_x, turned;
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
  const Buffer<S> total = parts.total();
  for (long o = 0; o < H + T; ++o) {
    for (long k = 0; k < H; ++k) (o < H ? g_decoder[0] + o * H : g_decoder[2] + (o - H) * H)[k] = total[o * wide + k];
    (o < H ? g_decoder[1] + o : g_decoder[3] + o - H)[0] = total[(H + T) * wide + o];
  }
}

}  // namespace
