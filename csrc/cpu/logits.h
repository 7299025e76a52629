// What the CPU kernels do to one tile of logits of InfoNCE and MIL-NCE, in plain memory; the tensors of torch stay in
// logits.cpp.
#pragma once

#include <cstdint>

namespace eokit {

// Rows and columns of a tile; the same block: no candidate, the same group: a positive. No ids: no pair is so.
struct Pairs {
  int64_t columns = 0;
  const int64_t *group_rows = nullptr, *group_columns = nullptr;
  const int64_t *block_rows = nullptr, *block_columns = nullptr;
};

// The highest score of each row so far, and the sum of exp(score - highest).
struct RunningSums {
  float *highest = nullptr, *total = nullptr;
};

struct LogitsAdd : Pairs {
  const float* scores = nullptr;  // (rows, columns), contiguous
  RunningSums candidates, positives;
};

struct LogitsSlopes : Pairs {
  float* scores = nullptr;  // (rows, columns), contiguous; become exp(score - sums) - exp(score - others) of positives
  const float *sums = nullptr, *others = nullptr;
};

struct LogitsKernels {
  void (*add)(const LogitsAdd& call, int64_t begin, int64_t end);  // rows
  void (*slopes)(const LogitsSlopes& call, int64_t begin, int64_t end);
};

}  // namespace eokit
