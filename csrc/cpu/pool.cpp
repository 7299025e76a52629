// The CPU implementation of eokit::pool_*: torch tensors become pointers, and the best kernels of this CPU run on them.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "tensors.h"

namespace eokit {
namespace {

bool is_float(const Tensor& x) { return x.scalar_type() == ScalarType::Float && x.is_contiguous(); }

PoolShape checked_shape(const Tensor& x, const Tensor& queries, const Tensor& bias, const Tensor& positions,
                        const std::optional<Tensor>& mask) {
  STD_TORCH_CHECK(x.dim() == 3 && (x.numel() == 0 || x.size(2) == 1 || x.stride(2) == 1),
                  "x: expected (P, T, D) with a contiguous last dimension");
  PoolShape shape;
  shape.pixels = x.size(0), shape.dates = x.size(1), shape.dim = x.size(2);
  STD_TORCH_CHECK(is_float(queries) && queries.dim() == 2 && queries.size(1) == shape.dim && queries.size(0) > 0 &&
                      shape.dim % queries.size(0) == 0,
                  "queries: expected contiguous float32 (H, D), D divisible by H");
  shape.heads = queries.size(0);
  STD_TORCH_CHECK(is_float(bias) && bias.dim() == 3 && bias.size(1) == shape.dates && bias.size(2) == shape.heads,
                  "bias: expected contiguous float32 (S, T, H)");
  shape.samples = bias.size(0);
  STD_TORCH_CHECK(shape.samples > 0 && shape.pixels % shape.samples == 0, "bias: expected samples that divide the pixels");
  STD_TORCH_CHECK(is_float(positions) && positions.dim() == 3 && positions.size(0) == shape.samples &&
                      positions.size(1) == shape.dates && positions.size(2) == shape.dim / shape.heads,
                  "positions: expected contiguous float32 (S, T, D / H)");
  STD_TORCH_CHECK(!mask || (mask->scalar_type() == ScalarType::Bool && mask->dim() == 2 && mask->is_contiguous() &&
                            mask->size(0) == shape.pixels && mask->size(1) == shape.dates),
                  "mask: expected contiguous bool (P, T)");
  return shape;
}

template <class E>
void fill(PoolInputs<E>& call, const PoolShape& shape, const Tensor& x, const Tensor& queries, const Tensor& bias,
          const Tensor& positions, const std::optional<Tensor>& mask) {
  call.shape = shape;
  call.x = data<E>(x), call.x_pixel = x.stride(0), call.x_date = x.stride(1);
  call.queries = data<float>(queries), call.bias = data<float>(bias), call.positions = data<float>(positions);
  call.mask = mask ? mask->const_data_ptr<bool>() : nullptr;
}

std::tuple<Tensor, Tensor> pool_forward(Tensor x, Tensor queries, Tensor bias, Tensor positions,
                                        std::optional<Tensor> mask) {
  const PoolShape shape = checked_shape(x, queries, bias, positions, mask);
  Tensor out = in_huge_pages(torch::stable::new_empty(x, {shape.pixels, shape.dim}));
  Tensor lse = torch::stable::new_empty(x, {shape.pixels, shape.heads}, ScalarType::Float);
  if (out.numel() == 0) return {out, lse};
  with_elements_of(x, "x", [&](auto element) {
    using E = decltype(element);
    PoolForward<E> call;
    fill<E>(call, shape, x, queries, bias, positions, mask);
    call.out = data<E>(out), call.lse = data<float>(lse);
    const auto run = of(kernels().pool, element).forward;
    const int64_t work = std::max<int64_t>(shape.dates, 1) * shape.dim * shape.heads;
    torch::stable::parallel_for(0, shape.pixels, std::max<int64_t>(1, 2000000 / work),
                                [&](int64_t begin, int64_t end) { run(call, begin, end); });
  });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> pool_backward(Tensor grad_out, Tensor x, Tensor queries, Tensor bias,
                                                 Tensor positions, std::optional<Tensor> mask, Tensor lse) {
  const PoolShape shape = checked_shape(x, queries, bias, positions, mask);
  STD_TORCH_CHECK(grad_out.scalar_type() == x.scalar_type() && grad_out.is_contiguous() && grad_out.dim() == 2 &&
                      grad_out.size(0) == shape.pixels && grad_out.size(1) == shape.dim,
                  "grad_out: expected contiguous (P, D) of the dtype of x");
  STD_TORCH_CHECK(is_float(lse) && lse.numel() == shape.pixels * shape.heads, "lse: expected it as pool_forward returned it");
  Tensor grad_x = in_huge_pages(torch::stable::new_empty(x, {shape.pixels, shape.dates, shape.dim}));
  Tensor grad_queries = torch::stable::empty_like(queries), grad_bias = torch::stable::empty_like(bias);
  with_elements_of(x, "x", [&](auto element) {
    using E = decltype(element);
    PoolBackward<E> call;
    fill<E>(call, shape, x, queries, bias, positions, mask);
    call.lse = data<float>(lse), call.grad_out = data<E>(grad_out), call.grad_x = data<E>(grad_x);
    call.past_caches = past_caches(bytes(grad_x));
    const auto run = of(kernels().pool, element).backward;
    const int64_t of_queries = queries.numel(), of_bias = bias.numel();
    std::vector<float> sums(of_queries + of_bias);
    sum_in_parts(shape.pixels, of_queries + of_bias, sums.data(), [&](float* part, int64_t begin, int64_t end) {
      PoolBackward<E> mine = call;
      mine.grad_queries = part, mine.grad_bias = part + of_queries;
      run(mine, begin, end);
    });
    std::copy_n(sums.data(), of_queries, data<float>(grad_queries));
    std::copy_n(sums.data() + of_queries, of_bias, data<float>(grad_bias));
  });
  return {grad_x, grad_queries, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("pool_forward", TORCH_BOX(&pool_forward));
  m.impl("pool_backward", TORCH_BOX(&pool_backward));
}

}  // namespace eokit
