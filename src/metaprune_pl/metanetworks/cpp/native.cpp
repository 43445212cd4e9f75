// The work of `Kernels` on a network's blocks with all loops fused: edges are recomputed in tiles that stay in a core's
// cache.
//
// Memory has the hidden channel last. W is the hidden width, padded so that it divides, or is a multiple of, 16 lanes.
// Letters: g block, r row (output neuron), c column (input neuron), t tap, l layer. Equation numbers are those of the
// paper, as in equations.py. From below to above: lanes.h, matrix.h, block.h, nodes.h, single.h, messages.h;
// send.h, collect.h; encoder.h and decoder.h.

#ifdef _OPENMP
#include <omp.h>
#endif

#include "collect.h"
#include "decoder.h"
#include "encoder.h"
#include "messages.h"

namespace {

// Calls work(block) for all blocks, after so many layers.
template <class S, class Work>
void each(Block<S>* blocks, int64_t count, const S* const* factors, int64_t layers, Work work) {
  for (long i = 0; i < count; ++i) {
    blocks[i].factors = factors, blocks[i].layers = layers;
    work(blocks[i]);
  }
}

}  // namespace

// What Python calls, for each type. The gradient of the edges is that of all blocks, one after another.
#define EXPORT(S, name)                                                                                                \
  extern "C" {                                                                                                         \
  void statistics_##name(Block<S>* blocks, int64_t count, const S* const* factors, int64_t layers, S* received) {      \
    receive_nothing(*blocks, received);                                                                                \
    each(blocks, count, factors, layers, [&](const Block<S>& block) { statistics(block, received); });                 \
  }                                                                                                                    \
  void send_##name(const Nodes* nodes, const S* from, const S* weight, const S* bias, S* factors) {                    \
    send(*nodes, from, weight, bias, factors);                                                                         \
  }                                                                                                                    \
  void send_backward_##name(const Nodes* nodes, const S* from, const S* weight, const S* bias, const S* gradient,      \
                            S* g_nodes, S* g_weight, S* g_bias) {                                                      \
    send_backward(*nodes, from, weight, bias, gradient, g_nodes, g_weight, g_bias);                                    \
  }                                                                                                                    \
  void collect_##name(const Nodes* nodes, const S* received, const int64_t* counts, const S* factors, const S* weight, \
                      const S* bias, S* out) {                                                                         \
    collect(Collector<S>(*nodes, received, counts, factors, weight, bias), out);                                       \
  }                                                                                                                    \
  void collect_backward_##name(const Nodes* nodes, const S* received, const int64_t* counts, const S* factors,         \
                               const S* weight, const S* bias, const S* gradient, S* messages, S* g_factors,           \
                               S* g_weight, S* g_bias) {                                                               \
    const Collector<S> collector(*nodes, received, counts, factors, weight, bias);                                     \
    collect_backward(collector, gradient, messages, g_factors, g_weight, g_bias);                                      \
  }                                                                                                                    \
  void layer_backward_##name(Block<S>* blocks, int64_t count, const S* const* factors, int64_t layers,                 \
                             const S* received, S* gradient, S* g_factors) {                                           \
    each(blocks, count, factors, layers, [&](const Block<S>& block) {                                                  \
      layer_backward(block, received, gradient, g_factors);                                                            \
      gradient += block.numbers();                                                                                     \
    });                                                                                                                \
  }                                                                                                                    \
  void encode_backward_##name(Block<S>* blocks, int64_t count, const S* gradient, S* const* g_encoder) {               \
    each(blocks, count, static_cast<const S* const*>(nullptr), 0, [&](const Block<S>& block) {                         \
      encode_backward(block, gradient, g_encoder[0], g_encoder[1]);                                                    \
      gradient += block.numbers(), g_encoder += 2;                                                                     \
    });                                                                                                                \
  }                                                                                                                    \
  void decode_##name(Block<S>* blocks, int64_t count, const S* const* factors, int64_t layers, S* const* out) {        \
    each(blocks, count, factors, layers, [&](const Block<S>& block) {                                                  \
      decode(block, out);                                                                                              \
      out += block.G;                                                                                                  \
    });                                                                                                                \
  }                                                                                                                    \
  void decode_backward_##name(Block<S>* blocks, int64_t count, const S* const* factors, int64_t layers,                \
                              const S* const* g_new, S* gradient, S* const* g_decoder) {                               \
    each(blocks, count, factors, layers, [&](const Block<S>& block) {                                                  \
      decode_backward(block, g_new, gradient, g_decoder);                                                              \
      g_new += block.G, gradient += block.numbers(), g_decoder += 4;                                                   \
    });                                                                                                                \
  }                                                                                                                    \
  }

EXPORT(float, f32)
EXPORT(double, f64)
