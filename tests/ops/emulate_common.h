// What the files of emulate_cuda.cpp share: random numbers, verdicts, and shared memory that is watched.
#pragma once

#include "cuda_emulator.h"

#include <algorithm>
#include <random>
#include <string>

namespace eokit {
namespace {

std::mt19937 generator(7);
int failures = 0;

float normal() { return std::normal_distribution<float>()(generator); }

void report(const std::string& name, double error, double allowed) {
  const bool good = error <= allowed;  // false for NaN
  failures += !good;
  std::printf("%s %s: error %.2e, allowed %.2e\n", good ? "ok" : "OFF", name.c_str(), error, allowed);
}

struct alignas(16) Line {
  char bytes[16];
};
constexpr int kGuard = 4096;  // bytes after a block's shared memory, which no thread may change
std::vector<Line> memory;
char* poisoned(int64_t bytes) {
  memory.assign((bytes + 15 + kGuard) / 16, Line());
  std::memset(memory.data(), 255, memory.size() * 16);
  return memory[0].bytes;
}
void check_guard(const std::string& name, int64_t bytes) {
  const char *begin = memory[0].bytes + bytes, *end = memory[0].bytes + memory.size() * 16;
  if (std::count(begin, end, char(255)) != end - begin) report(name + ": bytes written past shared memory", 1, 0);
}

}  // namespace
}  // namespace eokit
