// Reads rows and a window of chunks from their blosc frames, straight into their place in an array; no Python, no torch.
//
// Format 2 of c-blosc 1 (README_CHUNK_FORMAT.rst there). Header: version, version of the compressor, flags, typesize,
// uint32 bytes, block size, compressed bytes; then the int32 start of every block, the blocks. A block is one stream, or
// one for each byte of the type (not the last block if it is shorter): int32 length and LZ4, or plain bytes where that
// length is the decoded one. A shuffled block holds the first bytes of all its elements, then the second ones, ...
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace eokit {

// `length` consecutive rows: from row `src` of a chunk to row `dst` of the output.
struct Run {
  int64_t src, dst, length;
};

// A chunk (rows, channels, height, width).
struct ChunkShape {
  int64_t rows, channels, height, width;
};

// Along one axis: the part first..last of a chunk that is wanted, and where it goes in the output.
struct Cut {
  int64_t first, last, to;
};

// A chunk and its part across.
struct Column {
  std::span<const uint8_t> frame;
  Cut cut;
};

// C-contiguous (rows, channels, height, width).
struct Output {
  uint8_t* data;
  int64_t itemsize, rows, channels, height, width;
};

// Decodes the rows of `runs` of chunks that lie side by side, line by line of the output; of each only the blocks that
// are wanted, once where the runs are in the order of `src`. False, and nothing written, where this decoder does not
// know a frame: another compressor, shuffle or typesize. Throws std::invalid_argument where a frame is damaged or the
// arguments do not fit one another; the output may have been written in part then. Nothing outside is read or written.
bool decode_rows(std::span<const Column> columns, ChunkShape chunk, std::span<const Run> runs, Cut down, Output out);

}  // namespace eokit
