// The names of csrc/cuda/device.h for a CPU: a block's threads are fibres that take turns, so that the CUDA kernels run,
// with every index they use, where there is no GPU. Collective operations wait until all lanes of the warp are there.
//
// What it checks on the way: alignment of every asynchronous copy and matrix row, and that shared memory which a copy
// still on its way will write is not read (copies are carried out only when they are waited for).
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "../../csrc/common/half.h"

#define EOKIT_DEVICE inline

namespace eokit {

namespace emulator {

constexpr int kLanes = 32;

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool real;
};

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  const void* waits_for = nullptr;  // what it named when it stopped: lanes of a warp must name the same
  int64_t arrivals = 0;             // collectives passed
  int64_t barriers = 0;
  std::vector<Copy> open;                  // not yet committed
  std::vector<std::vector<Copy>> groups;   // committed
};

struct Exchange {  // of one warp
  uint32_t words[kLanes][16];
};

struct Block {
  int threads = 0;
  int64_t index = 0, grid = 1;
  std::vector<std::unique_ptr<Fibre>> fibres;
  std::vector<Exchange> exchanges;
  int current = 0;
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
};

inline Block* block = nullptr;
inline bool backwards = false;  // whether the last thread goes first

[[noreturn]] inline void fail(const char* what) {
  std::printf("emulator: %s (block %lld, thread %d)\n", what, static_cast<long long>(block->index), block->current);
  std::exit(2);
}
inline void require(bool condition, const char* what) {
  if (!condition) fail(what);
}

inline Fibre& self() { return *block->fibres[block->current]; }
inline void give_way() { swapcontext(&self().context, &block->scheduler); }

// Returns when every lane of this warp has come as often as this one.
inline void meet_warp() {
  const int64_t mine = ++self().arrivals;
  const int first = block->current / kLanes * kLanes;
  for (;;) {
    bool all = true;
    for (int i = first; i < first + kLanes; ++i) {
      if (block->fibres[i]->done && block->fibres[i]->arrivals < mine) fail("a lane left before a collective operation");
      all = all && block->fibres[i]->arrivals >= mine;
    }
    if (all) return;
    give_way();
  }
}

inline void meet_block() {
  const int64_t mine = ++self().barriers;
  for (;;) {
    bool all = true;
    for (auto& fibre : block->fibres) {
      if (fibre->done && fibre->barriers < mine) fail("a thread left before a barrier");
      all = all && fibre->barriers >= mine;
    }
    if (all) return;
    give_way();
  }
}

// Every lane leaves `count` words for the others; `read` then sees all of them.
template <class Read>
void exchange(const uint32_t* words, int count, const Read& read) {
  Exchange& warp = block->exchanges[block->current / kLanes];
  std::memcpy(warp.words[block->current % kLanes], words, count * sizeof(uint32_t));
  meet_warp();
  read(warp.words);
  meet_warp();
}

inline void enter() {
  (*block->body)();
  self().done = true;
  for (;;) give_way();
}

// Runs `body` as every thread of every block, one block after another; `prepare` comes before each.
inline void launch(int64_t blocks, int threads, const std::function<void()>& prepare, const std::function<void()>& body) {
  for (int64_t index = 0; index < blocks; ++index) {
    prepare();
    Block state;
    block = &state;
    state.threads = threads, state.index = index, state.grid = blocks, state.body = &body;
    state.exchanges.resize((threads + kLanes - 1) / kLanes);
    for (int i = 0; i < threads; ++i) {
      state.fibres.push_back(std::make_unique<Fibre>());
      Fibre& fibre = *state.fibres.back();
      fibre.stack.resize(1 << 16);
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.data();
      fibre.context.uc_stack.ss_size = fibre.stack.size();
      fibre.context.uc_link = nullptr;
      makecontext(&fibre.context, enter, 0);
    }
    for (bool left = true; left;) {
      left = false;
      for (int turn = 0; turn < threads; ++turn) {
        const int i = backwards ? threads - 1 - turn : turn;
        if (state.fibres[i]->done) continue;
        state.current = i;
        swapcontext(&state.scheduler, &state.fibres[i]->context);
        left = left || !state.fibres[i]->done;
      }
    }
  }
}

