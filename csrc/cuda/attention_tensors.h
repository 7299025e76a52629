// Torch tensors as the views that the CUDA attention kernels take, checked; shared by forward and backward.
#pragma once

#include "attention.h"
#include "tensors.h"

namespace eokit {

inline int64_t last(const Tensor& x) { return x.dim() - 1; }

template <class T>
Sequences<T> strided(const Tensor& x, T* data, int64_t rows_at, int64_t heads_at) {
  const auto stride = [&](int64_t d) { return x.size(d) == 1 ? 0 : x.stride(d); };
  Sequences<T> view{data, stride(rows_at), heads_at < 0 ? 0 : stride(heads_at), {}};
  const int64_t leading = heads_at < 0 ? rows_at : std::min(rows_at, heads_at);
  for (int64_t d = 0; d < leading; ++d) view.leading[d] = stride(d);
  return view;
}

// (..., L, H, D)
template <class E>
Sequences<const E> input(const Tensor& x) {
  return strided(x, data<E>(x), last(x) - 2, last(x) - 1);
}
template <class E>
Sequences<E> output(Tensor& x) {
  return strided(x, data<E>(x), last(x) - 2, last(x) - 1);
}
// (..., Lk)
inline Sequences<const bool> mask_input(const std::optional<Tensor>& mask) {
  return mask ? strided(*mask, mask->const_data_ptr<bool>(), last(*mask), -1) : Sequences<const bool>();
}
// (..., H, Lk, Lq), contiguous; dimensions of one element are shared
template <class T>
Sequences<T> bias_view(const Tensor& bias_t, T* data) {
  Sequences<T> view = strided(bias_t, data, last(bias_t) - 1, last(bias_t) - 2);
  view.row = bias_t.size(last(bias_t));
  return view;
}
inline Sequences<const float> bias_input(const std::optional<Tensor>& bias_t) {
  return bias_t ? bias_view(*bias_t, bias_t->const_data_ptr<float>()) : Sequences<const float>();
}

// Bytes that the rows of every one of `tensors` can be accessed by.
inline int width_of(std::initializer_list<const Tensor*> tensors) {
  int width = 16;
  for (const Tensor* x : tensors) {
    width = std::min(width, common_width({address_of(x->const_data_ptr()), 2 * x->size(last(*x))}));
    for (int64_t d = 0; d < last(*x); ++d)
      if (x->size(d) != 1) width = std::min(width, common_width({2 * x->stride(d)}));
  }
  return width;
}

inline void check_like(const Tensor& x, const char* name, const Tensor& q) {
  check_gpu(x, name, q, "q");
  STD_TORCH_CHECK(x.scalar_type() == q.scalar_type(), name, ": expected the dtype of q");
  STD_TORCH_CHECK(x.dim() == q.dim() && x.dim() >= 3 && x.dim() - 3 <= kMaxLeading, name, ": found ", x.dim(),
                  " dimensions, expected those of q, 3 to ", kMaxLeading + 3);
  STD_TORCH_CHECK(x.numel() == 0 || x.size(last(x)) == 1 || x.stride(last(x)) == 1, name,
                  ": expected a contiguous last dimension");
  for (int64_t d = 0; d < x.dim(); ++d)
    STD_TORCH_CHECK(d == x.dim() - 3 || x.size(d) == q.size(d), name, ": dimension ", d, " has ", x.size(d),
                    " elements, expected ", q.size(d), " as in q");
}

inline void check_mask(const Tensor& mask, const AttentionShape& shape) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, "key_mask: expected bool");
  STD_TORCH_CHECK(mask.dim() == shape.leading.count + 1 && mask.size(last(mask)) == shape.keys,
                  "key_mask: expected shape (..., Lk)");
  for (int d = 0; d < shape.leading.count; ++d)
    STD_TORCH_CHECK(mask.size(d) == shape.leading.sizes[d], "key_mask: expected the leading dimensions of k");
}

