// The CPU implementation of eokit::attention_*: torch tensors become views, and the best kernels of this CPU run on them.
#include <torch/csrc/stable/library.h>

#ifdef __linux__
#include <unistd.h>
#endif

#include <optional>
#include <tuple>

#include "tensors.h"

namespace eokit {
namespace {

int64_t last(const Tensor& x) { return x.dim() - 1; }

bool rows_are_contiguous(const Tensor& x) {
  return x.numel() == 0 || x.size(last(x)) == 1 || x.stride(last(x)) == 1;
}

template <class T>
Sequences<T> sequences(const Tensor& x, T* data) {
  const int64_t leading = x.dim() - 3;
  Sequences<T> view{data, x.stride(leading), x.stride(leading + 1), {}};
  for (int64_t d = 0; d < leading; ++d) view.leading[d] = x.stride(d);
  return view;
}

template <class E>
Sequences<const E> input(const Tensor& x) {
  return sequences(x, data<E>(x));
}
template <class E>
Sequences<E> output(Tensor& x) {
  return sequences(x, data<E>(x));
}

KeyMask key_mask(const std::optional<Tensor>& mask) {
  KeyMask view;
  if (!mask) return view;
  const int64_t leading = mask->dim() - 1;
  view.valid.data = mask->const_data_ptr<bool>();
  view.valid.row = mask->stride(leading);
  for (int64_t d = 0; d < leading; ++d) view.valid.leading[d] = mask->stride(d);
  return view;
}

// (..., H, Lk, Lq), dimensions of one element are shared.
template <class T>
Sequences<T> bias_view(const Tensor& bias_t, T* data) {
  const int64_t leading = bias_t.dim() - 3;
  const auto stride = [&](int64_t d) { return bias_t.size(d) == 1 ? 0 : bias_t.stride(d); };
  Sequences<T> view{data, bias_t.size(last(bias_t)), stride(leading), {}};
  for (int64_t d = 0; d < leading; ++d) view.leading[d] = stride(d);
  return view;
}

Sequences<const float> bias_input(const std::optional<Tensor>& bias_t) {
  return bias_t ? bias_view(*bias_t, bias_t->const_data_ptr<float>()) : Sequences<const float>();
}

void check(const Tensor& x, const char* name, const Tensor& q) {
  STD_TORCH_CHECK(x.scalar_type() == q.scalar_type(), name, ": expected the dtype of q");
  STD_TORCH_CHECK(x.is_cpu(), name, ": expected a CPU tensor");
  STD_TORCH_CHECK(rows_are_contiguous(x), name, ": expected a contiguous last dimension");
  STD_TORCH_CHECK(x.dim() == q.dim() && x.dim() >= 3 && x.dim() - 3 <= kMaxLeading, name, ": found ", x.dim(),
                  " dimensions, expected those of q, 3 to ", kMaxLeading + 3);
  for (int64_t d = 0; d < x.dim(); ++d)
    STD_TORCH_CHECK(d == x.dim() - 3 || x.size(d) == q.size(d), name, ": dimension ", d, " has ", x.size(d),
                    " elements, expected ", q.size(d), " as in q");
}

void check_like(const Tensor& x, const char* name, const Tensor& q) {
  check(x, name, q);
  const int64_t queries = x.dim() - 3;
  STD_TORCH_CHECK(x.size(queries) == q.size(queries), name, ": found ", x.size(queries), " queries, expected ",
                  q.size(queries), " as in q");
}

AttentionShape checked_shape(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                             const std::optional<Tensor>& bias_t, double scale) {
  check(q, "q", q);
  check(k, "k", q);
  check(v, "v", q);
  AttentionShape shape;
  shape.leading.count = static_cast<int>(q.dim() - 3);
  for (int d = 0; d < shape.leading.count; ++d) shape.leading.sizes[d] = q.size(d);
  shape.queries = q.size(last(q) - 2);
  shape.keys = k.size(last(k) - 2);
  shape.heads = q.size(last(q) - 1);
  shape.dim = q.size(last(q));
  shape.scale = static_cast<float>(scale);
  STD_TORCH_CHECK(v.size(last(v) - 2) == shape.keys, "v: found ", v.size(last(v) - 2), " keys, expected ", shape.keys, " as in k");
  if (mask) {
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool && mask->is_cpu(), "key_mask: expected bool on the CPU");
    STD_TORCH_CHECK(mask->dim() == q.dim() - 2 && mask->size(last(*mask)) == shape.keys, "key_mask: expected shape (..., Lk)");
    for (int d = 0; d < shape.leading.count; ++d)
      STD_TORCH_CHECK(mask->size(d) == shape.leading.sizes[d], "key_mask: expected the leading dimensions of k");
  }
  if (bias_t) {
    STD_TORCH_CHECK(bias_t->scalar_type() == ScalarType::Float && bias_t->is_contiguous() && bias_t->is_cpu(),
                    "bias_t: expected contiguous float32 on the CPU");
    STD_TORCH_CHECK(bias_t->dim() == q.dim() && bias_t->size(last(q)) == shape.queries &&
                        bias_t->size(last(q) - 1) == shape.keys,
                    "bias_t: expected shape (..., H, Lk, Lq)");
    for (int64_t d = 0; d < q.dim() - 2; ++d) {
      const int64_t whole = d < shape.leading.count ? shape.leading.sizes[d] : shape.heads;
      STD_TORCH_CHECK(bias_t->size(d) == 1 || bias_t->size(d) == whole, "bias_t: expected 1 or ", whole,
                      " elements in dimension ", d);
    }
  }
  return shape;
}

int64_t items_of(const AttentionShape& shape) { return shape.leading.total() * shape.heads; }

// Spreads the items, or `parts` of each, over torch's threads; a thread gets at least some 50 microseconds of work.
template <class Kernel>
void spread(const AttentionShape& shape, int64_t parts, const Kernel& kernel) {
  const int64_t work = std::max<int64_t>(shape.queries * shape.keys, 1) * std::max<int64_t>(shape.dim, 1) / parts;
  torch::stable::parallel_for(0, items_of(shape) * parts, std::max<int64_t>(1, 500000 / std::max<int64_t>(work, 1)),
                              kernel);
}

// How many parts the queries of an item are split into: one, unless the items are fewer than the threads could do with.
int64_t parts_of_items(const AttentionShape& shape) {
  const int64_t items = items_of(shape), wanted = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t panels = (shape.queries + kPanel - 1) / kPanel;
  return std::clamp<int64_t>((wanted + items - 1) / std::max<int64_t>(items, 1), 1, std::max<int64_t>(panels, 1));
}

// How much may be asked of memory ahead: a quarter of the second-level cache, as what is asked for and what was asked for
// before are there together, with the working memory; kAhead at least, and where the system does not tell; 1 MiB at most.
int64_t bytes_ahead() {
  static const int64_t bytes = [] {
    int64_t cache = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return std::clamp<int64_t>(cache / 4, kAhead, int64_t{1} << 20);
  }();
  return bytes;
}

std::tuple<Tensor, Tensor> attention_forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> mask,
                                             std::optional<Tensor> bias_t, double scale) {
  const AttentionShape shape = checked_shape(q, k, v, mask, bias_t, scale);
  Tensor out = in_huge_pages(torch::stable::empty_like(q));
  std::vector<int64_t> lse_shape(shape.leading.sizes, shape.leading.sizes + shape.leading.count);
  lse_shape.insert(lse_shape.end(), {shape.heads, shape.queries});
  Tensor lse = torch::stable::new_empty(q, lse_shape, ScalarType::Float);
  if (lse.numel() == 0) return {out, lse};

  with_elements_of(q, "q", [&](auto element) {
    using E = decltype(element);
    AttentionForward<E> call;
    call.shape = shape;
    call.q = input<E>(q), call.k = input<E>(k), call.v = input<E>(v);
    call.mask = key_mask(mask);
    call.bias = bias_input(bias_t);
    call.out = output<E>(out);
    call.past_caches = past_caches(bytes(out));
    call.ahead = bytes_ahead();
    call.lse = lse.mutable_data_ptr<float>();
    const auto run = attention_kernels_of(element).forward;
    call.parts = parts_of_items(shape);
    spread(shape, call.parts, [&](int64_t begin, int64_t end) { run(call, begin, end); });
  });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v,
                                                              std::optional<Tensor> mask, std::optional<Tensor> bias_t,
                                                              Tensor out, Tensor lse, double scale, bool with_bias) {
  const AttentionShape shape = checked_shape(q, k, v, mask, bias_t, scale);
  if (!rows_are_contiguous(grad_out)) grad_out = torch::stable::contiguous(grad_out);  // of a sum: all strides are 0
  check_like(grad_out, "grad_out", q);
  check_like(out, "out", q);
  STD_TORCH_CHECK(lse.scalar_type() == ScalarType::Float && lse.is_contiguous() && lse.is_cpu() &&
                      lse.numel() * std::max<int64_t>(shape.dim, 1) >= q.numel(),
                  "lse: expected it as attention_forward returned it");
  STD_TORCH_CHECK(!with_bias || bias_t, "with_bias: expected False, as there is no bias_t");
  Tensor grad_q = in_huge_pages(torch::stable::empty_like(q));
  Tensor grad_k = in_huge_pages(torch::stable::empty_like(k));
  Tensor grad_v = in_huge_pages(torch::stable::empty_like(v));
  Tensor grad_bias_t = with_bias ? torch::stable::empty_like(*bias_t) : torch::stable::new_empty(q, {0}, ScalarType::Float);
  if (with_bias) torch::stable::zero_(grad_bias_t);
  if (grad_k.numel() == 0 && grad_q.numel() == 0) return {grad_q, grad_k, grad_v, grad_bias_t};

  with_elements_of(q, "q", [&](auto element) {
    using E = decltype(element);
    AttentionBackward<E> call;
    call.shape = shape;
    call.grad_out = input<E>(grad_out), call.out = input<E>(out);
    call.q = input<E>(q), call.k = input<E>(k), call.v = input<E>(v);
    call.mask = key_mask(mask);
    call.bias = bias_input(bias_t);
    call.lse = lse.const_data_ptr<float>();
    call.grad_q = output<E>(grad_q), call.grad_k = output<E>(grad_k), call.grad_v = output<E>(grad_v);
    call.past_caches = past_caches(bytes(grad_q) + bytes(grad_k) + bytes(grad_v));
    call.ahead = bytes_ahead();
    const KernelPair<E>& kernels = attention_kernels_of(element);
    const int64_t items = items_of(shape), size = grad_bias_t.numel();
    if (with_bias) call.grad_bias = bias_view(grad_bias_t, grad_bias_t.mutable_data_ptr<float>());
    if (with_bias && size < items * shape.keys * shape.queries)  // shared
      sum_in_parts(items, size, call.grad_bias.data, [&](float* sums, int64_t begin, int64_t end) {
        AttentionBackward<E> mine = call;
        mine.grad_bias.data = sums;
        kernels.backward(mine, begin, end);
      });
    else
      spread(shape, 1, [&](int64_t begin, int64_t end) { kernels.backward(call, begin, end); });
  });
  return {grad_q, grad_k, grad_v, grad_bias_t};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

}  // namespace eokit