inline void carry_out(const Copy& copy) {
  if (copy.real)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

template <class E>
float half_of(uint32_t word, int which) {
  return to_float(E{static_cast<uint16_t>(word >> 16 * which)});
}

// The product as the instruction's documentation draws it, element by element.
template <class E>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  exchange(words, 6, [&](const uint32_t (*of)[16]) {
    const int lane = block->current % kLanes;
    for (int e = 0; e < 4; ++e) {
      const int i = lane / 4 + e / 2 * 8, n = lane % 4 * 2 + e % 2;
      for (int k = 0; k < 16; ++k) {
        const uint32_t from_a = of[i % 8 * 4 + k % 8 / 2][i / 8 + k / 8 * 2];
        const uint32_t from_b = of[n * 4 + k % 8 / 2][4 + k / 8];
        c[e] += half_of<E>(from_a, k % 2) * half_of<E>(from_b, k % 2);
      }
    }
  });
}

inline void load(uint32_t (&to)[4], const void* row, bool transposed) {
  require(reinterpret_cast<uintptr_t>(row) % 16 == 0, "a matrix row is not aligned to 16 bytes");
  uint32_t words[4];
  std::memcpy(words, row, 16);
  exchange(words, 4, [&](const uint32_t (*of)[16]) {
    const int lane = block->current % kLanes;
    const auto element = [&](int matrix, int r, int c) { return of[8 * matrix + r][c / 2] >> 16 * (c % 2) & 0xffffu; };
    for (int m = 0; m < 4; ++m) {
      const int g = lane / 4, p = lane % 4 * 2;
      to[m] = transposed ? element(m, p, g) | element(m, p + 1, g) << 16 : element(m, g, p) | element(m, g, p + 1) << 16;
    }
  });
}

}  // namespace emulator

EOKIT_DEVICE int thread_index() { return emulator::block->current; }
EOKIT_DEVICE int block_threads() { return emulator::block->threads; }
EOKIT_DEVICE int64_t block_index() { return emulator::block->index; }
EOKIT_DEVICE int64_t grid_blocks() { return emulator::block->grid; }
EOKIT_DEVICE void sync_block() { emulator::meet_block(); }
EOKIT_DEVICE float power_of_two(float x) { return std::exp2(x); }
EOKIT_DEVICE float log_of(float x) { return std::log(x); }
EOKIT_DEVICE void keep_order() {}
EOKIT_DEVICE int computed_here(int x) { return x; }

EOKIT_DEVICE float shuffle_xor(float x, int mask) {
  const uint32_t word = bits_of(x);
  float other = 0.0f;
  emulator::exchange(&word, 1, [&](const uint32_t (*of)[16]) {
    other = float_of(of[emulator::block->current % emulator::kLanes ^ mask][0]);
  });
  return other;
}
EOKIT_DEVICE uint32_t ballot(bool x) {
  const uint32_t word = x;
  uint32_t bits = 0;
  emulator::exchange(&word, 1, [&](const uint32_t (*of)[16]) {
    for (int i = 0; i < emulator::kLanes; ++i) bits |= of[i][0] << i;
  });
  return bits;
}

template <class E>
uint32_t pack(E, float low, float high) {
  E both[2];
  from_float(low, &both[0]);
  from_float(high, &both[1]);
  return both[0].bits | static_cast<uint32_t>(both[1].bits) << 16;
}
template <class E>
void multiply_add(E, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply_add<E>(c, a, b0, b1);
}
EOKIT_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) { emulator::load(to, row, false); }
EOKIT_DEVICE void load_transposed(uint32_t (&to)[4], const void* row) { emulator::load(to, row, true); }

template <int kBytes>
void copy_async(void* shared, const void* from, bool real) {
  emulator::require(reinterpret_cast<uintptr_t>(shared) % kBytes == 0, "a copy's target is not aligned");
  emulator::require(reinterpret_cast<uintptr_t>(from) % kBytes == 0, "a copy's source is not aligned");
  std::memset(shared, 255, kBytes);  // NaN until it has arrived
  emulator::self().open.push_back({shared, from, kBytes, real});
}
EOKIT_DEVICE void commit_copies() {
  emulator::self().groups.push_back(std::move(emulator::self().open));
  emulator::self().open.clear();
}
EOKIT_DEVICE void wait_for_copies(int pending) {
  auto& groups = emulator::self().groups;
  for (; static_cast<int>(groups.size()) > (pending < 0 ? 0 : pending > 3 ? 3 : pending); groups.erase(groups.begin()))
    for (const auto& copy : groups.front()) emulator::carry_out(copy);
}

}  // namespace eokit
