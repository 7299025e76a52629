// The passes of the CUDA attention backward, planned for every GPU since sm_80.
#pragma once

#include "emulate_common.h"

#include "../../csrc/cuda/attention_backward_plan.h"

namespace eokit {
namespace {

// What is wrong with the plan of one call: it must fit, take every key once, in no more passes than need be.
const char* fault_of(const BackwardPlan& plan, int width, int queries, int keys, int64_t shared) {
  const int of_pass = plan.warps * plan.held;
  if (plan.passes < 1) return "no passes";
  if (plan.bytes > shared || plan.bytes != backward_bytes(width, queries, of_pass * kTile)) return "bytes";
  if (plan.warps < 1 || plan.warps > kBackwardWarps || plan.held < 1 || plan.held > most_held(width)) return "warps";
  if (plan.passes * of_pass < tiles_of(keys) || (plan.passes - 1) * of_pass >= tiles_of(keys)) return "keys";
  if (plan.passes == 1) return nullptr;
  const int fewer = (tiles_of(keys) + plan.passes - 2) / (plan.passes - 1);  // tiles of a pass if there were one pass less
  const int warps = smaller(fewer, kBackwardWarps), held = (fewer + warps - 1) / warps;
  if (held > most_held(width)) return nullptr;
  const int rounded = held == 1 ? fewer : (fewer + 1) / 2 * 2;
  return backward_bytes(width, queries, rounded * kTile) <= shared ? "one pass less would do" : nullptr;
}

// Every width and number of keys on the shared memory of every GPU since sm_80, for all queries that Python lets through.
void check_plans(int most_queries) {
  for (const int kib : {99, 163, 227}) {
    int faults = 0;
    for (const int width : {16, 32, 48, 64, 96, 128})
      for (const int queries : {1, 33, 256, most_queries})
        for (int keys = 1; keys <= 1100; ++keys) {
          const int64_t shared = int64_t{kib} * 1024;
          const char* fault = fault_of(plan_backward(width, queries, keys, shared), width, queries, keys, shared);
          if (fault != nullptr) std::printf("plan: %s, D %d Lq %d Lk %d in %d KiB\n", fault, width, queries, keys, kib);
          faults += fault != nullptr;
        }
    report("plans in " + std::to_string(kib) + " KiB", faults, 0);
  }
  const auto passes = [](int width, int length, int kib) { return plan_backward(width, length, length, kib * 1024).passes; };
  report("64 features: one pass to 192 tokens in 99 KiB", passes(64, 192, 99) != 1 || passes(64, 193, 99) != 2, 0);
  report("64 features: one pass to 256 tokens in 163 KiB", passes(64, 256, 163) != 1 || passes(64, 257, 163) != 2, 0);
  report("128 features: one pass to 96 tokens in 99 KiB", passes(128, 96, 99) != 1 || passes(128, 97, 99) != 2, 0);
  report("what does not fit has no plan", passes(128, 16, 32) + passes(64, 16384, 99), 0);
}

}  // namespace
}  // namespace eokit
