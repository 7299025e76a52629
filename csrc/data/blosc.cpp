#include "blosc.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "lz4.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace eokit {
namespace {

constexpr int kFormat = 2;
constexpr int64_t kHeader = 16;
constexpr int kMaxTypesize = 4;
constexpr int64_t kMaxBytes = INT32_MAX;

enum Flag : uint8_t { kShuffle = 1, kPlain = 2, kBitShuffle = 4, kNotSplit = 16 };
constexpr int kCompressorShift = 5, kLz4 = 1;

int64_t little_endian_32(const uint8_t* p) { return p[0] | p[1] << 8 | p[2] << 16 | static_cast<int64_t>(p[3]) << 24; }

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// Where the elements of one decoded block lie: byte k of element i at byte[k][i * step].
struct Planes {
  const uint8_t* byte[kMaxTypesize];
  bool shuffled;
};

// A checked header, and the blocks decoded one at a time.
class Frame {
 public:
  explicit Frame(std::span<const uint8_t> bytes) : bytes_(bytes) {
    require(bytes.size() >= kHeader, "shorter than a blosc header");
    flags_ = bytes[2];
    typesize_ = bytes[3];
    total_ = little_endian_32(&bytes[4]);
    block_ = little_endian_32(&bytes[8]);
  }

  bool known(int64_t itemsize) const {
    const bool coded = flags_ & kPlain || flags_ >> kCompressorShift == kLz4;
    return bytes_[0] == kFormat && coded && !(flags_ & kBitShuffle) && typesize_ == itemsize && block_ % itemsize == 0;
  }

  // Call once the frame is known and before any block.
  void check(int64_t total) {
    if (total_ != total)
      throw std::invalid_argument("holds " + std::to_string(total_) + " bytes, expected " + std::to_string(total));
    const auto size = static_cast<int64_t>(bytes_.size());
    require(little_endian_32(&bytes_[12]) == size, "is not as long as its header says");
    if (flags_ & kPlain) {
      require(size == kHeader + total_, "is not as long as its bytes");
      block_ = total_;
      return;
    }
    require(block_ > 0 && block_ <= total_, "has blocks larger than itself");
    require(kHeader + 4 * blocks() <= size, "ends before its blocks");
  }

  // Bytes that `decode` needs to work in.
  int64_t room() const { return flags_ & kPlain ? 0 : block_ + static_cast<int64_t>(kLz4Slack); }
  void work_in(uint8_t* buffer) { buffer_ = buffer; }

  int64_t block() const { return block_; }
  int64_t block_bytes(int64_t number) const { return std::min(block_, total_ - number * block_); }

  // Valid until the next block of this frame is decoded.
  Planes decode(int64_t number) const {
    const bool shuffled = flags_ & kShuffle && typesize_ > 1 && !(flags_ & kPlain);
    Planes planes{{}, shuffled};
    if (flags_ & kPlain) {
      planes.byte[0] = bytes_.data() + kHeader;
      return planes;
    }
    const int64_t size = block_bytes(number);
    const int64_t streams = flags_ & kNotSplit || size < block_ ? 1 : typesize_;
    const int64_t stream = size / streams;
    int64_t at = little_endian_32(&bytes_[kHeader + 4 * number]);
    for (int64_t s = 0; s < streams; ++s) planes.byte[s] = decode_stream(at, stream, buffer_ + s * stream);
    if (streams > 1 && !shuffled) join(planes, stream);
    if (streams == 1 && shuffled)
      for (int k = 1; k < typesize_; ++k) planes.byte[k] = planes.byte[0] + k * (size / typesize_);
    return planes;
  }

 private:
  int64_t blocks() const { return (total_ + block_ - 1) / block_; }

  // The `size` bytes of the stream at `at`, which moves on to the next one: in `target`, or where they lie in the frame.
  const uint8_t* decode_stream(int64_t& at, int64_t size, uint8_t* target) const {
    static const Lz4Decoder decode_lz4 = best_lz4_decoder();
    const auto end = static_cast<int64_t>(bytes_.size());
    require(at >= kHeader && at <= end - 4, "has a block outside itself");
    const int64_t length = little_endian_32(&bytes_[at]);
    require(length <= end - at - 4, "has a stream that ends outside it");
    const uint8_t* stream = bytes_.data() + at + 4;
    at += 4 + length;
    if (length == size) return stream;
    require(decode_lz4(stream, length, target, size), "has a damaged LZ4 stream");
    return target;
  }

  // The streams of a block that is split but not shuffled, one after the other in the buffer.
  void join(Planes& planes, int64_t stream) const {
    for (int k = 0; k < typesize_; ++k)
      if (planes.byte[k] != buffer_ + k * stream) std::memcpy(buffer_ + k * stream, planes.byte[k], stream);
    planes.byte[0] = buffer_;
  }

