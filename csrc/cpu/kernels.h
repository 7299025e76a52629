// All CPU kernels, compiled once per instruction set, and the choice between them.
#pragma once

#include "attention.h"
#include "instruction_set.h"
#include "logits.h"
#include "norm.h"
#include "pool.h"
#include "tokens.h"

namespace eokit {

struct Kernels {
  AttentionKernels attention;
  TokenKernels tokens;
  PoolKernels pool;
  NormKernels norm;
  LogitsKernels logits;
};

#ifdef EOKIT_X86
extern const Kernels kAvx512, kAvx2;
extern const KernelPair<BFloat16> kAttentionAvx512Bf16;  // everything else as in kAvx512
#endif
extern const Kernels kPortable;

// Those of the best instruction set, or of the one that was selected.
const Kernels& kernels();

inline const auto& of(const auto& kernels, float) { return kernels.f32; }
inline const auto& of(const auto& kernels, BFloat16) { return kernels.bf16; }
inline const auto& of(const auto& kernels, Float16) { return kernels.f16; }

// The attention kernels for elements of type E.
template <class E>
const KernelPair<E>& attention_kernels_of(E element) {
  return of(kernels().attention, element);
}
template <>
const KernelPair<BFloat16>& attention_kernels_of(BFloat16);

}  // namespace eokit
