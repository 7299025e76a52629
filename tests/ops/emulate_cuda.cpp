// Runs the CUDA kernels of csrc/cuda on the emulator beside this file and compares them with plain double loops. One line
// a case; exit status 1 if one is off. Built and run by test_cuda_compile.py: emulate_cuda ORDER MOST_QUERIES.
#include "emulate_common.h"
#include "emulate_plans.h"
#include "emulate_tokens.h"

#include "../../csrc/cuda/attention_backward_kernel.h"
#include "../../csrc/cuda/attention_forward_kernel.h"

namespace eokit {
namespace {

// (S0, S1, L, H, D) in memory as (S0, L, S1, H, D): the sequences of temporal attention. Poisoned unless filled.
template <class E>
struct Tensor5 {
  int s0, s1, length, heads, dim;
  std::vector<E> data;

  Tensor5(int s0, int s1, int length, int heads, int dim, bool fill)
      : s0(s0), s1(s1), length(length), heads(heads), dim(dim), data(size_t(s0) * s1 * length * heads * dim) {
    for (E& x : data) from_float(fill ? normal() : NAN, &x);
  }
  size_t place(int sequence, int i, int h, int d) const {
    return (((size_t(sequence / s1) * length + i) * s1 + sequence % s1) * heads + h) * dim + d;
  }
  double at(int sequence, int i, int h, int d) const { return to_float(data[place(sequence, i, h, d)]); }
  template <class T>
  Sequences<T> view() {
    Sequences<T> x{data.data(), int64_t(s1) * heads * dim, dim, {}};
    x.leading[0] = int64_t(length) * s1 * heads * dim, x.leading[1] = int64_t(heads) * dim;
    return x;
  }
};

struct Case {
  int s0, s1, queries, keys, heads, dim;
  bool masked, biased, heads_share_bias;
  int warps, stages;      // of the forward kernel; 0: as they come
  int shared;             // KiB for a block of the backward kernel
  bool own_bias = false;  // of every sequence: its gradient is no sum
};

struct Truth {  // (sequence, head, query, ...) in double
  std::vector<double> out, lse, grad_q, grad_k, grad_v, grad_bias;
};

template <class E>
struct Problem {
  Case c;
  Tensor5<E> q, k, v, grad_out, out, grad_q, grad_k, grad_v;
  std::vector<char> mask;            // (S, Lk)
  std::vector<float> bias, lse;      // bias_t: (H or 1, Lk, Lq), or (S, H or 1, Lk, Lq)
  int sequences, bias_heads;
  Truth truth;

  explicit Problem(const Case& c)
      : c(c), q(c.s0, c.s1, c.queries, c.heads, c.dim, true), k(c.s0, c.s1, c.keys, c.heads, c.dim, true),
        v(c.s0, c.s1, c.keys, c.heads, c.dim, true), grad_out(c.s0, c.s1, c.queries, c.heads, c.dim, true),
        out(c.s0, c.s1, c.queries, c.heads, c.dim, false), grad_q(c.s0, c.s1, c.queries, c.heads, c.dim, false),
        grad_k(c.s0, c.s1, c.keys, c.heads, c.dim, false), grad_v(c.s0, c.s1, c.keys, c.heads, c.dim, false),
        sequences(c.s0 * c.s1), bias_heads(c.heads_share_bias ? 1 : c.heads) {
    mask.assign(size_t(sequences) * c.keys, 1);
    if (c.masked)
      for (int s = 0; s < sequences; ++s)
        for (int j = 0; j < c.keys; ++j) mask[s * c.keys + j] = s > 0 && generator() % 3 > 0;  // the first: no key at all
    for (int s = 0; s < sequences; ++s)
      for (int j = 0; j < c.keys; ++j)
        for (int h = 0; h < c.heads && !mask[s * c.keys + j]; ++h) {  // what is stored under the mask is never read
          from_float(NAN, &k.data[k.place(s, j, h, 0)]);
          from_float(NAN, &v.data[v.place(s, j, h, 0)]);
        }
    bias.resize(size_t(c.own_bias ? sequences : 1) * bias_heads * c.keys * c.queries);
    for (float& b : bias) b = normal();
    lse.assign(size_t(sequences) * c.heads * c.queries, NAN);
    compute();
  }

