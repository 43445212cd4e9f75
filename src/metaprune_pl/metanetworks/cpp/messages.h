// Messages of one layer, forward and backward: equations (14), (15) and (19).
#pragma once

#include "single.h"

namespace {

// Equations (14) and (15) of the last layer, joined to what the nodes received as rows and as columns, [2, N, 6, W].
template <class S> void statistics(const Block<S>& block, S* received) {
  if (Single<S>::fits(block)) return single_statistics(block, received);
  const Split<S> split(block);
  const long W = block.W, O = block.O, I = block.I, columns_of_all = block.G * I;
  const S* factors = block.factors[block.layers - 1];
  const Found<S> to_rows(block.G * O, 6, W), to_columns(split.parts * columns_of_all, 6, W);
  const Mask<S> lanes = lane_numbers<S>();
  for_each_g(block, split, block.layers - 1, [&](Tile<S>& tile, long g, long part, long first, long last) {
    const long slices = tile.slices, size = tile.size;
    tile.row_sums.resize((last - first) * slices * 6 * LANES), tile.column_sums.resize(6 * size);
    tile.there.resize(size);
    S *at_rows = tile.row_sums.data(), *at_columns = tile.column_sums.data();
    for (long i = 0; i < (last - first) * slices; ++i) Six<S>::empty().put(&at_rows[i * 6 * LANES]);
    tile.for_each_place(g, [&] {
      tile.gather(tile.there.data(), 1, 0, factors, FACTORS, A, true);
      for (long k = 0; k < tile.vectors; ++k) Six<S>::empty().put(&at_columns[k * 6 * LANES]);
      by_rows(first, last, [&]<long R>(long row, Rows<R>) {
        const S *edges = tile.edges.data(), *there = tile.there.data();
        tile.template encode<R>(row, tile.edges.data());
        Vec<S> own[R];
        unroll<R>([&](auto r) INLINE { own[r] = tile.pattern(tile.row(factors, row + r, FACTORS, A)); });
        for (long k = 0; k < tile.vectors; ++k) {
          Six<S> six = Six<S>::at(&at_columns[k * 6 * LANES]);
          six.template receive<R>([&](auto r) INLINE { return own[r] * load(edges + r * size + k * LANES); });
          six.put(&at_columns[k * 6 * LANES]);
        }
        for (long r = 0; r < R; ++r) {
          S* at = &at_rows[((row + r - first) * slices + tile.slice) * 6 * LANES];
          Six<S> six = Six<S>::at(at);
          const auto message = [&](long k) INLINE {
            return load(there + k * LANES) * load(edges + r * size + k * LANES);
          };
          long k = 0;
          for (; k + 4 <= tile.full; k += 4) six.template receive<4>([&](auto i) INLINE { return message(k + i); });
          for (; k < tile.full; ++k) six.template receive<1>([&](auto) INLINE { return message(k); });
          if (tile.tail) {
            Six<S> single = Six<S>::empty();
            single.template receive<1>([&](auto) INLINE { return message(k); });
            six.join(single.only(lanes < int(tile.tail)));
          }
          six.put(at);
        }
      });
      for (long c = 0; c < tile.columns; ++c)
        for (long k = 0; k < 6; ++k)
          to_columns.put(tile, part * columns_of_all + g * I + tile.begin + c, k,
                         at_columns + (c / tile.per_vector * 6 + k) * LANES + c % tile.per_vector * W % LANES);
    });
    for (long i = 0; i < last - first; ++i)
      for (tile.slice = 0; tile.slice < slices; ++tile.slice) {
        S* at = &at_rows[(i * slices + tile.slice) * 6 * LANES];
        Six<S> six = Six<S>::at(at);
        for (long half = LANES / 2; half >= W; half /= 2) {  // folds what a narrow row received in several places
          Six<S> other = six;
          unroll<6>([&](auto k) INLINE { other.part[k] = spread<S>(six.part[k], lane_numbers<S>(half)); });
          six.join(other);
        }
        six.put(at);
        for (long k = 0; k < 6; ++k) to_rows.put(tile, g * O + first + i, k, at + k * LANES);
      }
  });
  const auto meet = [&](S* node, const S* found) {
    for (long j = 0; j < W; j += LANES) {
      Six<S> six, other;
      const long many = std::min(LANES, W - j);
      unroll<6>([&](auto k) INLINE {
        six.part[k] = load_first(node + k * W + j, many);
        other.part[k] = load_first(found + k * W + j, many);
      });
      six.join(other);
      unroll<6>([&](auto k) INLINE { store_first(node + k * W + j, six.part[k], many); });
    }
  };
  for_each_node(block, block.target, block.G * O, [&](long i, long node) {
    meet(received + node * 6 * W, to_rows.at(i));
  });
  for_each_node(block, block.source, columns_of_all, [&](long i, long node) {
    for (long part = 0; part < split.parts_of(i / I); ++part)
      meet(received + (block.N + node) * 6 * W, to_columns.at(part * columns_of_all + i));
  });
}

// Backward pass of equations (14), (15) and (19) of the last layer, as equations.layer_backward: `gradient` of the
// edges goes from after to before the update; that of the factors, [N, 4, W], is added to.
template <class S> void layer_backward(const Block<S>& block, const S* received, S* gradient, S* g_factors) {
  if (Single<S>::fits(block)) return single_layer_backward(block, received, gradient, g_factors);
  const Split<S> split(block);
  const long W = block.W, O = block.O, I = block.I, columns_of_all = block.G * I;
  const S *factors = block.factors[block.layers - 1], *to_columns = received + block.N * 6 * W;
  const Found<S> g_rows(block.G * O, 3, W), g_columns(split.parts * columns_of_all, 3, W);
  const Mask<S> lanes = lane_numbers<S>();
  for_each_g(block, split, block.layers - 1, [&](Tile<S>& tile, long g, long part, long first, long last) {
    const long slices = tile.slices, size = tile.size;
    tile.row_sums.assign((last - first) * slices * 3 * LANES, S(0));
    tile.column_sums.resize(3 * size), tile.there.resize(9 * size);
    S *at_rows = tile.row_sums.data(), *sums = tile.column_sums.data(), *there = tile.there.data();
    tile.for_each_place(g, [&] {
      for (long k = 0; k < 6; ++k) tile.gather(there, 9, k, to_columns, 6, k);
      tile.gather(there, 9, 6, factors, FACTORS, A, true);
      tile.gather(there, 9, 7, factors, FACTORS, Q);
      tile.gather(there, 9, 8, factors, FACTORS, P, true);
      std::fill(sums, sums + tile.vectors * 3 * LANES, S(0));
      by_rows(first, last, [&]<long R>(long row, Rows<R>) {
        tile.template encode<R>(row, tile.edges.data());
        for (long r = 0; r < R; ++r) {
          const S* edges = &tile.edges[r * size];
          if (row + r + R < O)
            for (long k = 0; k < 6; ++k) __builtin_prefetch(tile.row(received, row + r + R, 6, k) + tile.slice * LANES);
          S* g_edges = gradient + tile.place(row + r);
          S* out = &at_rows[((row + r - first) * slices + tile.slice) * 3 * LANES];
          Vec<S> mine[9], sum[3];
          unroll<6>([&](auto k) INLINE { mine[k] = tile.pattern(tile.row(received, row + r, 6, k)); });
          mine[6] = tile.pattern(tile.row(factors, row + r, FACTORS, A));
          unroll<2>([&](auto k) INLINE { mine[7 + k] = tile.pattern(tile.row(factors, row + r, FACTORS, P + k)); });
          unroll<3>([&](auto k) INLINE { sum[k] = load(out + k * LANES); });
          const auto step = [&](long k, Vec<S> ge) INLINE {
            const Vec<S> e = load(edges + k * LANES);
            Vec<S> other[9];
            unroll<9>([&](auto i) INLINE { other[i] = load(there + (k * 9 + i) * LANES); });
            const Vec<S> u1 = message_gradient<S>(mine[6] * e, other), u2 = message_gradient<S>(other[6] * e, mine);
            const Vec<S> t = ge * e;
            sum[0] += u1 * e;
            sum[1] += t * other[7];
            sum[2] += t * other[8];
            S* at = sums + k * 3 * LANES;
            store(at, load(at) + u2 * e);
            store(at + LANES, load(at + LANES) + t * mine[8]);
            store(at + 2 * LANES, load(at + 2 * LANES) + t * mine[7]);
            return ge * (mine[7] * other[7] + S(1) + mine[8] * other[8]) + u1 * mine[6] + u2 * other[6];
          };
          for (long k = 0; k < tile.full; ++k) {
            __builtin_prefetch(g_edges + (2 * I + k) * LANES);  // two rows ahead
            store(g_edges + k * LANES, step(k, load(g_edges + k * LANES)));
          }
          if (tile.tail) {
            S* at = g_edges + tile.full * LANES;
            const Vec<S> before[3] = {sum[0], sum[1], sum[2]};
            store_first(at, step(tile.full, load_first(at, tile.tail)), tile.tail);
            unroll<3>([&](auto k) INLINE { sum[k] = lanes < int(tile.tail) ? sum[k] : before[k]; });
          }
          unroll<3>([&](auto k) INLINE { store(out + k * LANES, sum[k]); });
        }
      });
      for (long c = 0; c < tile.columns; ++c)
        for (long k = 0; k < 3; ++k)
          g_columns.put(tile, part * columns_of_all + g * I + tile.begin + c, k,
                        sums + (c / tile.per_vector * 3 + k) * LANES + c % tile.per_vector * W % LANES);
    });
    for (long i = 0; i < last - first; ++i)
      for (tile.slice = 0; tile.slice < slices; ++tile.slice)
        for (long k = 0; k < 3; ++k) {
          S* at = &at_rows[((i * slices + tile.slice) * 3 + k) * LANES];
          for (long j = W; j < LANES; ++j) at[j % W] += at[j];
          g_rows.put(tile, g * O + first + i, k, at);
        }
  });
  const long which[] = {A, P, Q};
  for_each_node(block, block.target, block.G * O, [&](long i, long node) {
    for (long k = 0; k < 3; ++k)
      for (long j = 0; j < W; ++j) g_factors[(node * FACTORS + which[k]) * W + j] += g_rows.at(i)[k * W + j];
  });
  for_each_node(block, block.source, columns_of_all, [&](long i, long node) {
    for (long part = 0; part < split.parts_of(i / I); ++part)
      for (long k = 0; k < 3; ++k) {
        S* to = g_factors + (node * FACTORS + which[k]) * W;
        const S* from = g_columns.at(part * columns_of_all + i) + k * W;
        for (long j = 0; j < W; ++j) to[j] += which[k] == Q ? from[j] : from[j] * block.inverter[j];
      }
  });
}

}  // namespace
