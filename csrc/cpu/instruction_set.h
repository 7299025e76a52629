// Which instruction sets this CPU (and its operating system) can run; no torch.
#pragma once

#include <initializer_list>

#if defined(__x86_64__)
#define EOKIT_X86 1
#endif

namespace eokit {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

constexpr const char* kInstructionSetNames[] = {"portable", "avx2", "avx512"};

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
inline bool runs(InstructionSet set) {
#ifdef EOKIT_X86
  __builtin_cpu_init();
  if (set == InstructionSet::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == InstructionSet::kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && runs(InstructionSet::kAvx2);
#endif
  return set == InstructionSet::kPortable;
}

inline InstructionSet best_instruction_set() {
  for (InstructionSet set : {InstructionSet::kAvx512, InstructionSet::kAvx2})
    if (runs(set)) return set;
  return InstructionSet::kPortable;
}

}  // namespace eokit
