// Asking memory for the rows of the next item while this one is computed; included once per instruction set.
#pragma once

#include "packing.h"

namespace eokit {
namespace {

// Cache lines that the next item will want, asked for one by one and evenly in the steps of this item's loops. The rows
// of an item are too far apart for the hardware to foresee them. Asked for all at once they would hold up the loads that
// come after them: a core waits for some sixteen lines at a time.
class Ahead {
 public:
  static constexpr int64_t kMost = 8192;  // lines, half a MiB; of longer items the first ones

  // The memory it takes for so many rows of E; no loop has more than `longest` steps.
  template <class E>
  static int64_t floats(int64_t rows, int64_t dim, int64_t longest) {
    const int64_t lines = rows * lines_of<E>(dim);
    return 2 * ((lines < kMost ? lines : kMost) + longest);
  }
  Ahead(float* memory, int64_t longest)
      : begin_(reinterpret_cast<uintptr_t*>(memory)), next_(begin_), end_(begin_), longest_(longest) {}

  // Wants nothing any more.
  void clear() { list(); }

  // Wants what lies `next` behind each of these rows, which is asked for whether or not it is what comes next.
  template <class... AnyRows>
  void list(const AnyRows&... rows) {
    finish();
    next_ = end_ = begin_;
    offset_ = 0;
    (append(rows), ...);
    pad();
  }

  // Wants what lies `bytes` behind all that was wanted so far.
  void move(int64_t bytes) {
    finish();
    next_ = begin_;
    offset_ += static_cast<uintptr_t>(bytes);
  }

  // Whether the tensors of this item begin where the last call took them to: `bytes` behind its own. Remembers these.
  template <class... E>
  bool foresaw(int64_t bytes, const E*... begins) {
    static_assert(sizeof...(begins) <= sizeof foreseen_ / sizeof *foreseen_);
    uintptr_t* begin = foreseen_;
    bool all = true;
    const auto check = [&](uintptr_t address) {
      all &= *begin == address;
      *begin++ = address + static_cast<uintptr_t>(bytes);
    };
    (check(reinterpret_cast<uintptr_t>(begins)), ...);
    return all;
  }

  // Spreads the lines over loops that have `steps` steps in all.
  void spread(int64_t steps) {
    const int64_t lines = end_ - begin_;
    rate_ = lines < steps ? (lines << kFraction) / steps : int64_t{1} << kFraction;
  }

  // The lines for one loop of `steps` steps: `ask` belongs into each of them, and asks for some lines more than once.
  struct Share {
    const uintptr_t* lines;
    uintptr_t offset;
    int64_t rate;
    EOKIT_INLINE void ask(int64_t step) const {
      asm("" : "+r"(step));  // a product in every step: a running one would take a register more, which there is not
      __builtin_prefetch(reinterpret_cast<const void*>(lines[step * rate >> kFraction] + offset), 0, 2);
    }
  };
  EOKIT_INLINE Share share(int64_t steps) {
    const Share share{next_, offset_, rate_};
    const int64_t lines = ((steps - 1) * rate_ >> kFraction) + 1;
    next_ = lines < end_ - next_ ? next_ + lines : end_;
    return share;
  }

 private:
  static constexpr int kFraction = 16;

  template <class E>
  static int64_t lines_of(int64_t dim) {
    return (dim * static_cast<int64_t>(sizeof(E)) + 63) / 64;
  }

  template <class E>
  void append(const Rows<E>& rows) {
    const int64_t lines = lines_of<E>(rows.dim);
    for (int64_t r = 0; r < rows.count && end_ + lines <= begin_ + kMost; ++r) {
      const uintptr_t row = reinterpret_cast<uintptr_t>(rows.at(r)) + static_cast<uintptr_t>(rows.next) * sizeof(E);
      for (int64_t line = 0; line < lines; ++line) *end_++ = row + static_cast<uintptr_t>(line) * 64;
    }
  }

  // Steps behind the last line ask for that one again.
  void pad() {
    const uintptr_t last = end_ > begin_ ? end_[-1] : reinterpret_cast<uintptr_t>(begin_);
    for (int64_t i = 0; i < longest_; ++i) end_[i] = last;
  }

  void finish() {  // with what no loop had a step for
    for (; next_ < end_; ++next_) __builtin_prefetch(reinterpret_cast<const void*>(*next_ + offset_), 0, 2);
  }

  uintptr_t* begin_;
  uintptr_t* next_;
  uintptr_t* end_;
  int64_t longest_;
  uintptr_t offset_ = 0;
  uintptr_t foreseen_[5] = {};  // k, v, q, grad_out, out
  int64_t rate_ = 0;  // lines a step, with so many bits behind the point
};

}  // namespace
}  // namespace eokit
