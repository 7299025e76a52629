// eokit._native: what is no tensor operation: facts about the build and the CPU, the decoder of stored chunks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/instruction_set.h"
#include "data/blosc.h"

namespace py = pybind11;

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

std::map<std::string, std::string> build_info() {
  return {{"compiler", kCompiler}, {"flags", EOKIT_FLAGS}, {"torch_target", EOKIT_TORCH_TARGET}};
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  for (auto set : eokit::kInstructionSets)
    if (eokit::runs(set)) found.push_back(eokit::kInstructionSetNames[static_cast<int>(set)]);
  return found;
}

typedef py::array_t<int64_t, py::array::c_style | py::array::forcecast> Runs;
typedef std::array<int64_t, 3> Cut;

// eokit::decode_rows for numpy: runs (n, 3), out (rows, C, H, W).
bool decode_rows(const std::vector<py::buffer>& frames, std::array<int64_t, 4> chunk, const Runs& runs, Cut down,
                 const std::vector<Cut>& across, py::array out) {
  if (frames.size() != across.size()) throw std::invalid_argument("not one part across for each frame");
  if (runs.ndim() != 2 || runs.shape(1) != 3) throw std::invalid_argument("runs are not (n, 3)");
  if (out.ndim() != 4 || !(out.flags() & py::array::c_style))
    throw std::invalid_argument("the output is not a contiguous array of four axes");
  std::vector<py::buffer_info> kept;
  std::vector<eokit::Column> columns;
  for (size_t i = 0; i < frames.size(); ++i) {
    const py::buffer_info& bytes = kept.emplace_back(frames[i].request());
    if (bytes.itemsize != 1 || bytes.ndim != 1 || bytes.strides[0] != 1)
      throw std::invalid_argument("a frame is not one piece of bytes");
    const auto [first, last, to] = across[i];
    columns.push_back({{static_cast<const uint8_t*>(bytes.ptr), static_cast<size_t>(bytes.size)}, {first, last, to}});
  }
  const std::span<const eokit::Run> rows(reinterpret_cast<const eokit::Run*>(runs.data()), runs.shape(0));
  const eokit::ChunkShape shape{chunk[0], chunk[1], chunk[2], chunk[3]};
  const eokit::Output output{static_cast<uint8_t*>(out.mutable_data()), out.itemsize(), out.shape(0), out.shape(1),
                             out.shape(2), out.shape(3)};
  py::gil_scoped_release others_may_run;
  return eokit::decode_rows(columns, shape, rows, {down[0], down[1], down[2]}, output);
}

constexpr const char* kDecodeRows =
    "Decode rows and a window of chunks (rows, C, h, w) that lie side by side, from their blosc frames into out "
    "(rows, C, H, W). runs (n, 3): first row in the chunk, first row in out, number of rows. down, and across for each "
    "frame: first and last line of the chunk, first line in out. False, and nothing written, where a frame is not LZ4 "
    "with byte shuffle or none and 1, 2 or 4 bytes a pixel. ValueError where one is damaged.";

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Facts about the build of eokit and about this CPU, and the decoder of stored chunks.";
  m.def("build_info", &build_info, "Compiler, flags and the oldest torch that the compiled libraries serve.");
  m.def("instruction_sets", &instruction_sets, "Instruction sets with kernels that this CPU can run, the best last.");
  m.def("decode_rows", &decode_rows, py::arg("frames"), py::arg("chunk"), py::arg("runs"), py::arg("down"),
        py::arg("across"), py::arg("out"), kDecodeRows);
}