  double score(int s, int h, int i, int j) const {
    double sum = 0;
    for (int d = 0; d < c.dim; ++d) sum += q.at(s, i, h, d) * k.at(s, j, h, d);
    return sum * scale() + (c.biased ? bias[bias_place(s, h, i, j)] : 0.0);
  }
  size_t bias_place(int s, int h, int i, int j) const {
    const int b = (c.own_bias ? s * bias_heads : 0) + (c.heads_share_bias ? 0 : h);
    return (size_t(b) * c.keys + j) * c.queries + i;
  }
  float scale() const { return 1.0f / std::sqrt(float(c.dim)); }

  void compute() {
    const size_t rows = size_t(sequences) * c.heads;
    truth.out.assign(rows * c.queries * c.dim, 0), truth.grad_q = truth.out;
    truth.grad_k.assign(rows * c.keys * c.dim, 0), truth.grad_v = truth.grad_k;
    truth.lse.assign(rows * c.queries, INFINITY), truth.grad_bias.assign(bias.size(), 0);
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < c.heads; ++h)
        for (int i = 0; i < c.queries; ++i) compute_query(s, h, i);
  }

  void compute_query(int s, int h, int i) {
    const size_t item = size_t(s) * c.heads + h;
    std::vector<double> p(c.keys, 0.0);
    double total = 0, delta = 0;
    for (int j = 0; j < c.keys; ++j)
      if (mask[s * c.keys + j]) total += p[j] = std::exp(score(s, h, i, j));
    if (total == 0) return;
    truth.lse[item * c.queries + i] = std::log(total);
    for (int j = 0; j < c.keys; ++j) p[j] /= total;
    double* out = &truth.out[(item * c.queries + i) * c.dim];
    for (int j = 0; j < c.keys; ++j)
      for (int d = 0; d < c.dim && p[j] > 0; ++d) out[d] += p[j] * v.at(s, j, h, d);
    for (int d = 0; d < c.dim; ++d) delta += grad_out.at(s, i, h, d) * out[d];
    for (int j = 0; j < c.keys; ++j) {
      if (p[j] == 0) continue;
      double slope = 0;
      for (int d = 0; d < c.dim; ++d) slope += grad_out.at(s, i, h, d) * v.at(s, j, h, d);
      slope = p[j] * (slope - delta);
      for (int d = 0; d < c.dim; ++d) {
        truth.grad_v[(item * c.keys + j) * c.dim + d] += p[j] * grad_out.at(s, i, h, d);
        truth.grad_k[(item * c.keys + j) * c.dim + d] += slope * q.at(s, i, h, d) * scale();
        truth.grad_q[(item * c.queries + i) * c.dim + d] += slope * k.at(s, j, h, d) * scale();
      }
      truth.grad_bias[bias_place(s, h, i, j)] += slope;
    }
  }

  double error(const Tensor5<E>& x, const std::vector<double>& exact) const {
    double worst = 0, largest = 0;
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < c.heads; ++h)
        for (int i = 0; i < x.length; ++i)
          for (int d = 0; d < c.dim; ++d) {
            const double wanted = exact[((size_t(s) * c.heads + h) * x.length + i) * c.dim + d];
            const double off = std::abs(x.at(s, i, h, d) - wanted);
            if (!(off <= worst)) worst = off;
            largest = std::max(largest, std::abs(wanted));
          }
    return worst / std::max(largest, 1e-3);
  }

  AttentionShape shape() const {
    AttentionShape shape;
    shape.leading.count = 2, shape.leading.sizes[0] = c.s0, shape.leading.sizes[1] = c.s1;
    shape.queries = c.queries, shape.keys = c.keys, shape.heads = c.heads, shape.dim = c.dim;
    shape.scale = scale();
    shape.bytes = c.dim * 2 & -(c.dim * 2) & 31;
    if (shape.bytes == 0 || shape.bytes > 16) shape.bytes = 16;
    shape.in_pairs = c.dim % 2 == 0;
    return shape;
  }
  Sequences<const bool> mask_view() const {
    Sequences<const bool> view;
    if (!c.masked) return view;
    view.data = reinterpret_cast<const bool*>(mask.data()), view.row = 1;
    view.leading[0] = int64_t(c.s1) * c.keys, view.leading[1] = c.keys;
    return view;
  }
  template <class T>
  Sequences<T> bias_view(T* data) const {
    const int64_t square = int64_t(c.keys) * c.queries;
    Sequences<T> view{data, c.queries, c.heads_share_bias ? 0 : square, {}};
    if (c.own_bias) view.leading[0] = c.s1 * bias_heads * square, view.leading[1] = bias_heads * square;
    return view;
  }
};

