// The work of `Kernels` on one block with all loops fused: edges are recomputed in tiles that stay in a core's cache.
//
// Memory has the hidden channel last. W is the hidden width, padded so that it divides, or is a multiple of, 16 lanes.
// Letters: g block, r row (output neuron), c column (input neuron), t tap, l layer. Equation numbers are those of the
// paper, as in equations.py. From below to above: lanes.h, block.h, nodes.h, single.h, messages.h, and
// encoder.h and decoder.h.

#ifdef _OPENMP
#include <omp.h>
#endif

#include "decoder.h"
#include "encoder.h"
#include "messages.h"

// What Python calls, for each type.
#define EXPORT(S, name)                                                                                               \
  extern "C" {                                                                                                        \
  void statistics_##name(const Block<S>* block, S* received) { statistics(*block, received); }                        \
  void aggregate_##name(int64_t N, int64_t W, int64_t H, int64_t threads, const S* received, const int64_t* counts,   \
                        const S* z, S* inbox) {                                                                       \
    aggregate(N, W, H, threads, received, counts, z, inbox);                                                          \
  }                                                                                                                   \
  void aggregate_backward_##name(int64_t N, int64_t W, int64_t H, int64_t threads, const S* received,                 \
                                 const int64_t* counts, const S* z, const S* inbox, S* out, S* g_z) {                 \
    aggregate_backward(N, W, H, threads, received, counts, z, inbox, out, g_z);                                       \
  }                                                                                                                   \
  void layer_backward_##name(const Block<S>* block, const S* received, S* gradient, S* g_factors) {                   \
    layer_backward(*block, received, gradient, g_factors);                                                            \
  }                                                                                                                   \
  void encode_backward_##name(const Block<S>* block, const S* gradient, S* g_weight, S* g_bias) {                     \
    encode_backward(*block, gradient, g_weight, g_bias);                                                              \
  }                                                                                                                   \
  void decode_##name(const Block<S>* block, int64_t H, const S* const* decoder, S* out) {                             \
    decode(*block, H, decoder, out);                                                                                  \
  }                                                                                                                   \
  void decode_backward_##name(const Block<S>* block, int64_t H, const S* const* decoder, const S* g_new, S* gradient, \
                              S* const* g_decoder) {                                                                  \
    decode_backward(*block, H, decoder, g_new, gradient, g_decoder);                                                  \
  }                                                                                                                   \
  }

EXPORT(float, f32)
EXPORT(double, f64)
