// The attention kernels for any CPU that the compiler was asked to build for.
#include "attention_kernel.h"
#include "vec_portable.h"

namespace eokit {
const AttentionKernels kAttentionPortable = attention_kernels<VecPortable>();
}
