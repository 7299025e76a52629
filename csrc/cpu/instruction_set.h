// Which instruction sets this CPU (and its operating system) can run; no torch.
#pragma once

#include <initializer_list>

#if defined(__x86_64__)
#define EOKIT_X86 1
#endif

namespace eokit {

enum class InstructionSet { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

constexpr const char* kInstructionSetNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};
constexpr InstructionSet kInstructionSets[] = {InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512,
                                               InstructionSet::kAvx512Bf16};

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
inline bool runs(InstructionSet set) {
#ifdef EOKIT_X86
  __builtin_cpu_init();
#define EOKIT_HAS(name) (__builtin_cpu_supports(name) != 0)
  switch (set) {
    case InstructionSet::kAvx2: return EOKIT_HAS("avx2") && EOKIT_HAS("fma") && EOKIT_HAS("f16c");
    case InstructionSet::kAvx512: return EOKIT_HAS("avx512f") && EOKIT_HAS("avx512dq") && runs(InstructionSet::kAvx2);
    case InstructionSet::kAvx512Bf16:
      return EOKIT_HAS("avx512bf16") && EOKIT_HAS("avx512bw") && EOKIT_HAS("avx512vl") && runs(InstructionSet::kAvx512);
    case InstructionSet::kPortable: break;
  }
#undef EOKIT_HAS
#endif
  return set == InstructionSet::kPortable;
}

// Not avx512_bf16: on Sapphire Rapids its products took 1.5 times as long as those of avx512 on floats.
inline InstructionSet best_instruction_set() {
  for (InstructionSet set : {InstructionSet::kAvx512, InstructionSet::kAvx2})
    if (runs(set)) return set;
  return InstructionSet::kPortable;
}

}  // namespace eokit