inline void check_bias(const Tensor& bias_t, const AttentionShape& shape) {
  STD_TORCH_CHECK(bias_t.scalar_type() == ScalarType::Float && bias_t.is_contiguous(),
                  "bias_t: expected contiguous float32");
  STD_TORCH_CHECK(bias_t.dim() == shape.leading.count + 3 && bias_t.size(last(bias_t)) == shape.queries &&
                      bias_t.size(last(bias_t) - 1) == shape.keys,
                  "bias_t: expected shape (..., H, Lk, Lq)");
  STD_TORCH_CHECK(int64_t{shape.keys} * shape.queries < int64_t{1} << 31, "bias_t: expected Lk Lq < 2^31; use sdpa");
  for (int64_t d = 0; d < bias_t.dim() - 2; ++d) {
    const int64_t whole = d < shape.leading.count ? shape.leading.sizes[d] : shape.heads;
    STD_TORCH_CHECK(bias_t.size(d) == 1 || bias_t.size(d) == whole, "bias_t: expected 1 or ", whole,
                    " elements in dimension ", d);
  }
}

inline AttentionShape checked_shape(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                                    const std::optional<Tensor>& bias_t, double scale) {
  check_gpu(q, "q");
  check_gpu(mask, "key_mask", q, "q");
  check_gpu(bias_t, "bias_t", q, "q");
  check_like(q, "q", q);
  check_like(k, "k", q);
  check_like(v, "v", q);
  STD_TORCH_CHECK(q.scalar_type() == ScalarType::BFloat16 || q.scalar_type() == ScalarType::Half,
                  "q: expected bfloat16 or float16, which tensor cores take without loss; use sdpa for other dtypes");
  STD_TORCH_CHECK(q.size(last(q)) <= 128, "q: found ", q.size(last(q)), " features a head, expected 128 at most; use sdpa");
  const int64_t most = int64_t{1} << 30;
  STD_TORCH_CHECK(q.size(last(q) - 2) < most && k.size(last(k) - 2) < most, "q, k: expected fewer than 2^30 tokens");
  STD_TORCH_CHECK(v.size(last(v) - 2) == k.size(last(k) - 2), "v: expected as many keys as k");
  AttentionShape shape;
  shape.leading.count = static_cast<int>(q.dim() - 3);
  for (int d = 0; d < shape.leading.count; ++d) shape.leading.sizes[d] = q.size(d);
  shape.queries = static_cast<int>(q.size(last(q) - 2));
  shape.keys = static_cast<int>(k.size(last(k) - 2));
  shape.heads = static_cast<int>(q.size(last(q) - 1));
  shape.dim = static_cast<int>(q.size(last(q)));
  shape.scale = static_cast<float>(scale);
  if (mask) check_mask(*mask, shape);
  if (bias_t) check_bias(*bias_t, shape);
  return shape;
}

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Calls `work` with an element of the kind that q holds and the width that its `dim` features are padded to.
template <class Element, class Work>
void with_width_of(Element element, int dim, const Work& work) {
  if (dim <= 16) return work(element, Constant<16>());
  if (dim <= 32) return work(element, Constant<32>());
  if (dim <= 48) return work(element, Constant<48>());
  if (dim <= 64) return work(element, Constant<64>());
  if (dim <= 96) return work(element, Constant<96>());
  return work(element, Constant<128>());
}
template <class Work>
void with_tiles_of(const Tensor& q, int dim, const Work& work) {
  if (q.scalar_type() == ScalarType::BFloat16) return with_width_of(BFloat16{}, dim, work);
  return with_width_of(Float16{}, dim, work);
}

// Bytes of shared memory that a block of the GPU may ask for.
inline int most_shared(int device) {
  int most = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return most;
}

// Shared memory beyond 48 KiB must be asked for; the plans of both kernels stay within what the GPU has.
template <class Kernel>
void allow_shared(Kernel* kernel, int64_t bytes) {
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

inline unsigned checked_blocks(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= kMostBlocks, "attention: found ", blocks, " sequences times heads, expected 2^31 - 1 at most");
  return static_cast<unsigned>(blocks);
}

}  // namespace eokit
