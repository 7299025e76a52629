// The CPU implementation of masked tokens: picked rows, filled rows, and the index that leads back.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "tensors.h"

namespace eokit {
namespace {

// inverse[b][index[b][k]] = k, -1 elsewhere; every index is checked.
Tensor invert_index(Tensor index, int64_t length) {
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 2 && index.is_contiguous(),
                  "index: expected contiguous int64 (B, K)");
  STD_TORCH_CHECK(length >= 0, "length: expected 0 or more, found ", length);
  const int64_t batches = index.size(0), count = index.size(1);
  Tensor inverse = torch::stable::new_empty(index, {batches, length});
  const int64_t* from = index.const_data_ptr<int64_t>();
  int64_t* to = inverse.mutable_data_ptr<int64_t>();
  std::fill(to, to + batches * length, -1);
  for (int64_t b = 0; b < batches; ++b, from += count, to += length)
    for (int64_t k = 0; k < count; ++k) {
      STD_TORCH_CHECK(from[k] >= 0 && from[k] < length, "index: ", from[k], " at (", b, ", ", k,
                      ") is outside 0..", length - 1);
      STD_TORCH_CHECK(to[from[k]] < 0, "index: ", from[k], " comes twice in row ", b, ", at ", to[from[k]], " and ", k);
      to[from[k]] = k;
    }
  return inverse;
}

Tensor map_rows(Tensor source, Tensor map, Tensor, std::optional<Tensor> fill, std::optional<Tensor> positions,
                bool by_output) {
  STD_TORCH_CHECK(source.dim() == 3 && (source.numel() == 0 || source.size(2) == 1 || source.stride(2) == 1),
                  "source: expected (B, S, D) with a contiguous last dimension");
  STD_TORCH_CHECK(map.scalar_type() == ScalarType::Long && map.dim() == 2 && map.is_contiguous() &&
                      map.size(0) == source.size(0),
                  "map: expected contiguous int64 (B, R)");
  const int64_t batches = map.size(0), rows = map.size(1), dim = source.size(2);
  const auto check = [&](const std::optional<Tensor>& x, const char* name) {
    STD_TORCH_CHECK(!x || (x->scalar_type() == source.scalar_type() && x->is_contiguous() && x->size(x->dim() - 1) == dim),
                    name, ": expected it contiguous, of the dtype and with the features of source");
  };
  check(fill, "fill");
  check(positions, "positions");
  const int64_t places = positions ? positions->size(positions->dim() - 2) : 1;
  STD_TORCH_CHECK(!positions || ((positions->dim() == 2 || (positions->dim() == 3 && positions->size(0) == batches)) &&
                                 (places > 0 || rows == 0)),
                  "positions: expected (P, D) or (B, P, D)");
  const int64_t* from = map.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < batches * rows; ++i)
    STD_TORCH_CHECK(from[i] < source.size(1), "map: ", from[i], " is outside 0..", source.size(1) - 1);
  Tensor out = torch::stable::new_empty(source, {batches, rows, dim});
  if (out.numel() == 0) return out;

  with_elements_of(source, "source", [&](auto element) {
    using E = decltype(element);
    MapRows<E> call;
    call.batches = batches, call.rows = rows, call.dim = dim;
    call.source = data<E>(source), call.source_batch = source.stride(0), call.source_row = source.stride(1);
    call.map = from;
    call.fill = fill ? data<E>(*fill) : nullptr;
    call.positions = positions ? data<E>(*positions) : nullptr;
    call.positions_batch = positions && positions->dim() == 3 ? places * dim : 0;
    call.positions_rows = places;
    call.by_output = by_output;
    call.out = data<E>(out);
    const auto run = of(kernels().tokens, element).map_rows;
    torch::stable::parallel_for(0, batches * rows, std::max<int64_t>(1, 100000 / dim),
                                [&](int64_t begin, int64_t end) { run(call, begin, end); });
  });
  return out;
}

Tensor sum_unmapped(Tensor rows, Tensor map) {
  STD_TORCH_CHECK(rows.dim() == 3 && rows.is_contiguous(), "rows: expected contiguous (B, R, D)");
  STD_TORCH_CHECK(map.scalar_type() == ScalarType::Long && map.is_contiguous() && map.dim() == 2 &&
                      map.size(0) == rows.size(0) && map.size(1) == rows.size(1),
                  "map: expected contiguous int64 (B, R)");
  const int64_t count = map.numel(), dim = rows.size(2);
  Tensor sums = torch::stable::new_empty(rows, {dim}, ScalarType::Float);
  with_elements_of(rows, "rows", [&](auto element) {
    using E = decltype(element);
    const SumUnmapped<E> call{data<E>(rows), map.const_data_ptr<int64_t>(), dim, nullptr};
    const auto run = of(kernels().tokens, element).sum_unmapped;
    sum_in_parts(count, dim, data<float>(sums), [&](float* part, int64_t begin, int64_t end) {
      SumUnmapped<E> mine = call;
      mine.sums = part;
      run(mine, begin, end);
    });
  });
  return sums;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("invert_index", TORCH_BOX(&invert_index));
  m.impl("map_rows", TORCH_BOX(&map_rows));
  m.impl("sum_unmapped", TORCH_BOX(&sum_unmapped));
}

}  // namespace eokit
