// The bfloat16 kernels of attention for CPUs with avx512bf16 as well; only called where cpuid says so.
// Everything that is shared with other translation units comes before the switch.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "kernels.h"

#ifdef EOKIT_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")
#endif

#include "attention_kernel.h"
#include "operands_bf16.h"

namespace eokit {
const KernelPair<BFloat16> kAttentionAvx512Bf16 = kernel_pair<VecAvx512, Bfloat16Pairs, BFloat16>();
}

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
