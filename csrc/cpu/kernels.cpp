// Which kernels run.
#include "kernels.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace eokit {
namespace {

// The best, unless the environment variable EOKIT_INSTRUCTION_SET names another that this CPU has.
InstructionSet preferred_instruction_set() {
  const char* wanted = std::getenv("EOKIT_INSTRUCTION_SET");
  for (InstructionSet set : kInstructionSets)
    if (wanted && std::string(wanted) == kInstructionSetNames[static_cast<int>(set)] && runs(set)) return set;
  return best_instruction_set();
}

std::atomic<InstructionSet> chosen{preferred_instruction_set()};

// "auto" goes back to the preferred one; "" only asks. Returns the one in use.
std::string select_instruction_set(std::string name) {
  if (name == "auto") chosen = preferred_instruction_set();
  for (InstructionSet set : kInstructionSets)
    if (name == kInstructionSetNames[static_cast<int>(set)]) {
      STD_TORCH_CHECK(runs(set), "this CPU has no ", name);
      chosen = set;
      name = "";
    }
  STD_TORCH_CHECK(name.empty() || name == "auto", "unknown instruction set ", name);
  return kInstructionSetNames[static_cast<int>(chosen.load())];
}

}  // namespace

const Kernels& kernels() {
#ifdef EOKIT_X86
  if (chosen == InstructionSet::kAvx512 || chosen == InstructionSet::kAvx512Bf16) return kAvx512;
  if (chosen == InstructionSet::kAvx2) return kAvx2;
#endif
  return kPortable;
}

template <>
const KernelPair<BFloat16>& attention_kernels_of(BFloat16 element) {
#ifdef EOKIT_X86
  if (chosen == InstructionSet::kAvx512Bf16) return kAttentionAvx512Bf16;
#endif
  return of(kernels().attention, element);
}

STABLE_TORCH_LIBRARY_IMPL(eokit, CompositeExplicitAutograd, m) {
  m.impl("select_instruction_set", TORCH_BOX(&select_instruction_set));
}

}  // namespace eokit
