// Largest relative errors of exp2, and of exp and log beside 1 + |x| and 1 + |log x|, over numbers of all sizes; one line.
// Built with VECTOR, and with the instructions that it takes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include VECTOR_HEADER
#include "../../csrc/common/math.h"

using V = eokit::VECTOR;

namespace {

template <class Function>
void each_lane(float first, const Function& check) {
  float x[V::kWidth];
  for (int i = 0; i < V::kWidth; ++i) x[i] = first * (1.0f + 0.001f * static_cast<float>(i));
  check(x);
}

}  // namespace

int main() {
#ifdef NEEDS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports(NEEDS)) return 77;
#endif
  double of_exp2 = 0, of_exp = 0, of_log = 0;
  for (float size = 1e-9f; size < 120.0f; size *= 1.0003f)
    for (const float first : {size, -size}) each_lane(first, [&](const float* x) {
      float two[V::kWidth], e[V::kWidth], log[V::kWidth];
      V::store(two, eokit::exp2<V>(V::load(x)));
      V::store(e, eokit::exp<V>(V::mul(V::load(x), V::set(0.7f))));
      V::store(log, eokit::log<V>(V::load(two)));
      for (int i = 0; i < V::kWidth; ++i) {
        const double times = static_cast<double>(x[i] * 0.7f), logarithm = std::log(static_cast<double>(two[i]));
        of_exp2 = std::max(of_exp2, std::abs(two[i] / std::exp2(static_cast<double>(x[i])) - 1));
        of_exp = std::max(of_exp, std::abs(e[i] / std::exp(times) - 1) / (1 + std::abs(times)));
        of_log = std::max(of_log, std::abs(log[i] - logarithm) / (1 + std::abs(logarithm)));
      }
    });
  float special[V::kWidth] = {0.0f, -std::numeric_limits<float>::infinity(), -1e30f, std::numeric_limits<float>::quiet_NaN()};
  V::store(special, eokit::exp2<V>(V::load(special)));
  const bool right = special[0] == 1.0f && special[1] < 1.2e-38f && special[2] == special[1] && std::isnan(special[3]);
  std::printf("%g %g %g %d\n", of_exp2, of_exp, of_log, right);
  return 0;
}
