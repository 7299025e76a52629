// The decoder of LZ4 blocks (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md); no Python, no torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../cpu/instruction_set.h"

namespace eokit {

// Bytes after the output of a Lz4Decoder that it may overwrite with anything.
constexpr size_t kLz4Slack = 64;

// Whether `in` is a block of exactly `out_size` bytes, which are then in `out`. Damaged input never makes it read
// outside `in` and `out`, or write outside `out`, each with the slack of `out`.
typedef bool (*Lz4Decoder)(const uint8_t* in, size_t in_size, uint8_t* out, size_t out_size);

extern const Lz4Decoder kLz4Portable, kLz4Avx2;

inline Lz4Decoder best_lz4_decoder() {
#ifdef EOKIT_X86
  if (runs(InstructionSet::kAvx2)) return kLz4Avx2;
#endif
  return kLz4Portable;
}

}  // namespace eokit
