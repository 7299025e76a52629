// The CUDA implementation of eokit::attention_backward, for bfloat16 and float16.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "attention_backward_kernel.h"
#include "attention_tensors.h"

namespace eokit {
namespace {

template <int D, int kHeld, class E>
__global__ void __launch_bounds__(kBackwardWarps* kWarp, 1)
    attention_backward_kernel(const __grid_constant__ AttentionBackward<E> call) {
  extern __shared__ __align__(16) char shared[];
  attention_backward_block<D, kHeld>(call, shared);
}

template <int D, int kHeld, class E>
void launch(AttentionBackward<E> call, const BackwardPlan& plan, const Tensor& q) {
  const AttentionShape& shape = call.shape;
  call.passes = plan.passes, call.warps = plan.warps;
  Tensor partial = torch::stable::new_empty(
      q, {plan.passes > 1 ? call.sequences * shape.heads : 0, shape.queries, D}, ScalarType::Float);
  call.partial = plan.passes > 1 ? data<float>(partial) : nullptr;
  const unsigned blocks = checked_blocks(call.parts * (call.heads_together ? 1 : shape.heads));
  allow_shared(attention_backward_kernel<D, kHeld, E>, plan.bytes);
  attention_backward_kernel<D, kHeld, E><<<blocks, call.warps * kWarp, plan.bytes, stream_of(q)>>>(call);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <int D, class E>
void launch_by_plan(const AttentionBackward<E>& call, const Tensor& q) {
  const int64_t shared = most_shared(q.get_device_index());
  const BackwardPlan plan = plan_backward(D, call.shape.queries, call.shape.keys, shared);
  STD_TORCH_CHECK(plan.passes > 0, "attention_backward: ", call.shape.queries, " queries of ", D, " features need ",
                  backward_bytes(D, call.shape.queries, kTile), " bytes of shared memory for a block, the GPU has ", shared,
                  "; use backend=\"sdpa\" for sequences of this length");
  if constexpr (most_held(D) > 1)
    if (plan.held > 1) return launch<D, 2>(call, plan, q);
  launch<D, 1>(call, plan, q);
}

// Whether sequences, or heads, add to the same elements of the gradient of a bias.
bool is_shared(const Tensor& bias_t, const AttentionShape& shape) {
  return bias_t.numel() < shape.leading.total() * shape.heads * shape.keys * shape.queries;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v,
                                                              std::optional<Tensor> mask, std::optional<Tensor> bias_t,
                                                              Tensor out, Tensor lse, double scale, bool with_bias) {
  AttentionShape shape = checked_shape(q, k, v, mask, bias_t, scale);
  check_gpu(lse, "lse", q, "q");
  STD_TORCH_CHECK(lse.scalar_type() == ScalarType::Float && lse.is_contiguous() &&
                      lse.numel() == shape.leading.total() * shape.heads * shape.queries,
                  "lse: expected it as attention_forward returned it");
  STD_TORCH_CHECK(!with_bias || bias_t, "with_bias: expected False, as there is no bias_t");
  const DeviceGuard guard(q.get_device_index());
  if (grad_out.numel() > 0 && grad_out.size(last(grad_out)) > 1 && grad_out.stride(last(grad_out)) != 1)
    grad_out = torch::stable::contiguous(grad_out);  // of a sum: all strides are 0
  check_like(grad_out, "grad_out", q);
  check_like(out, "out", q);
  for (const Tensor* x : {&grad_out, &out})
    STD_TORCH_CHECK(x->size(last(q) - 2) == shape.queries, "grad_out, out: expected the queries of q");
  Tensor grad_q = torch::stable::empty_like(q), grad_k = torch::stable::empty_like(k);
  Tensor grad_v = torch::stable::empty_like(v);
  Tensor grad_bias_t = with_bias ? torch::stable::empty_like(*bias_t) : torch::stable::new_empty(q, {0}, ScalarType::Float);
  if (q.numel() == 0 || k.numel() == 0) {  // nothing attends to anything
    for (Tensor* x : {&grad_q, &grad_k, &grad_v, &grad_bias_t})
      if (x->numel() > 0) torch::stable::zero_(*x);
    return {grad_q, grad_k, grad_v, grad_bias_t};
  }
  shape.bytes = width_of({&q, &k, &v, &grad_out});
  shape.in_pairs = width_of({&grad_q, &grad_k, &grad_v}) >= 4;

  const int64_t sequences = shape.leading.total(), size = grad_bias_t.numel();
  const bool shared = with_bias && is_shared(*bias_t, shape);
  const int64_t parts = shared ? parts_of(sequences, size) : sequences;
  Tensor sums = torch::stable::new_zeros(q, {shared ? parts : 0, size}, ScalarType::Float);
  with_tiles_of(q, shape.dim, [&](auto element, auto width) {
    using E = decltype(element);
    AttentionBackward<E> call;
    call.shape = shape;
    call.grad_out = input<E>(grad_out), call.out = input<E>(out);
    call.q = input<E>(q), call.k = input<E>(k), call.v = input<E>(v);
    call.mask = mask_input(mask);
    call.bias = bias_input(bias_t);
    call.lse = data<float>(static_cast<const Tensor&>(lse));
    call.grad_q = output<E>(grad_q), call.grad_k = output<E>(grad_k), call.grad_v = output<E>(grad_v);
    if (with_bias) call.grad_bias = bias_view(grad_bias_t, data<float>(shared ? sums : grad_bias_t));
    call.part_stride = shared ? size : 0;
    call.sequences = sequences, call.parts = parts;
    call.heads_together = shared && shape.heads > 1 && bias_t->size(last(*bias_t) - 2) == 1;
    launch_by_plan<decltype(width)::value>(call, q);
  });
  if (shared) add_parts(data<float>(static_cast<const Tensor&>(sums)), parts, size, data<float>(grad_bias_t), stream_of(q));
  return {grad_q, grad_k, grad_v, grad_bias_t};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit_cuda, CUDA, m) { m.impl("attention_backward", TORCH_BOX(&attention_backward)); }

}  // namespace eokit
