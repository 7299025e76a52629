// eokit._native: facts about the build and the CPU that are no tensor operation.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "cpu/instruction_set.h"

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
  for (auto set : {eokit::InstructionSet::kPortable, eokit::InstructionSet::kAvx2, eokit::InstructionSet::kAvx512})
    if (eokit::runs(set)) found.push_back(eokit::kInstructionSetNames[static_cast<int>(set)]);
  return found;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Facts about the build of eokit and about this CPU.";
  m.def("build_info", &build_info, "Compiler, flags and the oldest torch that the compiled libraries serve.");
  m.def("instruction_sets", &instruction_sets, "Instruction sets with kernels that this CPU can run, the best last.");
}
