// Decoding of one LZ4 block over a way to copy matches; included once per instruction set.
//
// A block is a row of sequences: a token (high half: literals, low half: match length - 4; 15 means that bytes follow,
// added up until one is below 255), the literals, the distance of the match as two bytes, little-endian. The last
// sequence has literals only. The high bytes of reflectances make sequences of hardly any literals and matches of 7 to
// 16 bytes. At 5 ns each, two things cost: a mispredicted branch, so none tells short distances from long ones where the
// CPU can shuffle bytes; and a load that has to wait for two stores that overlap it, so no store is wider than needed
// (always storing 32 bytes of a match: 6.1 instead of 4.6 ms for the 10 MB of a patch, Sapphire Rapids; liblz4 5.4).
#pragma once

#include <algorithm>
#include <cstring>

#include "lz4.h"

namespace eokit {
namespace {

// Literals and match of a sequence of the quick loop: 14 copied as 16, and 4 + 15 + 254 copied in steps of 32.
constexpr ptrdiff_t kQuickInput = 1 + 16 + 2;
constexpr ptrdiff_t kQuickOutput = 14 + 273;

// Adds the bytes that continue a length of 15; false where the input ends first.
inline bool extend(const uint8_t*& in, const uint8_t* in_end, size_t& length) {
  uint8_t more;
  do {
    if (in == in_end) return false;
    more = *in++;
    length += more;
  } while (more == 255);
  return true;
}

// The match `distance` back from `to`: at least `length` bytes, at most 31 more, 32 at a time. A distance below 32 grows
// to its largest multiple there, so that every step copies whole periods.
template <class Match>
inline void copy_match(uint8_t* to, size_t distance, size_t length) {
  const size_t step = distance >= 32 ? 32 : 32 / distance * distance;
  Match::first16(to, distance);
  Match::second16(to, distance);
  for (size_t done = step; done < length; done += step) {
    Match::first16(to + done, std::max(distance, step));
    Match::second16(to + done, std::max(distance, step));
  }
}

template <class Match>
bool decode_lz4(const uint8_t* in, size_t in_size, uint8_t* out, size_t out_size) {
  const uint8_t* const in_end = in + in_size;
  const uint8_t* const out_begin = out;
  uint8_t* const out_end = out + out_size;
  for (;;) {
    // 1. Sequences of at most 14 literals and a match of at most 273 bytes, while there is room for the longest.
    while (in_end - in >= kQuickInput && out_end - out >= kQuickOutput) {
      const unsigned token = *in;
      const size_t literals = token >> 4;
      if (literals == 15 || ((token & 15) == 15 && in[literals + 3] == 255)) break;
      std::memcpy(out, in + 1, 16);
      in += literals + 3;
      out += literals;
      const size_t distance = in[-2] | in[-1] << 8;
      if (distance - 1 >= static_cast<size_t>(out - out_begin)) return false;
      size_t length = (token & 15) + 4;
      if (length == 19) length += *in++;
      Match::first16(out, distance);
      if (length > 16) Match::second16(out, distance);
      if (length > 32) copy_match<Match>(out, distance, length);
      out += length;
    }
    // 2. Any sequence; only its match writes beyond its end, into the slack.
    if (in == in_end) return false;
    const unsigned token = *in++;
    size_t literals = token >> 4;
    if (literals == 15 && !extend(in, in_end, literals)) return false;
    if (literals > static_cast<size_t>(in_end - in) || literals > static_cast<size_t>(out_end - out)) return false;
    std::memcpy(out, in, literals);
    in += literals;
    out += literals;
    if (in == in_end) return out == out_end;
    if (in_end - in < 2) return false;
    const size_t distance = in[0] | in[1] << 8;
    in += 2;
    size_t length = token & 15;
    if (length == 15 && !extend(in, in_end, length)) return false;
    length += 4;
    // A distance of 0 wraps around to the largest.
    if (distance - 1 >= static_cast<size_t>(out - out_begin)) return false;
    if (length > static_cast<size_t>(out_end - out)) return false;
    copy_match<Match>(out, distance, length);
    out += length;
  }
}

}  // namespace
}  // namespace eokit