  std::span<const uint8_t> bytes_;
  uint8_t flags_;
  int typesize_;
  int64_t total_, block_;  // bytes
  uint8_t* buffer_ = nullptr;
};

// `count` elements from element `first` of a block on.
template <int kTypesize>
[[gnu::always_inline]] inline void put(const Planes& planes, int64_t first, int64_t count, uint8_t* __restrict out) {
  if (kTypesize == 1 || !planes.shuffled) {
    std::memcpy(out, planes.byte[0] + first * kTypesize, count * kTypesize);
    return;
  }
  const uint8_t* byte[kTypesize];
  for (int k = 0; k < kTypesize; ++k) byte[k] = planes.byte[k] + first;
  int64_t i = 0;
#ifdef __SSE2__
  // GCC 12 needs twice as long for the loop below.
  if constexpr (kTypesize == 2)
    for (; i <= count - 16; i += 16) {
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(byte[0] + i));
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(byte[1] + i));
      auto* to = reinterpret_cast<__m128i*>(out + 2 * i);
      _mm_storeu_si128(to, _mm_unpacklo_epi8(low, high));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(low, high));
    }
#endif
  for (; i < count; ++i)
    for (int k = 0; k < kTypesize; ++k) out[i * kTypesize + k] = byte[k][i];
}

// A frame, the block of it that is decoded, and its part of each line.
struct Reader {
  Frame frame;
  Cut cut;
  Planes planes{};
  int64_t first = 0, last = 0;  // elements of the chunk in that block

  // The part of the line that begins at element `line` of the chunk; it may lie in several blocks.
  template <int kTypesize>
  void copy_line(int64_t line, uint8_t* out) {
    int64_t from = line + cut.first;
    const int64_t end = line + cut.last;
    out += cut.to * kTypesize;
    while (from < end) {
      if (from < first || from >= last) load(from * kTypesize / frame.block(), kTypesize);
      const int64_t count = std::min(end, last) - from;
      put<kTypesize>(planes, from - first, count, out);
      from += count;
      out += count * kTypesize;
    }
  }

 private:
  void load(int64_t number, int64_t typesize) {
    planes = frame.decode(number);
    first = number * frame.block() / typesize;
    last = first + frame.block_bytes(number) / typesize;
  }
};

template <int kTypesize>
void copy_rows(std::span<Reader> readers, ChunkShape chunk, std::span<const Run> runs, Cut down, Output out) {
  for (const Run& run : runs)
    for (int64_t row = 0; row < run.length; ++row)
      for (int64_t channel = 0; channel < chunk.channels; ++channel) {
        const int64_t image = ((run.src + row) * chunk.channels + channel) * chunk.height;
        const int64_t target = ((run.dst + row) * out.channels + channel) * out.height + down.to - down.first;
        for (int64_t y = down.first; y < down.last; ++y)
          for (Reader& reader : readers)
            reader.copy_line<kTypesize>((image + y) * chunk.width, out.data + (target + y) * out.width * kTypesize);
      }
}

// Bytes of a chunk.
int64_t checked_size(ChunkShape chunk, int64_t itemsize) {
  int64_t size = itemsize;
  for (int64_t length : {chunk.rows, chunk.channels, chunk.height, chunk.width}) {
    require(length > 0 && length <= kMaxBytes / size, "a chunk without pixels, or one too large for blosc");
    size *= length;
  }
  return size;
}

void check(Cut cut, int64_t chunk, int64_t out) {
  require(0 <= cut.first && cut.first <= cut.last && cut.last <= chunk, "window outside the chunk");
  require(0 <= cut.to && cut.to <= out - (cut.last - cut.first), "window outside the output");
}

void check(const Run& run, int64_t chunk, int64_t out) {
  require(run.length >= 0 && run.length <= std::min(chunk, out), "more rows than the chunk or the output has");
  require(run.src >= 0 && run.src <= chunk - run.length, "rows outside the chunk");
  require(run.dst >= 0 && run.dst <= out - run.length, "rows outside the output");
}

}  // namespace

bool decode_rows(std::span<const Column> columns, ChunkShape chunk, std::span<const Run> runs, Cut down, Output out) {
  // 1. Everything but the blocks is checked before anything is written.
  if (out.itemsize != 1 && out.itemsize != 2 && out.itemsize != 4) return false;
  const int64_t size = checked_size(chunk, out.itemsize);
  require(chunk.channels == out.channels, "chunk and output have different channels");
  for (const Run& run : runs) check(run, chunk.rows, out.rows);
  check(down, chunk.height, out.height);
  std::vector<Reader> readers;
  int64_t room = 0;
  for (const Column& column : columns) {
    check(column.cut, chunk.width, out.width);
    Frame frame(column.frame);
    if (!frame.known(out.itemsize)) return false;
    frame.check(size);
    room += frame.room();
    readers.push_back({frame, column.cut});
  }
  // 2. Each frame gets its part of a buffer that the thread keeps.
  thread_local std::vector<uint8_t> buffer;
  if (static_cast<int64_t>(buffer.size()) < room) buffer.resize(room);
  uint8_t* next = buffer.data();
  for (Reader& reader : readers) {
    reader.frame.work_in(next);
    next += reader.frame.room();
  }
  if (out.itemsize == 1) copy_rows<1>(readers, chunk, runs, down, out);
  if (out.itemsize == 2) copy_rows<2>(readers, chunk, runs, down, out);
  if (out.itemsize == 4) copy_rows<4>(readers, chunk, runs, down, out);
  return true;
}

}  // namespace eokit
