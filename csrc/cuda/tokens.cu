// The CUDA implementation of masked tokens: picked rows, filled rows, and the index that leads back.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>

#include "tensors.h"
#include "tokens_kernel.h"

namespace eokit {
namespace {

// One block a multiprocessor is asked for, so that ptxas does not spill to make room for more; there is room for more.
template <class E, int kCount>
__global__ void __launch_bounds__(kThreads, 1) map_rows_kernel(const __grid_constant__ MapRows<E> call) {
  map_rows_block<E, kCount>(call);
}
template <class E, int kCount>
__global__ void __launch_bounds__(kThreads, 1) sum_unmapped_kernel(const __grid_constant__ SumUnmapped<E> call) {
  sum_unmapped_block<E, kCount>(call);
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

template <class Work>
void with_elements_of(const Tensor& x, const char* name, const Work& work) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return work(float{});
    case ScalarType::BFloat16: return work(BFloat16{});
    case ScalarType::Half: return work(Float16{});
    default: STD_TORCH_CHECK(false, name, ": expected float32, bfloat16 or float16");
  }
}

void check_map(const Tensor& map, const Tensor& rows, const char* name) {
  STD_TORCH_CHECK(map.is_cuda() && map.scalar_type() == ScalarType::Long && map.dim() == 2 && map.is_contiguous() &&
                      map.size(0) == rows.size(0),
                  name, ": expected contiguous int64 (B, R) on the GPU");
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
  check_map(index, index, "index");
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
void launch(MapRows<E> call, cudaStream_t stream) {
  const int64_t size = sizeof(E);
  const bool wide = common_width({address_of(call.source), address_of(call.fill), address_of(call.positions),
                                  address_of(call.out), call.dim * size, call.source_batch * size,
                                  call.source_row * size}) == 16;
  constexpr int kWide = 16 / sizeof(E);
  while (call.lanes < kThreads && call.lanes * (wide ? kWide : 1) < call.dim) call.lanes *= 2;
  const unsigned blocks = blocks_for(call.batches * call.rows, kThreads / call.lanes);
  if (wide)
    map_rows_kernel<E, kWide><<<blocks, kThreads, 0, stream>>>(call);
  else
    map_rows_kernel<E, 1><<<blocks, kThreads, 0, stream>>>(call);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor map_rows(Tensor source, Tensor map, Tensor, std::optional<Tensor> fill, std::optional<Tensor> positions,
                bool by_output) {
  STD_TORCH_CHECK(source.dim() == 3 && (source.numel() == 0 || source.size(2) == 1 || source.stride(2) == 1),
                  "source: expected (B, S, D) with a contiguous last dimension");
  check_map(map, source, "map");
  const int64_t batches = map.size(0), rows = map.size(1), dim = source.size(2);
  const auto check = [&](const std::optional<Tensor>& x, const char* name) {
    STD_TORCH_CHECK(!x || (x->is_cuda() && x->scalar_type() == source.scalar_type() && x->is_contiguous() &&
                           x->size(x->dim() - 1) == dim),
                    name, ": expected it contiguous on the GPU, of the dtype and with the features of source");
  };
  check(fill, "fill");
  check(positions, "positions");
  const int64_t places = positions ? positions->size(positions->dim() - 2) : 1;
  STD_TORCH_CHECK(!positions || ((positions->dim() == 2 || (positions->dim() == 3 && positions->size(0) == batches)) &&
                                 (places > 0 || rows == 0)),
                  "positions: expected (P, D) or (B, P, D)");
  const DeviceGuard guard(source.get_device_index());
  Tensor out = torch::stable::new_empty(source, {batches, rows, dim});
  if (out.numel() == 0) return out;

  with_elements_of(source, "source", [&](auto element) {
    using E = decltype(element);
    MapRows<E> call;
    call.batches = batches, call.rows = rows, call.sources = source.size(1), call.dim = dim;
    call.source = data<E>(source), call.source_batch = source.stride(0), call.source_row = source.stride(1);
    call.map = map.const_data_ptr<int64_t>();
    call.fill = fill ? data<E>(*fill) : nullptr;
    call.positions = positions ? data<E>(*positions) : nullptr;
    call.positions_batch = positions && positions->dim() == 3 ? places * dim : 0;
    call.positions_rows = places;
    call.by_output = by_output;
    call.out = data<E>(out);
    launch(call, stream_of(source));
  });
  return out;
}

Tensor sum_unmapped(Tensor rows, Tensor map) {
  STD_TORCH_CHECK(rows.dim() == 3 && rows.is_contiguous(), "rows: expected contiguous (B, R, D)");
  check_map(map, rows, "map");
  STD_TORCH_CHECK(map.size(1) == rows.size(1), "map: expected the rows of `rows`");
  constexpr int64_t kMostParts = 1024, kRowsOfPart = 32;
  const int64_t count = map.numel(), dim = rows.size(2);
  const int64_t parts = parts_of((count + kRowsOfPart - 1) / kRowsOfPart, dim, kMostParts);
  const DeviceGuard guard(rows.get_device_index());
  Tensor sums = torch::stable::new_empty(rows, {dim}, ScalarType::Float);
  if (dim == 0) return sums;
  Tensor of_parts = torch::stable::new_empty(rows, {parts, dim}, ScalarType::Float);
  const cudaStream_t stream = stream_of(rows);
  with_elements_of(rows, "rows", [&](auto element) {
    using E = decltype(element);
    const SumUnmapped<E> call{data<E>(rows), map.const_data_ptr<int64_t>(), count, dim, parts, data<float>(of_parts)};
    constexpr int kWide = 16 / sizeof(E);
    if (common_width({address_of(call.rows), dim * static_cast<int64_t>(sizeof(E))}) == 16)
      sum_unmapped_kernel<E, kWide><<<static_cast<unsigned>(parts), kThreads, 0, stream>>>(call);
    else
      sum_unmapped_kernel<E, 1><<<static_cast<unsigned>(parts), kThreads, 0, stream>>>(call);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  add_parts(data<float>(of_parts), parts, dim, data<float>(sums), stream);
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
