// The kernels for any CPU that the compiler was asked to build for.
#include "kernels.h"

#include "attention_kernel.h"
#include "logits_kernel.h"
#include "norm_kernel.h"
#include "pool_kernel.h"
#include "tokens_kernel.h"
#include "vec_portable.h"

namespace eokit {
const Kernels kPortable = {attention_kernels<VecPortable>(), token_kernels<VecPortable>(), pool_kernels<VecPortable>(),
                           norm_kernels<VecPortable>(), logits_kernels<VecPortable>()};
}
