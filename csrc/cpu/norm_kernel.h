// Group norm and ReLU of a row while it is in L1; included once per instruction set.
#pragma once

#include <cmath>
#include <cstdint>

#include "lanes.h"
#include "norm.h"

namespace eokit {
namespace {

struct Moments {
  float mean, scale;  // scale: 1 / sqrt(variance + epsilon)
};

template <class V, class E>
EOKIT_INLINE Moments moments(const E* z, int64_t length, float epsilon) {
  using Reg = typename V::Reg;
  Reg sum = V::zero();
  along<V>(length, [&](int64_t j, int n) { sum = V::add(sum, load_lanes<V>(z + j, n)); });
  const float mean = total<V>(sum) / static_cast<float>(length);
  Reg squares = V::zero();
  along<V>(length, [&](int64_t j, int n) {
    const Reg off = V::sub(load_lanes<V>(z + j, n), first_lanes<V>(mean, n));
    squares = V::fma(off, off, squares);
  });
  return {mean, 1.0f / std::sqrt(total<V>(squares) / static_cast<float>(length) + epsilon)};
}

template <class V, class E>
void norm_forward(const NormForward<E>& call, int64_t begin, int64_t end) {
  using Reg = typename V::Reg;
  const int64_t length = call.dim / call.groups;
  for (int64_t row = begin; row < end; ++row)
    for (int64_t first = 0; first < call.dim; first += length) {
      const E* z = call.z + row * call.dim + first;
      E* out = call.out + row * call.dim + first;
      const Moments of = moments<V>(z, length, call.epsilon);
      const Reg mean = V::set(of.mean), scale = V::set(of.scale);
      along<V>(length, [&](int64_t j, int n) {
        const Reg factor = V::mul(scale, load_lanes<V>(call.weight + first + j, n));
        const Reg y = V::fma(V::sub(load_lanes<V>(z + j, n), mean), factor, load_lanes<V>(call.bias + first + j, n));
        // This order of the two lets a NaN through.
        store_lanes<V>(out + j, V::max(V::zero(), y), n);
      });
    }
}

// With n = (z - mean) scale and g = grad_out weight where out > 0: grad_z = scale (g - mean(g) - n mean(g n)).
template <class V, class E>
void norm_backward(const NormBackward<E>& call, int64_t begin, int64_t end) {
  using Reg = typename V::Reg;
  const int64_t length = call.dim / call.groups;
  for (int64_t row = begin; row < end; ++row)
    for (int64_t first = 0; first < call.dim; first += length) {
      const E *z = call.z + row * call.dim + first, *grad = call.grad_out + row * call.dim + first;
      const float *weight = call.weight + first, *bias = call.bias + first;
      float *grad_weight = call.grad_weight + first, *grad_bias = call.grad_bias + first;
      E* grad_z = call.grad_z + row * call.dim + first;
      const Moments of = moments<V>(z, length, call.epsilon);
      const Reg mean = V::set(of.mean), scale = V::set(of.scale);
      // n, and grad_out where the ReLU let it through; lanes beyond the group are 0 in the latter.
      const auto at = [&](int64_t j, int n, Reg* normed) {
        *normed = V::mul(V::sub(load_lanes<V>(z + j, n), mean), scale);
        const Reg y = V::fma(*normed, load_lanes<V>(weight + j, n), load_lanes<V>(bias + j, n));
        return V::where_positive(y, load_lanes<V>(grad + j, n));
      };
      Reg sum = V::zero(), product = V::zero();
      along<V>(length, [&](int64_t j, int n) {
        Reg normed;
        const Reg let = at(j, n, &normed), g = V::mul(let, load_lanes<V>(weight + j, n));
        sum = V::add(sum, g);
        product = V::fma(g, normed, product);
        store_lanes<V>(grad_weight + j, V::fma(let, normed, load_lanes<V>(grad_weight + j, n)), n);
        store_lanes<V>(grad_bias + j, V::add(let, load_lanes<V>(grad_bias + j, n)), n);
      });
      const Reg mean_g = V::set(total<V>(sum) / static_cast<float>(length));
      const Reg mean_product = V::set(-total<V>(product) / static_cast<float>(length));
      along<V>(length, [&](int64_t j, int n) {
        Reg normed;
        const Reg g = V::mul(at(j, n, &normed), load_lanes<V>(weight + j, n));
        store_lanes<V>(grad_z + j, V::mul(scale, V::fma(normed, mean_product, V::sub(g, mean_g))), n);
      });
    }
}

template <class V, class E>
constexpr NormKernelsOf<E> norm_kernels_of() {
  return {norm_forward<V, E>, norm_backward<V, E>};
}

template <class V>
constexpr NormKernels norm_kernels() {
  return {norm_kernels_of<V, float>(), norm_kernels_of<V, BFloat16>(), norm_kernels_of<V, Float16>()};
}

}  // namespace
}  // namespace eokit
