// The CUDA implementation of eokit::attention_forward, for bfloat16 and float16.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "attention_forward_kernel.h"
#include "attention_tensors.h"

namespace eokit {
namespace {

constexpr int kWarps = 8;                       // in a block at most
constexpr int64_t kSharedOfBlock = 80 * 1024;  // two blocks on every multiprocessor from sm_80 on

template <int D, class E>
__global__ void __launch_bounds__(kWarps* kWarp, 1) attention_forward_kernel(const __grid_constant__ AttentionForward<E> call) {
  extern __shared__ __align__(16) char shared[];
  attention_forward_block<D>(call, shared);
}

// Warps by queries; heads so that a block has up to eight warps; all keys in shared memory where they fit.
template <class E>
int64_t plan(AttentionForward<E>& call, int width) {
  const AttentionShape& shape = call.shape;
  const int tiles = std::max(1, tiles_of(shape.queries)), rounds = (tiles + kWarps - 1) / kWarps;
  const int blocks = std::max(1, key_blocks(shape.keys));
  call.warps = (tiles + rounds - 1) / rounds;
  const int64_t tile_bytes = int64_t{4} * rows_staged(shape.keys) * (width + kPad);  // keys and values of one head
  int heads = std::clamp(kWarps / call.warps, 1, shape.heads);
  while (heads > 1 && heads * tile_bytes * std::min(blocks, 2) > kSharedOfBlock) --heads;
  const int groups = (shape.heads + heads - 1) / heads;
  call.heads = (shape.heads + groups - 1) / groups;
  const int64_t stage_bytes = call.heads * tile_bytes;
  call.stages = kHeader + blocks * stage_bytes <= kSharedOfBlock ? blocks : std::min(blocks, 2);
  return kHeader + call.stages * stage_bytes;
}

template <int D, class E>
void launch(AttentionForward<E> call, cudaStream_t stream) {
  const int64_t bytes = plan(call, D);
  const int64_t groups = (call.shape.heads + call.heads - 1) / call.heads;
  const unsigned blocks = checked_blocks(call.shape.leading.total() * groups);
  allow_shared(attention_forward_kernel<D, E>, bytes);
  attention_forward_kernel<D, E><<<blocks, call.heads * call.warps * kWarp, bytes, stream>>>(call);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> attention_forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> mask,
                                             std::optional<Tensor> bias_t, double scale) {
  AttentionShape shape = checked_shape(q, k, v, mask, bias_t, scale);
  const DeviceGuard guard(q.get_device_index());
  Tensor out = torch::stable::empty_like(q);
  std::vector<int64_t> lse_shape(shape.leading.sizes, shape.leading.sizes + shape.leading.count);
  lse_shape.insert(lse_shape.end(), {shape.heads, shape.queries});
  Tensor lse = torch::stable::new_empty(q, lse_shape, ScalarType::Float);
  if (lse.numel() == 0) return {out, lse};
  shape.bytes = width_of({&k, &v});
  shape.in_pairs = width_of({&q, &out}) >= 4;

  with_tiles_of(q, shape.dim, [&](auto element, auto width) {
    using E = decltype(element);
    AttentionForward<E> call;
    call.shape = shape;
    call.q = input<E>(q), call.k = input<E>(k), call.v = input<E>(v);
    call.mask = mask_input(mask);
    call.bias = bias_input(bias_t);
    call.out = output<E>(out);
    call.lse = data<float>(lse);
    launch<decltype(width)::value>(call, stream_of(q));
  });
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit_cuda, CUDA, m) { m.impl("attention_forward", TORCH_BOX(&attention_forward)); }

}  // namespace eokit
