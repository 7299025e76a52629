// The CPU implementation of eokit::norm_relu: rows are independent, so they are spread over threads.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "tensors.h"

namespace eokit {
namespace {

void check(const Tensor& z, const Tensor& weight, const Tensor& bias, int64_t groups) {
  STD_TORCH_CHECK(z.dim() == 2 && z.is_contiguous(), "z: expected contiguous (R, C)");
  STD_TORCH_CHECK(groups > 0 && z.size(1) % groups == 0, "groups: expected a divisor of ", z.size(1), ", found ", groups);
  for (const auto& [x, name] : {std::pair(&weight, "weight"), std::pair(&bias, "bias")})
    STD_TORCH_CHECK(x->scalar_type() == ScalarType::Float && x->is_contiguous() && x->numel() == z.size(1), name,
                    ": expected contiguous float32 (C)");
}

template <class E>
void fill(NormForward<E>& call, const Tensor& z, const Tensor& weight, const Tensor& bias, int64_t groups, double epsilon) {
  call.dim = z.size(1), call.groups = groups, call.epsilon = static_cast<float>(epsilon);
  call.z = data<E>(z), call.weight = data<float>(weight), call.bias = data<float>(bias);
}

void into(Tensor& out, const Tensor& z, const Tensor& weight, const Tensor& bias, int64_t groups, double epsilon) {
  check(z, weight, bias, groups);
  if (z.numel() == 0) return;
  with_elements_of(z, "z", [&](auto element) {
    using E = decltype(element);
    NormForward<E> call;
    fill<E>(call, z, weight, bias, groups, epsilon);
    call.out = data<E>(out);
    const auto run = of(kernels().norm, element).forward;
    torch::stable::parallel_for(0, z.size(0), std::max<int64_t>(1, 50000 / z.size(1)),
                                [&](int64_t begin, int64_t end) { run(call, begin, end); });
  });
}

Tensor norm_relu(Tensor z, Tensor weight, Tensor bias, int64_t groups, double epsilon) {
  Tensor out = torch::stable::empty_like(z);
  into(out, z, weight, bias, groups, epsilon);
  return out;
}

void norm_relu_in_place(Tensor z, Tensor weight, Tensor bias, int64_t groups, double epsilon) {
  into(z, z, weight, bias, groups, epsilon);
}

std::tuple<Tensor, Tensor, Tensor> norm_relu_backward(Tensor grad_out, Tensor z, Tensor weight, Tensor bias,
                                                      int64_t groups, double epsilon) {
  check(z, weight, bias, groups);
  STD_TORCH_CHECK(grad_out.scalar_type() == z.scalar_type() && grad_out.is_contiguous() && grad_out.numel() == z.numel(),
                  "grad_out: expected contiguous (R, C) of the dtype of z");
  Tensor grad_z = torch::stable::empty_like(z);
  Tensor grad_weight = torch::stable::empty_like(weight), grad_bias = torch::stable::empty_like(bias);
  with_elements_of(z, "z", [&](auto element) {
    using E = decltype(element);
    NormBackward<E> call;
    fill<E>(call, z, weight, bias, groups, epsilon);
    call.grad_out = data<E>(grad_out), call.grad_z = data<E>(grad_z);
    const auto run = of(kernels().norm, element).backward;
    const int64_t dim = z.size(1);
    std::vector<float> sums(2 * dim);
    sum_in_parts(z.size(0), 2 * dim, sums.data(), [&](float* part, int64_t begin, int64_t end) {
      NormBackward<E> mine = call;
      mine.grad_weight = part, mine.grad_bias = part + dim;
      run(mine, begin, end);
    });
    std::copy_n(sums.data(), dim, data<float>(grad_weight));
    std::copy_n(sums.data() + dim, dim, data<float>(grad_bias));
  });
  return {grad_z, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eokit, CPU, m) {
  m.impl("norm_relu", TORCH_BOX(&norm_relu));
  m.impl("norm_relu_", TORCH_BOX(&norm_relu_in_place));
  m.impl("norm_relu_backward", TORCH_BOX(&norm_relu_backward));
}

}  // namespace eokit
