// Vectors of 16 numbers, float or double: what the compiler's vector extensions leave open.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>
#include <vector>

namespace {

constexpr long LANES = 16;

template <class S> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(64)));
  typedef int32_t M __attribute__((vector_size(64)));
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(128)));
  typedef int64_t M __attribute__((vector_size(128)));
};
template <class S> using Vec = typename Lanes<S>::V;
template <class S> using Mask = typename Lanes<S>::M;

#define INLINE __attribute__((always_inline))

// Memory that starts where a vector does not cross lines of the cache.
template <class T> struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <class U> Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* at, size_t) { ::operator delete(at, std::align_val_t(64)); }
  bool operator==(const Aligned&) const { return true; }
};
template <class S> using Buffer = std::vector<S, Aligned<S>>;

template <class S> INLINE inline Vec<S> load(const S* from) {
  Vec<S> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
template <class S> INLINE inline void store(S* to, Vec<S> v) { std::memcpy(to, &v, sizeof(v)); }
template <class S> INLINE inline Vec<S> fill(S x) { return x - Vec<S>{}; }
template <class S> INLINE inline Vec<S> zero() { return Vec<S>{}; }
template <class S> INLINE inline Vec<S> one() { return fill(S(1)); }
// The first so many lanes; the rest is zero.
template <class S> inline Vec<S> load_first(const S* from, long many) {
  if (many == LANES) return load(from);
  Vec<S> v = zero<S>();
  std::memcpy(&v, from, many * sizeof(S));
  return v;
}
template <class S> inline void store_first(S* to, Vec<S> v, long many) {
  if (many == LANES) store(to, v);
  else std::memcpy(to, &v, many * sizeof(S));
}

// start, start + 1, ..., from 16 on again from 0.
template <class S> INLINE inline Mask<S> lane_numbers(long start = 0) {
  Mask<S> lanes;
  for (long i = 0; i < LANES; ++i) lanes[i] = (i + start) % LANES;
  return lanes;
}

template <class S> INLINE inline Vec<S> spread(Vec<S> v, Mask<S> index) {
#if defined(__clang__)
  Vec<S> out;
  for (long i = 0; i < LANES; ++i) out[i] = v[index[i]];
  return out;
#else
  return __builtin_shuffle(v, index);
#endif
}
// f(0), f(1), ... with constants, so that arrays of vectors stay in registers.
template <long N, class F> INLINE inline void unroll(F f) {
  [&]<long... I>(std::integer_sequence<long, I...>) INLINE {
    (f(std::integral_constant<long, I>()), ...);
  }(std::make_integer_sequence<long, N>());
}

template <class S> INLINE inline Vec<S> vsqrt(Vec<S> x) {
  for (long i = 0; i < LANES; ++i) x[i] = std::sqrt(x[i]);
  return x;
}
inline Vec<float> vexp(Vec<float> x) {  // Cephes' polynomial: 2 units in the last place
  x = x > 88.0f ? fill(88.0f) : x;
  x = x < -87.0f ? fill(-87.0f) : x;
  const Vec<float> magic = fill(12582912.0f);
  const Vec<float> n = (x * 1.44269504088896341f + magic) - magic;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> y = fill(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const Mask<float> bits = (__builtin_convertvector(n, Mask<float>) + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return y * scale;
}
inline Vec<double> vexp(Vec<double> x) {
  for (long i = 0; i < LANES; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace
