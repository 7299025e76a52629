// Asking memory for the rows of the next items while one is computed; included once per instruction set.
#pragma once

#include "packing.h"

namespace eokit {
namespace {

// Cache lines that the next group of items will want, asked for one by one and evenly in the steps of this group's loops.
// Asked for all at once they would hold up the loads that come after them: a core waits for some sixteen lines at a time.
//
// A group is a few heads side by side. The rows of one item are too short, and too far apart, for the hardware to foresee
// them; of runs of a KiB it fetches most lines itself before they are asked for, without making the core wait.
class Ahead {
 public:
  // How many heads to a group, for items of `rows` rows: a run of about kRun bytes, and no more than `most` bytes in all.
  template <class E>
  static int64_t heads_of_group(int64_t rows, int64_t dim, int64_t heads, int64_t most) {
    if (rows * dim == 0) return 1;
    const int64_t bytes = lines_of<E>(dim) * kLine, by_run = kRun / bytes, by_size = most / (rows * bytes);
    const int64_t at_most = by_run < by_size ? by_run : by_size;
    if (at_most <= 1) return 1;
    const int64_t groups = (heads + at_most - 1) / at_most;
    return (heads + groups - 1) / groups;
  }

  // The memory it takes for groups of so many rows of E, `most` bytes in all; no loop has more than `longest` steps.
  template <class E>
  static int64_t floats(int64_t rows, int64_t dim, int64_t heads, int64_t most, int64_t longest) {
    const int64_t lines = rows * heads * lines_of<E>(dim);
    return 2 * ((lines < most / kLine ? lines : most / kLine) + longest);
  }
  Ahead(float* memory, int64_t heads, int64_t most, int64_t longest)
      : begin_(reinterpret_cast<uintptr_t*>(memory)),
        next_(begin_),
        until_(begin_),
        end_(begin_),
        heads_(heads),
        most_(most / kLine),
        longest_(longest) {
    pad();
  }

  // Heads of a group.
  int64_t heads() const { return heads_; }

  // Whether all items of a group had their turn.
  bool through() const { return turns_ == 0; }

  // Wants these rows, those of the first head of a group, and of its other heads, during the turns of `turns` items. `anew`:
  // they are not the rows of the last call, moved by as many bytes in all tensors.
  template <class... AnyRows>
  void want(int64_t turns, bool anew, const AnyRows&... rows) {
    finish();
    turns_ = turns;
    if (anew || !have_moved(rows...)) {
      end_ = begin_;
      offset_ = 0;
      (append(rows), ...);
      pad();
    }
    next_ = until_ = begin_;
  }
  void want_nothing(int64_t turns) {
    finish();
    turns_ = turns;
    next_ = until_ = end_;
  }

  // An item's turn to ask for its share, in loops that have `steps` steps in all.
  void turn(int64_t steps) {
    finish();
    until_ = next_ + (end_ - next_ + turns_ - 1) / turns_;
    --turns_;
    const int64_t lines = until_ - next_;
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
    next_ = lines < until_ - next_ ? next_ + lines : until_;
    return share;
  }

 private:
  static constexpr int64_t kLine = 64, kRun = 1024;
  static constexpr int kFraction = 16;

  template <class E>
  static int64_t lines_of(int64_t elements) {
    return (elements * static_cast<int64_t>(sizeof(E)) + kLine - 1) / kLine;
  }

  // Whether these tensors lie where those lie that are listed, all as many bytes further: the lines then do, too.
  template <class... E>
  bool have_moved(const Rows<E>&... rows) {
    static_assert(sizeof...(rows) <= sizeof listed_ / sizeof *listed_);
    const uintptr_t addresses[] = {reinterpret_cast<uintptr_t>(rows.data)...};
    offset_ = addresses[0] - listed_[0];
    bool all = end_ > begin_;
    for (size_t i = 0; i < sizeof...(rows); ++i) all &= addresses[i] - listed_[i] == offset_;
    if (!all)
      for (size_t i = 0; i < sizeof...(rows); ++i) listed_[i] = addresses[i];
    return all;
  }

  template <class E>
  void append(const Rows<E>& rows) {
    const bool adjacent = rows.next == rows.dim;
    const int64_t runs = adjacent ? 1 : heads_, lines = lines_of<E>(adjacent ? heads_ * rows.dim : rows.dim);
    for (int64_t r = 0; r < rows.count && end_ + runs * lines <= begin_ + most_; ++r)
      for (int64_t run = 0; run < runs; ++run) {
        const uintptr_t first = reinterpret_cast<uintptr_t>(rows.at(r) + run * rows.next);
        for (int64_t line = 0; line < lines; ++line) *end_++ = first + static_cast<uintptr_t>(line * kLine);
      }
  }

  // Steps behind the last line ask for that one again.
  void pad() {
    const uintptr_t last = end_ > begin_ ? end_[-1] : reinterpret_cast<uintptr_t>(begin_);
    for (int64_t i = 0; i < longest_; ++i) end_[i] = last;
  }

  void finish() {  // with what no loop had a step for
    for (; next_ < until_; ++next_) __builtin_prefetch(reinterpret_cast<const void*>(*next_ + offset_), 0, 2);
  }

  uintptr_t* begin_;
  uintptr_t* next_;
  uintptr_t* until_;  // where this turn ends
  uintptr_t* end_;
  int64_t heads_, most_, longest_;
  int64_t turns_ = 0;  // that are left
  uintptr_t offset_ = 0;
  uintptr_t listed_[5] = {};  // where k, v, q, grad_out and out lay when they were listed
  int64_t rate_ = 0;          // lines a step, with so many bits behind the point
};

}  // namespace
}  // namespace eokit
