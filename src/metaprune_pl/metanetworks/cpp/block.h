// A block's edges in tiles that stay in a core's cache, and how a block is shared by threads.
#pragma once

#include "matrix.h"

// What Python passes, the same for every function.
template <class S> struct Block {
  const S* const* raw;      // of each g, [O, I, T]
  const S* weight;          // [T, W]
  const S* bias;            // [W]
  const S* decoder[4];      // [H, H], [H], [T, H] and [T]
  const S* inverter;        // [W]
  const int64_t* target;    // node of each row, [G, O]
  const int64_t* source;    // node of each column, [G, I]
  int64_t G, O, I, T, W, H, N, threads;
  int64_t layers;           // so far
  const S* const* factors;  // of the nodes in each of them: a, z, p and q, [N, 4, W]
  int64_t numbers() const { return G * O * I * W; }
};

namespace {

constexpr long Z = 0, A = 1, P = 2, Q = 3, FACTORS = 4;
constexpr long TILE = 32;                   // vectors of a row in a tile
constexpr long ROWS = 4;                    // rows that are encoded together
constexpr long MOST_BUNDLES = 64;

// Some columns of a block, and a slice of their hidden channels: 16 channels of one edge to a vector where W is 16 or
// more, and all channels of 16 / W edges side by side where it is less. Each thread has one.
template <class S> struct Tile {
  const Block<S>& block;
  const long updates;                      // that the edges have had
  const bool narrow;                       // several edges to a vector
  const long slices, per_vector;           // vectors of an edge, edges of a vector
  const long most, size;                   // columns of a tile, numbers of a row in it
  Mask<S> lane_edge, lane_channel;         // which of its vector's edges, and which channel of it, a lane belongs to
  long g = 0, begin = 0, columns = 0, slice = 0;
  long vectors = 0, full = 0, tail = 0;    // of a row; those that are full; numbers of the last one where it is not
  Buffer<S> weight, past, patterns, taps, edges, row_sums, column_sums, there;

  Tile(const Block<S>& block, long updates)
      : block(block), updates(updates), narrow(block.W < LANES), slices(narrow ? 1 : block.W / LANES),
        per_vector(narrow ? LANES / block.W : 1),
        most(std::min((long(block.I) + per_vector - 1) / per_vector, TILE) * per_vector),
        size(most / per_vector * LANES), weight((block.T + 1) * LANES), past(2 * updates * size),
        patterns(2 * updates * ROWS * LANES), taps(narrow ? ROWS * block.T * (most + LANES) : 0), edges(ROWS * size) {
    for (long i = 0; i < LANES; ++i) {
      lane_edge[i] = i / std::min(long(block.W), LANES);
      lane_channel[i] = i % std::min(long(block.W), LANES);
    }
  }

  // Where row r's edges of the tile are in the gradient of the block's edges, [G, slices, O, I, 16 or W]: the rows of a
  // slice follow each other in memory.
  INLINE long place(long r) const {
    return (((g * slices + slice) * block.O + r) * block.I + begin) * std::min(LANES, long(block.W));
  }
  // The slice of an edge's or node's W values; repeated to fill the vector where they are narrow.
  INLINE Vec<S> pattern(const S* from) const {
    return narrow ? spread<S>(load_first(from, block.W), lane_channel) : load(from + slice * LANES);
  }
  // Of many values of the nodes, [N, many, W], one at a row.
  INLINE const S* row(const S* values, long r, long many, long which) const {
    return values + (block.target[g * block.O + r] * many + which) * block.W;
  }
  // The same at the tile's columns: vector k goes to number `number` of the `count` vectors at to[k * count]. The lanes
  // beyond the last column are zero.
  void gather(S* to, long count, long number, const S* values, long many, long which, bool inverted = false) const {
    const int64_t* source = block.source + g * block.I + begin;
    const Vec<S> sign = inverted ? pattern(block.inverter) : one<S>();
    if (tail) store(to + ((vectors - 1) * count + number) * LANES, zero<S>());
    for (long c = 0; c < columns; ++c) {
      const S* from = values + (source[c] * many + which) * block.W;
      if (narrow)
        for (long i = 0, at = (c / per_vector * count + number) * LANES + c % per_vector * block.W; i < block.W; ++i)
          to[at + i] = from[i] * sign[i];
      else
        store(to + (c * count + number) * LANES, load(from + slice * LANES) * sign);
    }
  }

  // Calls work() at every tile of columns and slice, for one g.
  template <class Work> void for_each_place(long at, Work work) {
    for (g = at, begin = 0; begin < block.I; begin += most)
      for (slice = 0; slice < slices; ++slice) {
        columns = std::min(most, long(block.I) - begin);
        vectors = (columns + per_vector - 1) / per_vector;
        tail = columns % per_vector * block.W;
        full = vectors - (tail > 0);
        for (long t = 0; t < block.T; ++t) store(&weight[t * LANES], pattern(block.weight + t * block.W));
        store(&weight[block.T * LANES], pattern(block.bias));
        for (long l = 0; l < updates; ++l) {
          gather(past.data(), 2 * updates, 2 * l, block.factors[l], FACTORS, Q);
          gather(past.data(), 2 * updates, 2 * l + 1, block.factors[l], FACTORS, P, true);
        }
        work();
      }
  }

  // Equations (13) and (19): the edges of R rows, encoded and updated as in the layers before. Never inlined: forward
  // and backward passes must find the same bits, since they compare messages with their maximum.
  template <long R> __attribute__((noinline)) void encode(long first, S* out) {
    const long T = block.T, row_taps = block.I * T, stride = most + LANES;
    const S* raw = block.raw[g] + (first * block.I + begin) * T;
    for (long l = 0; l < updates; ++l)
      for (long r = 0; r < R; ++r)
        for (long k = 0; k < 2; ++k)
          store(&patterns[((l * R + r) * 2 + k) * LANES], pattern(row(block.factors[l], first + r, FACTORS, P + k)));
    for (long l = 0; l < updates && first + 2 * R <= block.O; ++l)  // of the next rows, while these are encoded
      for (long r = R; r < 2 * R; ++r)
        for (long k = 0; k < 2; ++k) __builtin_prefetch(row(block.factors[l], first + r, FACTORS, P + k) + slice * LANES);
    const auto work = [&](auto tap) INLINE {
      const S* there = past.data();
      for (long k = 0; k < vectors; ++k) {
        Vec<S> e[R];
        unroll<R>([&](auto r) INLINE { e[r] = load(&weight[T * LANES]); });
        for (long t = 0; t < T; ++t) {
          const Vec<S> w = load(&weight[t * LANES]);
          unroll<R>([&](auto r) INLINE { e[r] += w * tap(r, t, k); });
        }
        const S* own = patterns.data();
        for (long l = 0; l < updates; ++l, there += 2 * LANES, own += 2 * R * LANES) {
          const Vec<S> q = load(there), p = load(there + LANES);
          unroll<R>([&](auto r) INLINE {
            e[r] *= load(own + 2 * r * LANES) * q + S(1) + load(own + (2 * r + 1) * LANES) * p;
          });
        }
        unroll<R>([&](auto r) INLINE { store(out + r * size + k * LANES, e[r]); });
      }
    };
    if (narrow) {
      for (long r = 0; r < R; ++r)
        for (long t = 0; t < T; ++t)
          for (long c = 0; c < columns; ++c) taps[(r * T + t) * stride + c] = raw[r * row_taps + c * T + t];
      work([&](long r, long t, long k) INLINE {
        return spread<S>(load(&taps[(r * T + t) * stride + k * per_vector]), lane_edge);
      });
    } else {
      work([&](long r, long t, long k) INLINE { return raw[r * row_taps + k * T + t]; });
    }
  }
};

// Splits a block among threads: bundles of its g as often as there is one for each thread, and the rows of the others.
template <class S> struct Split {
  long bundle, bundles, whole;  // how many g go together, and how many of these go to a thread in whole
  long parts, rows;             // of the others: parts of a g's rows, rows of a part
  explicit Split(const Block<S>& block)
      : bundle((block.G + MOST_BUNDLES - 1) / MOST_BUNDLES), bundles((block.G + bundle - 1) / bundle),
        whole(bundles - bundles % block.threads), parts(1), rows(block.O) {
    if (whole == bundles) return;
    const long wanted = std::min(long(block.O), (block.threads + bundles - whole - 1) / (bundles - whole));
    rows = ((block.O + wanted - 1) / wanted + ROWS - 1) / ROWS * ROWS;
    parts = (block.O + rows - 1) / rows;
  }
  long pieces() const { return whole + (bundles - whole) * parts; }
  long parts_of(long g) const { return g / bundle < whole ? 1 : parts; }
};

// Calls work(tile, part, first g, last g, first row, last row) for every piece of the block.
template <class S, class Work>
void for_each_piece(const Block<S>& block, const Split<S>& split, long updates, Work work) {
#pragma omp parallel num_threads(block.threads)
  {
    Tile<S> tile(block, updates);
#pragma omp for schedule(dynamic, 1)
    for (long piece = 0; piece < split.pieces(); ++piece) {
      const bool whole = piece < split.whole;
      const long bundle = whole ? piece : split.whole + (piece - split.whole) / split.parts;
      const long part = whole ? 0 : (piece - split.whole) % split.parts, first = part * split.rows;
      const long g = bundle * split.bundle, end = std::min(long(block.G), g + split.bundle);
      work(tile, part, g, end, first, whole ? long(block.O) : std::min(long(block.O), first + split.rows));
    }
  }
}
// Calls work(tile, g, part, first row, last row) for every g of every piece.
template <class S, class Work>
void for_each_g(const Block<S>& block, const Split<S>& split, long updates, Work work) {
  for_each_piece(block, split, updates, [&](Tile<S>& tile, long part, long g, long end, long first, long last) {
    for (; g < end; ++g) work(tile, g, part, first, last);
  });
}

// Sums of numbers over all pieces of a block, in an order that does not depend on the threads' pace.
template <class S> struct Parts {
  const Split<S>& split;
  const long numbers;
  Buffer<S> all;
  Parts(const Split<S>& split, long numbers)
      : split(split), numbers((numbers + LANES - 1) / LANES * LANES),
        all(split.bundles * split.parts * this->numbers) {}
  S* at(long g, long part) { return &all[(g / split.bundle * split.parts + part) * numbers]; }
  Buffer<S> total() const {
    Buffer<S> sum(numbers);
    for (size_t i = 0; i < all.size(); ++i) sum[i % numbers] += all[i];
    return sum;
  }
};

// Calls work(row, Rows<number of rows>) so that most rows are taken four at a time.
template <class Work> INLINE inline void by_rows(long first, long last, Work work) {
  for (; first + ROWS <= last; first += ROWS) work(first, Rows<ROWS>());
  for (; first < last; ++first) work(first, Rows<1>());
}

// Adds what every g and r found, number i of `count`, to the nodes. Each thread has its share of the nodes.
template <class S, class Add>
void for_each_node(const Block<S>& block, const int64_t* node, long count, Add add) {
#pragma omp parallel for num_threads(block.threads)
  for (long thread = 0; thread < block.threads; ++thread) {
    const long first = block.N * thread / block.threads, last = block.N * (thread + 1) / block.threads;
    for (long i = 0; i < count; ++i)
      if (first <= node[i] && node[i] < last) add(i, node[i]);
  }
}

}  // namespace
