// What the CUDA implementations of all ops share on the side of torch.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <optional>

#include "../common/tensors.h"
#include "device.h"

namespace eokit {

using torch::stable::accelerator::DeviceGuard;

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 0x7fffffff;  // of grid.x; grid.y and grid.z end at 65,535 and are never used

// `x`, the argument `name`, lies on a GPU; on that of `owner` where one is given, whose stream and guard the kernels have.
inline void check_gpu(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.is_cuda(), name, ": expected it on a GPU, found it elsewhere");
}
inline void check_gpu(const Tensor& x, const char* name, const Tensor& owner, const char* of) {
  STD_TORCH_CHECK(x.is_cuda(), name, ": expected it on the GPU of ", of, ", cuda:", owner.get_device_index(),
                  ", found it elsewhere; move it there");
  STD_TORCH_CHECK(x.get_device_index() == owner.get_device_index(), name, ": expected it on the GPU of ", of, ", cuda:",
                  owner.get_device_index(), ", found it on cuda:", x.get_device_index(), "; move it there");
}
inline void check_gpu(const std::optional<Tensor>& x, const char* name, const Tensor& owner, const char* of) {
  if (x) check_gpu(*x, name, owner, of);
}

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

// The largest power of two, 16 at most, that all of `values` are multiples of: the width of accesses to memory.
inline int common_width(std::initializer_list<int64_t> values) {
  int64_t bits = 16;
  for (const int64_t value : values) bits |= value;
  return static_cast<int>(bits & -bits);
}

inline int64_t address_of(const void* pointer) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer)); }

// result (size) = the sums (parts, size) added in order.
void add_parts(const float* sums, int64_t parts, int64_t size, float* result, cudaStream_t stream);

}  // namespace eokit
