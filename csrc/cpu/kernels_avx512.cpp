// The kernels for CPUs with avx512f,avx512dq,avx2,fma,f16c; only called where cpuid says so.
// Everything that is shared with other translation units comes before the switch.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "kernels.h"

#ifdef EOKIT_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx2,fma,f16c")
#endif

#include "attention_kernel.h"
#include "logits_kernel.h"
#include "norm_kernel.h"
#include "pool_kernel.h"
#include "tokens_kernel.h"
#include "vec_avx512.h"

namespace eokit {
const Kernels kAvx512 = {attention_kernels<VecAvx512>(), token_kernels<VecAvx512>(), pool_kernels<VecAvx512>(),
                         norm_kernels<VecAvx512>(), logits_kernels<VecAvx512>()};
}

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
