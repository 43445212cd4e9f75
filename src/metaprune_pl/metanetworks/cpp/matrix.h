// Products of a few rows, which stay in a core's cache, with a matrix. All widths are multiples of 16.
#pragma once

#include "lanes.h"

namespace {

template <long R> struct Rows {};

// Calls work(first row, first column, Rows, Rows of vectors) for 4 x 64 numbers at a time, and for what is left.
template <class Work> INLINE inline void by_blocks(long rows, long width, Work work) {
  const auto across = [&]<long R>(long r, Rows<R>) INLINE {
    long j = 0;
    for (; j + 4 * LANES <= width; j += 4 * LANES) work(r, j, Rows<R>(), Rows<4>());
    for (; j < width; j += LANES) work(r, j, Rows<R>(), Rows<1>());
  };
  long r = 0;
  for (; r + 4 <= rows; r += 4) across(r, Rows<4>());
  for (; r < rows; ++r) across(r, Rows<1>());
}

// out[r] = bias + sum_k in[r, k] matrix[k] for all rows; `out` and the rows of the matrix are `width` numbers.
template <class S>
void multiply(S* out, long rows, const S* in, long in_width, const S* matrix, const S* bias, long k, long width) {
  by_blocks(rows, width, [&]<long R, long V>(long r, long j, Rows<R>, Rows<V>) INLINE {
    Vec<S> sum[R][V];
    unroll<R>([&](auto i) INLINE {
      unroll<V>([&](auto v) INLINE { sum[i][v] = bias ? load(bias + j + v * LANES) : zero<S>(); });
    });
    const S *from = in + r * in_width, *m = matrix + j;
    for (long i = 0; i < k; ++i, m += width, ++from) {
      Vec<S> row[V];
      unroll<V>([&](auto v) INLINE { row[v] = load(m + v * LANES); });
      unroll<R>([&](auto q) INLINE {
        const S factor = from[q * in_width];
        unroll<V>([&](auto v) INLINE { sum[q][v] += row[v] * factor; });
      });
    }
    unroll<R>([&](auto q) INLINE {
      unroll<V>([&](auto v) INLINE { store(out + (r + q) * width + j + v * LANES, sum[q][v]); });
    });
  });
}

// into[i] += sum_r left[r, i] right[r] for i < n; `right` and the rows of `into` are `width` numbers.
template <class S> void outer(S* into, long n, const S* left, long left_width, const S* right, long width, long rows) {
  by_blocks(n, width, [&]<long R, long V>(long i, long j, Rows<R>, Rows<V>) INLINE {
    Vec<S> sum[R][V];
    unroll<R>([&](auto q) INLINE {
      unroll<V>([&](auto v) INLINE { sum[q][v] = load(into + (i + q) * width + j + v * LANES); });
    });
    for (long r = 0; r < rows; ++r) {
      Vec<S> row[V];
      unroll<V>([&](auto v) INLINE { row[v] = load(right + r * width + j + v * LANES); });
      unroll<R>([&](auto q) INLINE {
        const S factor = left[r * left_width + i + q];
        unroll<V>([&](auto v) INLINE { sum[q][v] += row[v] * factor; });
      });
    }
    unroll<R>([&](auto q) INLINE {
      unroll<V>([&](auto v) INLINE { store(into + (i + q) * width + j + v * LANES, sum[q][v]); });
    });
  });
}

INLINE inline long padded(long width) { return (width + LANES - 1) / LANES * LANES; }

}  // namespace
