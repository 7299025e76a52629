// Temporal pooling of one pixel at a time, its dates in L2; included once per instruction set.
//
//   scores (T, H) = X U^T + bias        a = softmax over the valid dates        out_h = sum_t a_th (x_th + position_t)
//
// Lanes run along heads in the scores and along features elsewhere. Dates that are masked are left out when X is packed.
//   backward   da_th = grad_h (x_th + position_t),  ds = a (da - sum_t a da)
//              dX = ds U + a grad,  dU = sum over pixels of ds^T X,  dbias = sum over the pixels of a sample of ds
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../common/math.h"
#include "lanes.h"
#include "matmul.h"
#include "pool.h"

namespace eokit {
namespace {

// The working memory of one thread and the pixel in it.
template <class V, class E>
class Pixel {
 public:
  explicit Pixel(const PoolInputs<E>& call)
      : call_(call),
        shape_(call.shape),
        width(round_up(shape_.dim, V::kWidth)),
        lanes(round_up(shape_.heads, V::kWidth)),
        scratch_(shape_.dates * (width + lanes + 2) + 2 * shape_.dim * lanes),
        rows_(reinterpret_cast<int64_t*>(scratch_.take(2 * shape_.dates))),
        x(scratch_.take(shape_.dates * width)),
        weights(scratch_.take(shape_.dates * lanes)),
        queries_(scratch_.take(shape_.dim * lanes)) {
    for (int64_t d = 0; d < shape_.dim; ++d)
      for (int64_t h = 0; h < lanes; ++h)
        queries_[d * lanes + h] = h < shape_.heads ? call.queries[h * shape_.dim + d] : 0.0f;
  }

  // Packs the valid dates of a pixel; scores (count, lanes) in `weights`.
  void load(int64_t pixel) {
    const bool* valid = call_.mask ? call_.mask + pixel * shape_.dates : nullptr;
    count = 0;
    for (int64_t t = 0; t < shape_.dates; ++t)
      if (!valid || valid[t]) rows_[count++] = t;
    sample = shape_.sample_of(pixel);
    pack_floats<V>(Rows<const E>{call_.x + pixel * call_.x_pixel, call_.x_date, count, shape_.dim, rows_}, x, width);
    multiply<V, Layout::kRows>(
        {count, lanes / V::kWidth, shape_.dim, x, width, queries_, lanes}, Matrix<V>{weights, lanes, false});
    for (int64_t i = 0; i < count; ++i)
      for (int64_t h = 0; h < shape_.heads; ++h) weights[i * lanes + h] += bias(i)[h];
  }

  const int64_t* dates() const { return rows_; }  // the valid ones
  int64_t date(int64_t i) const { return rows_[i]; }
  const float* bias(int64_t i) const { return call_.bias + (sample * shape_.dates + date(i)) * shape_.heads; }
  const float* position(int64_t i) const {
    return call_.positions + (sample * shape_.dates + date(i)) * (shape_.dim / shape_.heads);
  }

 private:
  const PoolInputs<E>& call_;
  const PoolShape& shape_;

 public:
  const int64_t width, lanes;  // of a row of features, of scores

 private:
  Scratch scratch_;
  int64_t* rows_;

 public:
  float *x, *weights;
  int64_t count = 0, sample = 0;  // valid dates

