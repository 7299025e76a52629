// The CPU implementation of masked tokens: picked rows, filled rows, and the index that leads back.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "../common/token_tensors.h"
#include "tensors.h"

namespace eokit {
namespace {

// inverse[b][index[b][k]] = k, -1 elsewhere; every index is checked.
Tensor invert_index(Tensor index, int64_t length) {
  check_map(index, "index", "(B, K)", index);
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

// Every row that the map names is one of `rows`.
void check_named_rows(const Tensor& map, const char* name, int64_t rows) {
  const int64_t* from = map.const_data_ptr<int64_t>();
  int64_t highest = -1;
  for (int64_t i = 0; i < map.numel(); ++i) highest = std::max(highest, from[i]);
  STD_TORCH_CHECK(highest < rows, name, ": ", highest, " is outside 0..", rows - 1);
}

Tensor map_rows(Tensor source, Tensor map, Tensor, std::optional<Tensor> fill, std::optional<Tensor> positions,
                bool by_output) {
  const MappedTensors given{source, map, fill, positions, by_output};
  given.check();
  const int64_t batches = map.size(0), rows = map.size(1), dim = source.size(2);
  check_named_rows(map, "map", source.size(1));
  Tensor out = in_huge_pages(torch::stable::new_empty(source, {batches, rows, dim}));
  if (out.numel() == 0) return out;

  with_elements_of(source, "source", [&](auto element) {
    using E = decltype(element);
    const MapRows<E> call = given.into<E>(out);
    const auto run = of(kernels().tokens, element).map_rows;
    const bool past = past_caches(bytes(out));
    torch::stable::parallel_for(0, batches * rows, std::max<int64_t>(1, 100000 / dim),
                                [&](int64_t begin, int64_t end) { run(call, past, begin, end); });
  });
  return out;
}

Tensor sum_unmapped(Tensor rows, Tensor map) {
  check_rows_and_map(rows, "rows", map, "map");
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

std::tuple<Tensor, Tensor> gather_gradients(Tensor grad, Tensor inverse, Tensor index) {
  check_rows_and_map(grad, "grad", index, "index");
  check_map(inverse, "inverse", "(B, L)", grad);
  check_named_rows(inverse, "inverse", grad.size(1));
  const int64_t batches = grad.size(0), rows = grad.size(1), dim = grad.size(2), places = inverse.size(1);
  Tensor x = in_huge_pages(torch::stable::new_empty(grad, {batches, places, dim}));
  Tensor positions = torch::stable::new_empty(grad, {places, dim}, ScalarType::Float);
  if (positions.numel() == 0) return {x, positions};
  with_elements_of(grad, "grad", [&](auto element) {
    using E = decltype(element);
    const TokenGradients<E> call{batches,       places,     rows,   dim, inverse.const_data_ptr<int64_t>(),
                                 data<E>(grad), data<E>(x), data<float>(positions)};
    const auto run = of(kernels().tokens, element).gather_gradients;
    const bool past = past_caches(bytes(x));
    torch::stable::parallel_for(0, places, std::max<int64_t>(1, 100000 / (dim * std::max<int64_t>(batches, 1))),
                                [&](int64_t begin, int64_t end) { run(call, past, begin, end); });
  });
  return {x, positions};
}

// inverse is that of index: every row has one place, and is written once.
void check_inverse(const Tensor& inverse, const Tensor& index) {
  const int64_t batches = index.size(0), rows = index.size(1), places = inverse.size(1);
  const int64_t *place = index.const_data_ptr<int64_t>(), *row = inverse.const_data_ptr<int64_t>();
  check_named_rows(inverse, "inverse", rows);
  int64_t left = batches * rows;
  for (int64_t i = 0; i < inverse.numel(); ++i) left -= row[i] >= 0;
  STD_TORCH_CHECK(left == 0, "inverse: expected a place for every row of index");
  for (int64_t b = 0; b < batches; ++b, row += places)
    for (int64_t r = 0; r < rows; ++r, ++place)
      STD_TORCH_CHECK(*place >= 0 && *place < places && row[*place] == r, "inverse: expected row ", r, " of sample ", b,
                      " at ", *place);
}

std::tuple<Tensor, Tensor, Tensor> scatter_gradients(Tensor grad, Tensor inverse, Tensor index) {
  check_rows_and_map(grad, "grad", inverse, "inverse");
  check_map(index, "index", "(B, K)", grad);
  check_inverse(inverse, index);
  const int64_t batches = grad.size(0), places = grad.size(1), dim = grad.size(2), rows = index.size(1);
  Tensor visible = in_huge_pages(torch::stable::new_empty(grad, {batches, rows, dim}));
  Tensor mask_token = torch::stable::new_empty(grad, {dim}, ScalarType::Float);
  Tensor positions = torch::stable::new_empty(grad, {places, dim}, ScalarType::Float);
  if (dim == 0) return {visible, mask_token, positions};
  with_elements_of(grad, "grad", [&](auto element) {
    using E = decltype(element);
    const TokenGradients<E> call{batches,       places,           rows,   dim, inverse.const_data_ptr<int64_t>(),
                                 data<E>(grad), data<E>(visible), data<float>(positions)};
    const auto run = of(kernels().tokens, element).scatter_gradients;
    const bool past = past_caches(bytes(visible));
    sum_in_parts(places, dim, data<float>(mask_token), [&](float* part, int64_t begin, int64_t end) {
      TokenGradients<E> mine = call;
      mine.fill = part;
      run(mine, past, begin, end);
    });
  });
  return {visible, mask_token, positions};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("invert_index", TORCH_BOX(&invert_index));
  m.impl("map_rows", TORCH_BOX(&map_rows));
  m.impl("sum_unmapped", TORCH_BOX(&sum_unmapped));
  m.impl("gather_gradients", TORCH_BOX(&gather_gradients));
  m.impl("scatter_gradients", TORCH_BOX(&scatter_gradients));
}

}  // namespace eokit
