// What the CPU implementations of all ops share on the side of torch.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "kernels.h"

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

// How many parts of equal length `items` are split into when each adds to `size` sums of its own: enough for the threads
// of a large machine, within 64 MiB. It depends on nothing else, so that results do not either.
inline int64_t parts_of(int64_t items, int64_t size) {
  constexpr int64_t kMostParts = 64, kMostSums = int64_t{1} << 24;
  return std::clamp<int64_t>(kMostSums / std::max<int64_t>(size, 1), 1, std::clamp<int64_t>(items, 1, kMostParts));
}

// result (size) = the sum over parts, in order, of what `work(sums, begin, end)` adds to its own zeros (size) for the
// items begin <= i < end: the same bits for any number of threads.
template <class Work>
void sum_in_parts(int64_t items, int64_t size, float* result, const Work& work) {
  const int64_t parts = parts_of(items, size);
  std::vector<float> sums(parts * size);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      work(sums.data() + part * size, part * items / parts, (part + 1) * items / parts);
  });
  torch::stable::parallel_for(0, size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      result[i] = 0.0f;
      for (int64_t part = 0; part < parts; ++part) result[i] += sums[part * size + i];
    }
  });
}

}  // namespace eokit
