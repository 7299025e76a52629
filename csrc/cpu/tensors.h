// What the CPU implementations of all ops share on the side of torch.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <vector>

#include "../common/tensors.h"
#include "kernels.h"

namespace eokit {

inline int64_t bytes(const Tensor& x) { return x.numel() * static_cast<int64_t>(x.element_size()); }

// `fresh`, new and not yet written, with a hint that its memory be mapped in huge pages: the first touch of every 4 KiB
// costs about a microsecond, more than what is written there. As numpy, from 4 MiB on.
inline Tensor in_huge_pages(Tensor fresh) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 4096, kLeast = uintptr_t{4} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t size = static_cast<uintptr_t>(bytes(fresh));
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + size) / kPage * kPage;
  if (size >= kLeast) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return fresh;
}

// Whether results of so many bytes are written past the caches. A store through them first reads the line that it
// overwrites, and so waits for memory; one past them makes whoever reads the results wait. From 6 MiB on, three times the
// second-level cache where it was measured, an op and a linear layer behind it took less time together.
inline bool past_caches(int64_t bytes) { return bytes >= int64_t{6} << 20; }

// result (size) = the sum over parts, in order, of what `work(sums, begin, end)` adds to its own zeros (size) for the
// items begin <= i < end: the same bits for any number of threads.
template <class Work>
void sum_in_parts(int64_t items, int64_t size, float* result, const Work& work) {
  const int64_t parts = parts_of(items, size);
  std::vector<float> sums(parts * size);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      work(sums.data() + part * size, part * items / parts, (part + 1) * items / parts);
  });
  torch::stable::parallel_for(0, size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double sum = 0.0;  // a float would round a sum that has grown large with every part
      for (int64_t part = 0; part < parts; ++part) sum += sums[part * size + i];
      result[i] = static_cast<float>(sum);
    }
  });
}

}  // namespace eokit
