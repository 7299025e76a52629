// What the implementations of all ops share on the side of torch, on a CPU and on a GPU.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "half.h"

namespace eokit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls `work` with an element of the kind that x holds.
template <class Work>
void with_elements_of(const Tensor& x, const char* name, const Work& work) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return work(float{});
    case ScalarType::BFloat16: return work(BFloat16{});
    case ScalarType::Half: return work(Float16{});
    default: STD_TORCH_CHECK(false, name, ": expected float32, bfloat16 or float16");
  }
}

template <class E>
const E* data(const Tensor& x) {
  return static_cast<const E*>(x.const_data_ptr());
}
template <class E>
E* data(Tensor& x) {
  return static_cast<E*>(x.mutable_data_ptr());
}

// How many parts of equal length `items` are split into when each adds to `size` sums of its own: at most `most`, enough
// for the threads of a large machine, within 64 MiB. It depends on nothing else, so that results do not either.
inline int64_t parts_of(int64_t items, int64_t size, int64_t most = 64) {
  constexpr int64_t kMostSums = int64_t{1} << 24;
  return std::clamp<int64_t>(kMostSums / std::max<int64_t>(size, 1), 1, std::clamp<int64_t>(items, 1, most));
}

}  // namespace eokit
