// The CPU implementation of eokit::attention_*: torch tensors become views, and the best kernels of this CPU run on them.
#include "attention.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace eokit {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::atomic<InstructionSet> chosen{best_instruction_set()};

const AttentionKernels& kernels() {
#ifdef EOKIT_X86
  if (chosen == InstructionSet::kAvx512) return kAttentionAvx512;
  if (chosen == InstructionSet::kAvx2) return kAttentionAvx2;
#endif
  return kAttentionPortable;
}

int64_t last(const Tensor& x) { return x.dim() - 1; }

bool rows_are_contiguous(const Tensor& x) {
  return x.numel() == 0 || x.size(last(x)) == 1 || x.stride(last(x)) == 1;
}

template <class T>
Sequences<T> sequences(const Tensor& x, T* data) {
  const int64_t leading = x.dim() - 3;
  Sequences<T> view{data, x.stride(leading), x.stride(leading + 1), {}};
  for (int64_t d = 0; d < leading; ++d) view.leading[d] = x.stride(d);
  return view;
}

Sequences<const float> input(const Tensor& x) { return sequences<const float>(x, x.const_data_ptr<float>()); }
Sequences<float> output(Tensor& x) { return sequences<float>(x, x.mutable_data_ptr<float>()); }

KeyMask key_mask(const std::optional<Tensor>& mask) {
  KeyMask view;
  if (!mask) return view;
  const int64_t leading = mask->dim() - 1;
  view.valid.data = mask->const_data_ptr<bool>();
  view.valid.row = mask->stride(leading);
  for (int64_t d = 0; d < leading; ++d) view.valid.leading[d] = mask->stride(d);
  return view;
}

void check(const Tensor& x, const char* name, const Tensor& q) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, name, ": expected float32");
  STD_TORCH_CHECK(x.is_cpu(), name, ": expected a CPU tensor");
  STD_TORCH_CHECK(rows_are_contiguous(x), name, ": expected a contiguous last dimension");
  STD_TORCH_CHECK(x.dim() == q.dim() && x.dim() >= 3 && x.dim() - 3 <= kMaxLeading, name, ": found ", x.dim(),
                  " dimensions, expected those of q, 3 to ", kMaxLeading + 3);
  for (int64_t d = 0; d < x.dim(); ++d)
    STD_TORCH_CHECK(d == x.dim() - 3 || x.size(d) == q.size(d), name, ": dimension ", d, " has ", x.size(d),
                    " elements, expected ", q.size(d), " as in q");
}

AttentionShape checked_shape(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                             double scale) {
  check(q, "q", q);
  check(k, "k", q);
  check(v, "v", q);
  AttentionShape shape;
  shape.leading.count = static_cast<int>(q.dim() - 3);
  for (int d = 0; d < shape.leading.count; ++d) shape.leading.sizes[d] = q.size(d);
  shape.queries = q.size(last(q) - 2);
  shape.keys = k.size(last(k) - 2);
  shape.heads = q.size(last(q) - 1);
  shape.dim = q.size(last(q));
  shape.scale = static_cast<float>(scale);
  STD_TORCH_CHECK(v.size(last(v) - 2) == shape.keys, "v: found ", v.size(last(v) - 2), " keys, expected ", shape.keys, " as in k");
  if (mask) {
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, "key_mask: expected bool");
    STD_TORCH_CHECK(mask->dim() == q.dim() - 2 && mask->size(last(*mask)) == shape.keys, "key_mask: expected shape (..., Lk)");
    for (int d = 0; d < shape.leading.count; ++d)
      STD_TORCH_CHECK(mask->size(d) == shape.leading.sizes[d], "key_mask: expected the leading dimensions of k");
  }
  return shape;
}

// Spreads the items over torch's threads; a thread gets at least some 50 microseconds of work.
template <class Kernel>
void spread(const AttentionShape& shape, const Kernel& kernel) {
  const int64_t items = shape.leading.total() * shape.heads;
  const int64_t work = std::max<int64_t>(shape.queries * shape.keys, 1) * std::max<int64_t>(shape.dim, 1);
  torch::stable::parallel_for(0, items, std::max<int64_t>(1, 500000 / work), kernel);
}

std::tuple<Tensor, Tensor> attention_forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> mask, double scale) {
  AttentionForward call;
  call.shape = checked_shape(q, k, v, mask, scale);
  Tensor out = torch::stable::empty_like(q);
  std::vector<int64_t> lse_shape(call.shape.leading.sizes, call.shape.leading.sizes + call.shape.leading.count);
  lse_shape.insert(lse_shape.end(), {call.shape.heads, call.shape.queries});
  Tensor lse = torch::stable::new_empty(q, lse_shape);
  if (lse.numel() == 0) return {out, lse};

  call.q = input(q), call.k = input(k), call.v = input(v);
  call.mask = key_mask(mask);
  call.out = output(out);
  call.lse = lse.mutable_data_ptr<float>();
  const auto run = kernels().forward;
  spread(call.shape, [&](int64_t begin, int64_t end) { run(call, begin, end); });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v,
                                                      std::optional<Tensor> mask, Tensor out, Tensor lse,
                                                      double scale) {
  AttentionBackward call;
  call.shape = checked_shape(q, k, v, mask, scale);
  if (!rows_are_contiguous(grad_out)) grad_out = torch::stable::contiguous(grad_out);  // of a sum: all strides are 0
  check(grad_out, "grad_out", q);
  check(out, "out", q);
  STD_TORCH_CHECK(lse.is_contiguous() && lse.numel() * std::max<int64_t>(call.shape.dim, 1) >= q.numel(),
                  "lse: expected it as attention_forward returned it");
  Tensor grad_q = torch::stable::empty_like(q);
  Tensor grad_k = torch::stable::empty_like(k);
  Tensor grad_v = torch::stable::empty_like(v);
  if (grad_k.numel() == 0 && grad_q.numel() == 0) return {grad_q, grad_k, grad_v};

  call.grad_out = input(grad_out), call.q = input(q), call.k = input(k), call.v = input(v), call.out = input(out);
  call.mask = key_mask(mask);
  call.lse = lse.const_data_ptr<float>();
  call.grad_q = output(grad_q), call.grad_k = output(grad_k), call.grad_v = output(grad_v);
  const auto run = kernels().backward;
  spread(call.shape, [&](int64_t begin, int64_t end) { run(call, begin, end); });
  return {grad_q, grad_k, grad_v};
}

// "auto" goes back to the best; "" only asks. Returns the one in use.
std::string select_instruction_set(std::string name) {
  if (name == "auto") chosen = best_instruction_set();
  for (InstructionSet set : {InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512})
    if (name == kInstructionSetNames[static_cast<int>(set)]) {
      STD_TORCH_CHECK(runs(set), "this CPU has no ", name);
      chosen = set;
      name = "";
    }
  STD_TORCH_CHECK(name.empty() || name == "auto", "unknown instruction set ", name);
  return kInstructionSetNames[static_cast<int>(chosen.load())];
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

STABLE_TORCH_LIBRARY_IMPL(eokit, CompositeExplicitAutograd, m) {
  m.impl("select_instruction_set", TORCH_BOX(&select_instruction_set));
}

}  // namespace eokit
