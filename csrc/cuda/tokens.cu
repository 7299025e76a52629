// The CUDA implementation of masked tokens: picked rows, filled rows, and the index that leads back.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>

#include "../common/token_tensors.h"
#include "tensors.h"
#include "tokens_kernel.h"

namespace eokit {
namespace {

// One block a multiprocessor is asked for, so that ptxas does not spill to make room for more; there is room for more.
template <class E, int kCount>
__global__ void __launch_bounds__(kThreads, 1) map_rows_kernel(const __grid_constant__ MapRows<E> call, int lanes) {
  map_rows_block<E, kCount>(call, lanes);
}
template <bool kAligned, class E>
__global__ void __launch_bounds__(kThreads, 1) sum_rows_kernel(const __grid_constant__ SumRows<E> call) {
  __shared__ __align__(16) float shared[kThreads * SumRows<E>::kPiece];
  sum_rows_block<kAligned>(call, shared);
}
__global__ void __launch_bounds__(kThreads, 1) add_parts_kernel(const float* sums, int64_t parts, int64_t size, float* result) {
  add_parts_block(sums, parts, size, result);
}
__global__ void __launch_bounds__(kThreads, 1) invert_index_kernel(const __grid_constant__ InvertIndex call) {
  invert_index_block(call);
}
__global__ void __launch_bounds__(kThreads, 1) check_inverse_kernel(const __grid_constant__ InvertIndex call, int* wrong) {
  check_inverse_block(call, wrong);
}

bool checks_are_wanted() {
  const char* wanted = std::getenv("EOKIT_CHECK");
  return wanted != nullptr && std::strcmp(wanted, "1") == 0;
}

void check_inverse(const InvertIndex& call, const Tensor& index, cudaStream_t stream) {
  Tensor flag = torch::stable::new_zeros(index, {1}, ScalarType::Int);
  int* wrong = flag.mutable_data_ptr<int>();
  check_inverse_kernel<<<blocks_for(call.batches * call.count, kThreads), kThreads, 0, stream>>>(call, wrong);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  int found = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&found, wrong, sizeof found, cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  STD_TORCH_CHECK(found == 0, "index: one is outside 0..", call.length - 1, " or comes twice in its row");
}

// inverse[b][index[b][k]] = k, -1 elsewhere. An index out of range is left out; EOKIT_CHECK=1 refuses it, and duplicates.
Tensor invert_index(Tensor index, int64_t length) {
  check_gpu(index, "index");
  check_map(index, "index", "(B, K)", index);
  STD_TORCH_CHECK(length >= 0, "length: expected 0 or more, found ", length);
  const DeviceGuard guard(index.get_device_index());
  Tensor inverse = torch::stable::new_empty(index, {index.size(0), length});
  const cudaStream_t stream = stream_of(index);
  if (inverse.numel() > 0)  // every byte of -1 is 255
    STD_CUDA_CHECK(cudaMemsetAsync(inverse.mutable_data_ptr(), 255, inverse.numel() * sizeof(int64_t), stream));
  if (index.numel() == 0) return inverse;
  const InvertIndex call{index.const_data_ptr<int64_t>(), index.size(0), index.size(1), length,
                         inverse.mutable_data_ptr<int64_t>()};
  invert_index_kernel<<<blocks_for(index.numel(), kThreads), kThreads, 0, stream>>>(call);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (checks_are_wanted()) check_inverse(call, index, stream);
  return inverse;
}

template <class E>
void launch(const MapRows<E>& call, cudaStream_t stream) {
  const int64_t size = sizeof(E);
  const bool wide = common_width({address_of(call.source), address_of(call.fill), address_of(call.positions),
                                  address_of(call.out), call.dim * size, call.source_batch * size,
                                  call.source_row * size}) == 16;
  constexpr int kWide = 16 / sizeof(E);
  int lanes = 1;
  while (lanes < kThreads && lanes * (wide ? kWide : 1) < call.dim) lanes *= 2;
  const unsigned blocks = blocks_for(call.batches * call.rows, kThreads / lanes);
  if (wide)
    map_rows_kernel<E, kWide><<<blocks, kThreads, 0, stream>>>(call, lanes);
  else
    map_rows_kernel<E, 1><<<blocks, kThreads, 0, stream>>>(call, lanes);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor map_rows(Tensor source, Tensor map, Tensor, std::optional<Tensor> fill, std::optional<Tensor> positions,
                bool by_output) {
  check_gpu(source, "source");
  check_gpu(map, "map", source, "source");
  check_gpu(fill, "fill", source, "source");
  check_gpu(positions, "positions", source, "source");
  const MappedTensors given{source, map, fill, positions, by_output};
  given.check();
  const DeviceGuard guard(source.get_device_index());
  Tensor out = torch::stable::new_empty(source, {map.size(0), map.size(1), source.size(2)});
  if (out.numel() == 0) return out;
  with_elements_of(source, "source", [&](auto element) { launch(given.into<decltype(element)>(out), stream_of(source)); });
  return out;
}

template <class E>
void launch(SumRows<E> call, int most_lanes, cudaStream_t stream) {
  split_columns(call, most_lanes);
  const unsigned blocks = static_cast<unsigned>(call.parts * call.chunks);
  if (common_width({address_of(call.rows), call.dim * static_cast<int64_t>(sizeof(E))}) == 16)
    sum_rows_kernel<true><<<blocks, kThreads, 0, stream>>>(call);
  else
    sum_rows_kernel<false><<<blocks, kThreads, 0, stream>>>(call);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Parts of 64 rows or more, so that what the second launch reads is little beside the first; 1,024 at most, which fill
// any GPU with blocks. A row is read 512 bytes at a time; the second launch takes 128, so that more blocks share its work.
Tensor sum_unmapped(Tensor rows, Tensor map) {
  constexpr int64_t kMostParts = 1024, kRowsOfPart = 64;
  constexpr int kLanes = 32, kLanesOfParts = 8;
  check_gpu(rows, "rows");
  check_gpu(map, "map", rows, "rows");
  check_rows_and_map(rows, "rows", map, "map");
  const int64_t count = map.numel(), dim = rows.size(2);
  const int64_t parts = parts_of((count + kRowsOfPart - 1) / kRowsOfPart, dim, kMostParts);
  const DeviceGuard guard(rows.get_device_index());
  Tensor sums = torch::stable::new_empty(rows, {dim}, ScalarType::Float);
  if (dim == 0) return sums;
  Tensor of_parts = torch::stable::new_empty(rows, {parts, dim}, ScalarType::Float);
  const cudaStream_t stream = stream_of(rows);
  with_elements_of(rows, "rows", [&](auto element) {
    using E = decltype(element);
    const SumRows<E> call{data<E>(rows), map.const_data_ptr<int64_t>(), count, dim, parts, 1, 1, data<float>(of_parts)};
    launch(call, kLanes, stream);
  });
  const float* all = of_parts.const_data_ptr<float>();
  launch(SumRows<float>{all, nullptr, parts, dim, 1, 1, 1, data<float>(sums)}, kLanesOfParts, stream);
  return sums;
}

}  // namespace

void add_parts(const float* sums, int64_t parts, int64_t size, float* result, cudaStream_t stream) {
  if (size == 0) return;
  add_parts_kernel<<<blocks_for(size, kThreads), kThreads, 0, stream>>>(sums, parts, size, result);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

STABLE_TORCH_LIBRARY_IMPL(eokit_cuda, CUDA, m) {
  m.impl("invert_index", TORCH_BOX(&invert_index));
  m.impl("map_rows", TORCH_BOX(&map_rows));
  m.impl("sum_unmapped", TORCH_BOX(&sum_unmapped));
}

}  // namespace eokit