template <int D, class E>
void run_forward(Problem<E>& problem, const std::string& name) {
  const Case& c = problem.c;
  AttentionForward<E> call;
  call.shape = problem.shape();
  call.q = problem.q.template view<const E>(), call.k = problem.k.template view<const E>();
  call.v = problem.v.template view<const E>(), call.out = problem.out.template view<E>();
  call.mask = problem.mask_view();
  if (c.biased) call.bias = problem.bias_view(static_cast<const float*>(problem.bias.data()));
  call.lse = problem.lse.data();
  call.warps = c.warps ? c.warps : smaller(8, tiles_of(c.queries));
  call.heads = std::clamp(8 / call.warps, 1, c.heads);
  const int blocks = std::max(1, key_blocks(c.keys));
  call.stages = c.stages ? c.stages : blocks;
  const int64_t bytes = kHeader + int64_t(call.stages) * call.heads * 4 * rows_staged(c.keys) * (D + kPad);
  const int64_t grid = int64_t(problem.sequences) * ((c.heads + call.heads - 1) / call.heads);
  char* shared = nullptr;
  emulator::launch(grid, call.heads * call.warps * kWarp, [&] { shared = poisoned(bytes); },
                   [&] { attention_forward_block<D>(call, shared); });
  const double unit = sizeof(E) == 2 && std::is_same_v<E, BFloat16> ? 1.0 / 128 : 1.0 / 1024;
  report(name + " out", problem.error(problem.out, problem.truth.out), unit);
  double worst = 0;
  for (size_t i = 0; i < problem.lse.size(); ++i) {
    const double off = problem.lse[i] == problem.truth.lse[i] ? 0 : std::abs(problem.lse[i] - problem.truth.lse[i]);
    if (!(off <= worst)) worst = off;
  }
  report(name + " lse", worst, 1e-4);
}

template <int D, int kHeld, class E>
void run_backward(Problem<E>& problem, const BackwardPlan& plan, const std::string& name) {
  const Case& c = problem.c;
  AttentionBackward<E> call;
  call.shape = problem.shape();
  call.q = problem.q.template view<const E>(), call.k = problem.k.template view<const E>();
  call.v = problem.v.template view<const E>(), call.out = problem.out.template view<const E>();
  call.grad_out = problem.grad_out.template view<const E>();
  call.grad_q = problem.grad_q.template view<E>(), call.grad_k = problem.grad_k.template view<E>();
  call.grad_v = problem.grad_v.template view<E>();
  call.mask = problem.mask_view();
  call.lse = problem.lse.data();
  const bool summed = c.biased && !c.own_bias;
  call.sequences = problem.sequences, call.parts = summed ? std::min(2, problem.sequences) : problem.sequences;
  std::vector<float> sums(call.parts * problem.bias.size()), grad_bias(problem.bias.size(), NAN);
  if (c.biased) {
    call.bias = problem.bias_view(static_cast<const float*>(problem.bias.data()));
    call.grad_bias = problem.bias_view(summed ? sums.data() : grad_bias.data());
    call.part_stride = summed ? static_cast<int64_t>(problem.bias.size()) : 0;
    call.heads_together = summed && c.heads_share_bias;
  }
  call.passes = plan.passes, call.warps = plan.warps;
  std::vector<float> partial(size_t(problem.sequences) * c.heads * c.queries * D, NAN);
  call.partial = call.passes > 1 ? partial.data() : nullptr;
  char* shared = nullptr;
  emulator::launch(call.parts * (call.heads_together ? 1 : c.heads), call.warps * kWarp,
                   [&] { shared = poisoned(plan.bytes); }, [&] { attention_backward_block<D, kHeld>(call, shared); });
  check_guard(name, plan.bytes);
  const double unit = std::is_same_v<E, BFloat16> ? 1.0 / 64 : 1.0 / 512;
  report(name + " grad_q", problem.error(problem.grad_q, problem.truth.grad_q), unit);
  report(name + " grad_k", problem.error(problem.grad_k, problem.truth.grad_k), unit);
  report(name + " grad_v", problem.error(problem.grad_v, problem.truth.grad_v), unit);
  if (!c.biased) return;
  const int64_t size = static_cast<int64_t>(grad_bias.size());
  if (summed) emulator::launch(2, 64, [] {}, [&] { add_parts_block(sums.data(), call.parts, size, grad_bias.data()); });
  double worst = 0, largest = 0;
  for (size_t i = 0; i < grad_bias.size(); ++i) {
    const double off = std::abs(grad_bias[i] - problem.truth.grad_bias[i]);
    if (!(off <= worst)) worst = off;
    largest = std::max(largest, std::abs(problem.truth.grad_bias[i]));
  }
  report(name + " grad_bias", worst / largest, unit);
}

