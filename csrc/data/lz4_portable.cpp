// The LZ4 decoder for any CPU that the compiler was asked to build for.
#include "lz4_kernel.h"

namespace eokit {
namespace {

// Bytes 0..15 and 16..31 of the match `distance` back from `to`.
struct PortableMatch {
  static void first16(uint8_t* to, size_t distance) {
    if (distance >= 16)
      std::memcpy(to, to - distance, 16);
    else
      for (int i = 0; i < 16; ++i) to[i] = (to - distance)[i];
  }

  static void second16(uint8_t* to, size_t distance) { first16(to + 16, distance); }
};

}  // namespace

const Lz4Decoder kLz4Portable = decode_lz4<PortableMatch>;
}  // namespace eokit
