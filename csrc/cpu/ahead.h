// Asking memory for the rows of the next items while one is computed; included once per instruction set.
#pragma once

#include "packing.h"

namespace eokit {
namespace {

// Cache lines that the next group of items will want, asked for one by one and evenly in the steps of this group's loops.
// Asked for all at once they would hold up the loads that come after them: a core waits for some sixteen lines at a time.
//
// A group is a few heads side by side: runs of up to a KiB take less time than the short rows of one head, each far from
// the next (docs/decisions.md). The list has 32 bits a line, as it has to stay in the caches beside what is computed.
class Ahead {
 public:
  // How many heads to a group, for items of `rows` rows: as many as make runs of up to kRun bytes, and `most` bytes in all,
  // shared out evenly (six heads go three by three, not four and two).
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
    return (lines < most / kLine ? lines : most / kLine) + longest;
  }
  Ahead(float* memory, int64_t heads, int64_t most, int64_t longest)
      : begin_(reinterpret_cast<int32_t*>(memory)),
        next_(begin_),
        until_(begin_),
        end_(begin_),
        heads_(heads),
        most_(most / kLine),
        longest_(longest),
        origin_(reinterpret_cast<uintptr_t>(memory)) {
    pad();
  }

  // Heads of a group.
  int64_t heads() const { return heads_; }

  // Whether all items of a group had their turn.
  bool through() const { return turns_ == 0; }

  // How many items the last call asked for, from the present one on; none asked for the first.
  int64_t asked() const { return asked_; }

  // Wants these rows of one head and those of the heads behind it, `heads` in all, during the turns of the items that were
  // asked for before. The first items ask for fewer heads, as what they ask for is soon due. `anew`: these are other rows of
  // the tensors than at the last call.
  template <class... AnyRows>
  void want(int64_t heads, bool anew, const AnyRows&... rows) {
    finish();
    turns_ = asked_;
    asked_ = heads < reach_ ? heads : reach_;
    const int64_t listed = reach_ < heads_ ? asked_ : heads_;  // a smaller last group as well, or all would be listed anew
    if (reach_ < heads_) reach_ *= 2;
    const bool together = go_to(rows...);
    if (anew || !together || listed != listed_) {
      listed_ = listed;
      end_ = begin_;
      (append(rows), ...);
      pad();
    }
    next_ = until_ = begin_;
  }
  void want_nothing() {
    finish();
    turns_ = asked_;
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
    const int32_t* lines;
    uintptr_t origin;
    int64_t rate;
    EOKIT_INLINE void ask(int64_t step) const {
      asm("" : "+r"(step));  // a product in every step: a running one would take a register more, which there is not
      request(origin, lines[step * rate >> kFraction]);
    }
  };
  EOKIT_INLINE Share share(int64_t steps) {
    const Share share{next_, origin_, rate_};
    const int64_t lines = ((steps - 1) * rate_ >> kFraction) + 1;
    next_ = lines < until_ - next_ ? next_ + lines : until_;
    return share;
  }

 private:
  static constexpr int kLineBits = 6, kFraction = 16;
  static constexpr int64_t kLine = 1 << kLineBits, kRun = 1024;

  template <class E>
  static int64_t lines_of(int64_t elements) {
    return (elements * static_cast<int64_t>(sizeof(E)) + kLine - 1) / kLine;
  }

  EOKIT_INLINE static void request(uintptr_t origin, int64_t line) {
    __builtin_prefetch(reinterpret_cast<const void*>(origin + static_cast<uintptr_t>(line * kLine)), 0, 2);
  }

  // Takes the list to these tensors. Whether all of them lie as many bytes behind where they lay: what is listed then does
  // (to a line, if these are not whole lines).
  template <class... E>
  bool go_to(const Rows<E>&... rows) {
    static_assert(sizeof...(rows) <= sizeof tensors_ / sizeof *tensors_);
    const uintptr_t tensors[] = {reinterpret_cast<uintptr_t>(rows.data)...};
    const uintptr_t moved = tensors[0] - tensors_[0];
    bool together = end_ > begin_;
    for (size_t i = 0; i < sizeof...(rows); ++i) {
      together &= tensors[i] - tensors_[i] == moved;
      tensors_[i] = tensors[i];
    }
    origin_ = tensors[0] / kLine * kLine;
    return together;
  }

  // Lists the rows of a tensor, as far as they lie within 128 GiB of k.
  template <class E>
  void append(const Rows<E>& rows) {
    const bool adjacent = rows.next == rows.dim;
    const int64_t runs = adjacent ? 1 : listed_, lines = lines_of<E>(adjacent ? listed_ * rows.dim : rows.dim);
    for (int64_t r = 0; r < rows.count && end_ - begin_ + runs * lines <= most_; ++r)
      for (int64_t run = 0; run < runs; ++run) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(rows.at(r)) + static_cast<uintptr_t>(run * rows.next) * sizeof(E);
        const int64_t first = static_cast<int64_t>(address - origin_) >> kLineBits;
        if (first != static_cast<int32_t>(first)) return;
        for (int64_t line = 0; line < lines; ++line) *end_++ = static_cast<int32_t>(first + line);
      }
  }

  // Steps behind the last line ask for that one again.
  void pad() {
    const int32_t last = end_ > begin_ ? end_[-1] : 0;
    for (int64_t i = 0; i < longest_; ++i) end_[i] = last;
  }

  void finish() {  // with what no loop had a step for
    for (; next_ < until_; ++next_) request(origin_, *next_);
  }

  // Lines behind the origin.
  int32_t* begin_;
  int32_t* next_;
  int32_t* until_;  // where this turn ends
  int32_t* end_;
  int64_t heads_, most_, longest_;
  int64_t asked_ = 1, reach_ = 1, listed_ = 0;  // heads
  int64_t turns_ = 0;          // that are left
  uintptr_t origin_;           // the address of the line where k begins
  uintptr_t tensors_[5] = {};  // where k, v, q, grad_out and out lie
  int64_t rate_ = 0;           // lines a step, with so many bits behind the point
};

}  // namespace
}  // namespace eokit