template <int D, class E>
void run(const Case& c, const char* dtype) {
  Problem<E> problem(c);
  const BackwardPlan plan = plan_backward(D, c.queries, c.keys, int64_t{c.shared} * 1024);
  const std::string name = std::string(dtype) + " Lq " + std::to_string(c.queries) + " Lk " + std::to_string(c.keys) + " H " +
                           std::to_string(c.heads) + " D " + std::to_string(c.dim) + (c.masked ? " masked" : "") +
                           (c.biased ? c.own_bias ? " biased each" : " biased" : "") + " passes " + std::to_string(plan.passes);
  run_forward<D>(problem, name);
  if constexpr (most_held(D) > 1)
    if (plan.held > 1) return run_backward<D, 2>(problem, plan, name);
  run_backward<D, 1>(problem, plan, name);
}

}  // namespace
}  // namespace eokit

int main(int count, char** arguments) {
  using namespace eokit;
  emulator::backwards = count > 1 && std::strcmp(arguments[1], "backwards") == 0;
  run_tokens<float, 4>("float32", 24);
  run_tokens<float, 1>("float32", 5);
  run_tokens<BFloat16, 8>("bfloat16", 40);
  run_tokens<Float16, 1>("float16", 9);
  run_sum<float>("float32", 700, 24);
  run_sum<float>("float32", 37, 5);
  run_sum<BFloat16>("bfloat16", 500, 72);
  run_sum<BFloat16>("bfloat16", 0, 8);
  run_sum<Float16>("float16", 301, 33);
  check_plans(count > 2 ? std::atoi(arguments[2]) : 1);
  //          s0 s1 Lq  Lk  H  D   mask   bias   shared warps stages KiB
  run<16, BFloat16>({1, 2, 17, 17, 2, 16, false, false, false, 0, 0, 99}, "bfloat16");
  run<16, Float16>({2, 1, 40, 70, 1, 13, true, true, false, 0, 0, 99}, "float16");
  run<16, BFloat16>({1, 2, 40, 150, 1, 16, true, false, false, 0, 0, 99}, "bfloat16");
  run<32, BFloat16>({2, 2, 24, 24, 6, 32, true, true, false, 0, 0, 99}, "bfloat16");
  run<32, BFloat16>({2, 2, 37, 50, 3, 32, true, true, false, 0, 0, 99, true}, "bfloat16");
  run<48, Float16>({1, 2, 5, 61, 3, 44, true, false, false, 0, 0, 99}, "float16");
  run<48, BFloat16>({1, 2, 35, 100, 2, 46, true, true, true, 1, 2, 32}, "bfloat16");
  run<64, BFloat16>({1, 1, 61, 143, 1, 64, false, true, false, 2, 2, 48}, "bfloat16");
  run<64, Float16>({1, 1, 144, 256, 1, 64, false, false, false, 0, 2, 99}, "float16");
  run<64, BFloat16>({1, 2, 33, 257, 1, 64, true, false, false, 0, 2, 227}, "bfloat16");
  run<96, BFloat16>({1, 2, 33, 150, 1, 96, true, false, false, 0, 0, 99}, "bfloat16");
  run<128, Float16>({2, 1, 33, 145, 1, 128, true, true, false, 0, 2, 99}, "float16");
  run<128, BFloat16>({1, 2, 1, 1, 1, 100, false, false, false, 0, 0, 99}, "bfloat16");
  std::printf("%d off\n", failures);
  return failures > 0;
}
