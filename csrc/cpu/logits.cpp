// The CPU implementation of eokit::nce_add_ and eokit::nce_slopes_: rows are independent and spread over threads.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "tensors.h"

namespace eokit {
namespace {

constexpr int64_t kGrain = 1 << 15;  // logits that are worth a thread

void check_scores(const Tensor& scores) {
  STD_TORCH_CHECK(scores.scalar_type() == ScalarType::Float && scores.dim() == 2 && scores.is_contiguous(),
                  "scores: expected contiguous float32 (rows, columns)");
}

void check_rows(const Tensor& x, const char* name, int64_t rows) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.dim() == 1 && x.is_contiguous() && x.size(0) == rows, name,
                  ": expected contiguous float32 (", rows, ")");
}

const int64_t* ids(const std::optional<Tensor>& x, const char* name, int64_t length, bool wanted) {
  STD_TORCH_CHECK(x.has_value() == wanted, name, ": expected both ids, of rows and of columns, or neither");
  if (!wanted) return nullptr;
  STD_TORCH_CHECK(x->scalar_type() == ScalarType::Long && x->dim() == 1 && x->is_contiguous() && x->size(0) == length,
                  name, ": expected contiguous int64 (", length, ")");
  return data<int64_t>(*x);
}

struct Ids {
  std::optional<Tensor> group_rows, group_columns, block_rows, block_columns;
};

void fill(Pairs& call, const Tensor& scores, const Ids& given) {
  check_scores(scores);
  const int64_t rows = scores.size(0), columns = call.columns = scores.size(1);
  call.group_rows = ids(given.group_rows, "group_rows", rows, given.group_columns.has_value());
  call.group_columns = ids(given.group_columns, "group_columns", columns, given.group_rows.has_value());
  call.block_rows = ids(given.block_rows, "block_rows", rows, given.block_columns.has_value());
  call.block_columns = ids(given.block_columns, "block_columns", columns, given.block_rows.has_value());
}

template <class Call>
void spread(void (*run)(const Call&, int64_t, int64_t), const Call& call, int64_t rows) {
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(call.columns, 1)),
                              [&](int64_t begin, int64_t end) { run(call, begin, end); });
}

void nce_add(Tensor scores, std::optional<Tensor> group_rows, std::optional<Tensor> group_columns,
             std::optional<Tensor> block_rows, std::optional<Tensor> block_columns, Tensor highest, Tensor total,
             Tensor near_highest, Tensor near_total) {
  LogitsAdd call;
  fill(call, scores, {group_rows, group_columns, block_rows, block_columns});
  const int64_t rows = scores.size(0);
  check_rows(highest, "highest", rows), check_rows(total, "total", rows);
  check_rows(near_highest, "near_highest", rows), check_rows(near_total, "near_total", rows);
  call.scores = data<float>(std::as_const(scores));
  call.candidates = {data<float>(highest), data<float>(total)};
  call.positives = {data<float>(near_highest), data<float>(near_total)};
  spread(kernels().logits.add, call, rows);
}

void nce_slopes(Tensor scores, std::optional<Tensor> group_rows, std::optional<Tensor> group_columns,
                std::optional<Tensor> block_rows, std::optional<Tensor> block_columns, Tensor sums, Tensor others) {
  LogitsSlopes call;
  fill(call, scores, {group_rows, group_columns, block_rows, block_columns});
  const int64_t rows = scores.size(0);
  check_rows(sums, "sums", rows), check_rows(others, "others", rows);
  call.scores = data<float>(scores);
  call.sums = data<float>(std::as_const(sums)), call.others = data<float>(std::as_const(others));
  spread(kernels().logits.slopes, call, rows);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("nce_add_", TORCH_BOX(&nce_add));
  m.impl("nce_slopes_", TORCH_BOX(&nce_slopes));
}

}  // namespace eokit
