// What messages come to at the nodes, and the gradient that each gets from there.
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
  // N messages, message(0) to message(N - 1).
  template <long N, class Message> INLINE void receive(Message message) {
    Vec<S> y[N], highest, lowest;
    unroll<N>([&](auto n) INLINE {
      y[n] = message(n);
      part[0] += y[n];
      part[1] += y[n] * y[n];
      highest = n == 0 ? y[n] : (y[n] > highest ? y[n] : highest);
      lowest = n == 0 ? y[n] : (y[n] < lowest ? y[n] : lowest);
    });
    unroll<2>([&](auto i) INLINE {
      Vec<S>&most = part[2 + i], &many = part[4 + i];
      const Vec<S> found = i == 0 ? highest : -lowest;
      many = found > most ? zero<S>() : many;
      most = found > most ? found : most;
      const Vec<S> level = i == 0 ? most : -most;
      unroll<N>([&](auto n) INLINE { many = y[n] == level ? many + S(1) : many; });
    });
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

// What nodes have received before the first block's messages, [2, N, 6, W].
template <class S> void receive_nothing(const Block<S>& block, S* received) {
#pragma omp parallel for num_threads(block.threads)
  for (long n = 0; n < 2 * block.N; ++n)
    for (long k = 0; k < 6; ++k)
      std::fill_n(received + (n * 6 + k) * block.W, block.W,
                  k == 2 || k == 3 ? -std::numeric_limits<S>::infinity() : S(0));
}

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

// Gradient of a message y, equation (18): `received` as in equations.message_gradient.
template <class S> INLINE inline Vec<S> message_gradient(Vec<S> y, const Vec<S>* received) {
  Vec<S> u = received[0] + received[1] * y;
  u += y == received[4] ? received[2] : zero<S>();
  u -= -y == received[5] ? received[3] : zero<S>();
  return u;
}

}  // namespace
