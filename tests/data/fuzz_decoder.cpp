// Decodes frames with random damage. test_native_decoder.py builds it with sanitizers, which stop it at the first access
// out of bounds, and runs it: fuzz_decoder SEEDS ROUNDS.
//
// A seed: uint32 itemsize, rows, channels, height, width, bytes of the frame; the frame.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../csrc/data/blosc.h"
#include "../../csrc/data/lz4.h"

namespace {

typedef std::vector<uint8_t> Bytes;

struct Seed {
  std::array<uint32_t, 6> shape;  // itemsize, rows, channels, height, width, bytes
  Bytes frame;
};

std::mt19937 rng(0);

int below(int bound) { return static_cast<int>(rng() % static_cast<unsigned>(bound)); }

std::vector<Seed> read_seeds(const char* path) {
  std::vector<Seed> seeds;
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return seeds;
  for (Seed seed; std::fread(seed.shape.data(), 4, 6, file) == 6; seeds.push_back(seed)) {
    seed.frame.resize(seed.shape[5]);
    if (std::fread(seed.frame.data(), 1, seed.frame.size(), file) != seed.frame.size()) std::abort();
  }
  std::fclose(file);
  return seeds;
}

// A length in the header is made right again now and then, so that damage gets past the first check.
Bytes damaged(const Bytes& frame) {
  constexpr uint8_t kExtremes[] = {0, 1, 15, 16, 127, 128, 240, 255};
  Bytes bytes = frame;
  for (int change = below(8) + 1; change > 0 && !bytes.empty(); --change) {
    const int at = below(2) ? below(static_cast<int>(bytes.size())) : below(std::min<int>(64, bytes.size()));
    switch (below(4)) {
      case 0: bytes[at] ^= 1 << below(8); break;
      case 1: bytes[at] = kExtremes[below(8)]; break;
      case 2: bytes[at] = static_cast<uint8_t>(rng()); break;
      case 3: if (below(4) == 0) bytes.resize(below(2) ? at : bytes.size() - 1); break;
    }
  }
  if (bytes.size() >= 16 && below(4))
    for (int k = 0; k < 4; ++k) bytes[12 + k] = static_cast<uint8_t>(bytes.size() >> 8 * k);
  if (bytes.size() >= 12 && below(2)) std::copy(frame.begin() + 2, frame.begin() + 12, bytes.begin() + 2);
  return bytes;
}

// 1 decoded, 0 not known, -1 refused. Frames and output lie in allocations of exactly their size.
int decode(const Seed& seed, const Bytes& bytes) {
  const auto [itemsize, rows, channels, height, width, length] = seed.shape;
  const auto exact = std::make_unique<uint8_t[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), exact.get());
  const int64_t y0 = below(height), y1 = y0 + below(height - y0) + 1, x0 = below(width), x1 = x0 + below(width - x0) + 1;
  const eokit::Output out{nullptr, itemsize, rows, channels, y1 - y0, 2 * (x1 - x0)};
  const auto pixels = std::make_unique<uint8_t[]>(out.itemsize * out.rows * out.channels * out.height * out.width);
  const std::span<const uint8_t> frame(exact.get(), bytes.size());
  const eokit::Column columns[] = {{frame, {x0, x1, 0}}, {frame, {x0, x1, x1 - x0}}};
  const int src = below(rows), dst = below(rows);
  const eokit::Run runs[] = {{0, dst, 1}, {src, 0, below(rows - src) + 1}};
  try {
    return eokit::decode_rows(columns, {rows, channels, height, width}, runs, {y0, y1, 0},
                              {pixels.get(), out.itemsize, out.rows, out.channels, out.height, out.width});
  } catch (const std::invalid_argument&) {
    return -1;
  }
}

// The two decoders of LZ4 alone, on a piece of a frame with damage: they agree, also in what they write.
void compare_lz4(const Bytes& bytes) {
  const size_t first = bytes.empty() ? 0 : below(static_cast<int>(bytes.size())), size = below(3000);
  const Bytes in(bytes.begin() + first, bytes.end());
  Bytes portable(size + eokit::kLz4Slack), best(size + eokit::kLz4Slack);
  const bool good = eokit::kLz4Portable(in.data(), in.size(), portable.data(), size);
  if (good != eokit::best_lz4_decoder()(in.data(), in.size(), best.data(), size)) std::abort();
  if (good && !std::equal(portable.begin(), portable.begin() + size, best.begin())) std::abort();
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<Seed> seeds = count == 3 ? read_seeds(arguments[1]) : std::vector<Seed>();
  if (seeds.empty()) return std::puts("usage: fuzz_decoder SEEDS ROUNDS, see the top of its source"), 2;
  for (const Seed& seed : seeds)
    if (decode(seed, seed.frame) != 1) return std::puts("a whole frame was not decoded"), 1;
  int found[3] = {};
  for (int round = std::atoi(arguments[2]); round > 0; --round) {
    const Seed& seed = seeds[below(static_cast<int>(seeds.size()))];
    const Bytes bytes = damaged(seed.frame);
    ++found[decode(seed, bytes) + 1];
    compare_lz4(bytes);
  }
  std::printf("%d refused, %d not known, %d decoded\n", found[0], found[1], found[2]);
  return 0;
}
