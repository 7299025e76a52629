// What the CUDA implementations of all ops share on the side of torch.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>

#include "device.h"

namespace eokit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 0x7fffffff;  // of grid.x; grid.y and grid.z end at 65,535 and are never used

// The stream of torch that work on x belongs to.
inline cudaStream_t stream_of(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Blocks for `items` of which a block takes `at_once`; kernels that go round the grid need no more than these.
inline unsigned blocks_for(int64_t items, int64_t at_once) {
  constexpr int64_t kEnough = 1 << 16;
  return static_cast<unsigned>(std::clamp<int64_t>((items + at_once - 1) / at_once, 1, kEnough));
}

template <class E>
const E* data(const Tensor& x) {
  return static_cast<const E*>(x.const_data_ptr());
}
template <class E>
E* data(Tensor& x) {
  return static_cast<E*>(x.mutable_data_ptr());
}

// The largest power of two, 16 at most, that all of `values` are multiples of: the width of accesses to memory.
inline int common_width(std::initializer_list<int64_t> values) {
  int64_t bits = 16;
  for (const int64_t value : values) bits |= value;
  return static_cast<int>(bits & -bits);
}

inline int64_t address_of(const void* pointer) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer)); }

// Parts of equal length that `items` are split into when each adds to `size` sums of its own; it depends on nothing else,
// so that results do not either.
inline int64_t parts_of(int64_t items, int64_t size, int64_t most) {
  constexpr int64_t kMostSums = int64_t{1} << 24;
  return std::clamp<int64_t>(kMostSums / std::max<int64_t>(size, 1), 1, std::clamp<int64_t>(items, 1, most));
}

// result (size) = the sums (parts, size) added in order.
void add_parts(const float* sums, int64_t parts, int64_t size, float* result, cudaStream_t stream);

}  // namespace eokit