 private:
  float* queries_;  // (D, lanes)
};

template <class V, class E>
void pool_forward(const PoolForward<E>& call, int64_t begin, int64_t end) {
  using Reg = typename V::Reg;
  const PoolShape& shape = call.shape;
  const int64_t values = shape.dim / shape.heads;
  Pixel<V, E> pixel(call);
  Scratch scratch(shape.dim + 2 * pixel.lanes);
  float *out = scratch.take(shape.dim), *sums = scratch.take(pixel.lanes), *highest = scratch.take(pixel.lanes);
  for (int64_t p = begin; p < end; ++p) {
    pixel.load(p);
    const int64_t count = pixel.count, lanes = pixel.lanes;
    for (int64_t h = 0; h < lanes; h += V::kWidth) {
      float* column = pixel.weights + h;
      Reg most = V::set(-std::numeric_limits<float>::infinity()), total = V::zero();
      for (int64_t i = 0; i < count; ++i) most = V::max(most, V::load(column + i * lanes));
      for (int64_t i = 0; i < count; ++i) {
        const Reg a = exp<V>(V::sub(V::load(column + i * lanes), most));
        V::store(column + i * lanes, a);
        total = V::add(total, a);
      }
      V::store(sums + h, total);
      V::store(highest + h, most);
    }
    for (int64_t d = 0; d < shape.dim; ++d) out[d] = 0.0f;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t h = 0; h < shape.heads; ++h) {
        const Reg a = V::set(pixel.weights[i * lanes + h]);
        const float *x = pixel.x + i * pixel.width + h * values, *position = pixel.position(i);
        along<V>(values, [&](int64_t j, int n) {
          const Reg value = V::add(load_lanes<V>(x + j, n), load_lanes<V>(position + j, n));
          float* sum = out + h * values + j;
          store_lanes<V>(sum, V::fma(a, value, load_lanes<V>(sum, n)), n);
        });
      }
    for (int64_t h = 0; h < shape.heads; ++h) {
      const float share = count ? 1.0f / sums[h] : 0.0f;
      call.lse[p * shape.heads + h] =
          count ? highest[h] + std::log(sums[h]) : std::numeric_limits<float>::infinity();
      along<V>(values, [&](int64_t j, int n) {
        const int64_t d = h * values + j;
        store_lanes<V>(call.out + p * shape.dim + d, V::mul(V::set(share), load_lanes<V>(out + d, n)), n);
      });
    }
  }
}

template <class V, class E>
void pool_backward(const PoolBackward<E>& call, int64_t begin, int64_t end) {
  using Reg = typename V::Reg;
  const PoolShape& shape = call.shape;
  const int64_t values = shape.dim / shape.heads;
  Pixel<V, E> pixel(call);
  const int64_t width = pixel.width, lanes = pixel.lanes;
  Scratch scratch(shape.dates * (lanes + width) + 2 * shape.heads * width + width + lanes);
  float* slopes = scratch.take(shape.dates * lanes);  // ds
  float* grad_x = scratch.take(shape.dates * width);
  float* queries = scratch.take(shape.heads * width);
  float* grad_queries = scratch.take(shape.heads * width);
  float* grad = scratch.take(width);
  float* mean = scratch.take(lanes);
  pack_floats<V>(Rows<const float>{call.queries, shape.dim, shape.heads, shape.dim}, queries, width);
  for (int64_t i = 0; i < shape.heads * width; ++i) grad_queries[i] = 0.0f;

  for (int64_t p = begin; p < end; ++p) {
    pixel.load(p);
    const int64_t count = pixel.count;
    const Rows<E> out{call.grad_x + p * shape.dates * shape.dim, shape.dim, shape.dates, shape.dim};
    zero_others(out, pixel.dates(), count);
    if (count == 0) continue;
    pack_floats<V>(Rows<const E>{call.grad_out + p * shape.dim, shape.dim, 1, shape.dim}, grad, width);
    for (int64_t h = 0; h < lanes; ++h) mean[h] = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      float *a = pixel.weights + i * lanes, *ds = slopes + i * lanes;
      for (int64_t h = 0; h < shape.heads; ++h) a[h] -= call.lse[p * shape.heads + h];
      for (int64_t h = 0; h < lanes; h += V::kWidth) V::store(a + h, exp<V>(V::load(a + h)));
      for (int64_t h = shape.heads; h < lanes; ++h) a[h] = ds[h] = 0.0f;
      for (int64_t h = 0; h < shape.heads; ++h) {
        const float *x = pixel.x + i * width + h * values, *position = pixel.position(i), *g = grad + h * values;
        Reg sum = V::zero();
        along<V>(values, [&](int64_t j, int n) {
          const Reg value = V::add(load_lanes<V>(x + j, n), load_lanes<V>(position + j, n));
          sum = V::fma(load_lanes<V>(g + j, n), value, sum);
        });
        ds[h] = total<V>(sum);
        mean[h] += a[h] * ds[h];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      float *a = pixel.weights + i * lanes, *ds = slopes + i * lanes;
      float* sum = call.grad_bias + (pixel.sample * shape.dates + pixel.date(i)) * shape.heads;
      for (int64_t h = 0; h < shape.heads; ++h) sum[h] += ds[h] = a[h] * (ds[h] - mean[h]);
    }
    multiply<V, Layout::kRows>(
        {count, width / V::kWidth, shape.heads, slopes, lanes, queries, width}, Matrix<V>{grad_x, width, false});
    for (int64_t i = 0; i < count; ++i)
      for (int64_t h = 0; h < shape.heads; ++h) {
        const Reg a = V::set(pixel.weights[i * lanes + h]);
        along<V>(values, [&](int64_t j, int n) {
          float* to = grad_x + i * width + h * values + j;
          store_lanes<V>(to, V::fma(a, load_lanes<V>(grad + h * values + j, n), load_lanes<V>(to, n)), n);
        });
      }
    const float one = 1.0f;
    for (int64_t i = 0; i < count; ++i)
      Results<V, E>({out.at(pixel.date(i)), shape.dim, 1, shape.dim}, &one, 0, call.past_caches).put_row(0, grad_x + i * width);
    multiply<V, Layout::kColumns>(
        {shape.heads, width / V::kWidth, count, slopes, lanes, pixel.x, width}, Matrix<V>{grad_queries, width, true});
  }
  if (call.past_caches) V::finish_streams();
  for (int64_t h = 0; h < shape.heads; ++h)
    for (int64_t d = 0; d < shape.dim; ++d) call.grad_queries[h * shape.dim + d] += grad_queries[h * width + d];
}

template <class V, class E>
constexpr PoolKernelsOf<E> pool_kernels_of() {
  return {pool_forward<V, E>, pool_backward<V, E>};
}

template <class V>
constexpr PoolKernels pool_kernels() {
  return {pool_kernels_of<V, float>(), pool_kernels_of<V, BFloat16>(), pool_kernels_of<V, Float16>()};
}

}  // namespace
}  // namespace eokit
