// Runs every CPU kernel on random shapes in memory of exactly the right size; to be built with sanitizers, which stop it
// at the first access out of bounds. No torch. test_sanitized.py builds and runs it: fuzz_kernels ROUNDS.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace {

using namespace eokit;

std::mt19937 rng(0);
int64_t upto(int64_t most) { return 1 + static_cast<int64_t>(rng() % static_cast<uint64_t>(most)); }
int64_t upto_or_none(int64_t most) { return rng() % 16 == 0 ? 0 : upto(most); }
bool maybe() { return rng() % 2 == 0; }
int64_t dims(int64_t most) { return maybe() ? 32 * upto(most / 32) : upto(most); }  // whole cache lines, or any

// What is in memory before a kernel runs; where it has to write everything, NaN.
enum class Filled { kAnyhow, kZeros, kNaN };

// Not std::vector: its capacity may be more than its size. Begins where a cache line does, as torch's tensors do.
template <class E>
class Exact {
 public:
  explicit Exact(int64_t count, Filled filled = Filled::kAnyhow) : count_(count), data_(new (kLine) E[count]) {
    for (int64_t i = 0; i < count; ++i) {
      const float any = static_cast<float>(static_cast<int>(rng() % 2001) - 1000) * 1e-3f;
      from_float(filled == Filled::kAnyhow ? any : filled == Filled::kZeros ? 0.0f : NAN, &data_[i]);
    }
  }
  operator E*() { return data_.get(); }
  void must_be_finite(const char* what) const {
    for (int64_t i = 0; i < count_; ++i)
      if (!std::isfinite(to_float(data_[i]))) std::printf("%s: not finite\n", what), std::exit(1);
  }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(E* data) const { ::operator delete[](data, kLine); }
  };

  int64_t count_;
  std::unique_ptr<E[], Free> data_;
};

std::unique_ptr<bool[]> random_mask(int64_t count) {
  auto mask = std::make_unique<bool[]>(count);
  const unsigned share = rng() % 4;
  for (int64_t i = 0; i < count; ++i) mask[i] = rng() % 4 < share;
  return mask;
}

// Sequences of L rows as they lie in memory: temporal (A, L, B, H, D), spatial (A, B, L, H, D), heads first (A, B, H, L, D).
enum class Lies { kTemporal, kSpatial, kHeadsFirst };
Lies anyhow() { return static_cast<Lies>(rng() % 3); }

template <class T>
Sequences<T> view(T* data, int64_t b, int64_t length, int64_t heads, int64_t dim, Lies lies) {
  const bool far = lies == Lies::kTemporal, first = lies == Lies::kHeadsFirst;
  Sequences<T> x{data, first ? dim : far ? b * heads * dim : heads * dim, first ? length * dim : dim, {}};
  x.leading[0] = b * length * heads * dim;
  x.leading[1] = far ? heads * dim : length * heads * dim;
  return x;
}

template <class E>
void attention(const KernelPair<E>& kernels) {
  AttentionShape shape;
  shape.leading.count = 2;
  const int64_t a = shape.leading.sizes[0] = upto(2), b = shape.leading.sizes[1] = upto(3);
  const int64_t few = upto_or_none(24) * 16 + upto(4);  // behind full registers
  const int64_t queries = shape.queries = maybe() ? few : upto_or_none(maybe() ? 20 : 420);
  const int64_t keys = shape.keys = upto_or_none(maybe() ? 20 : 420);
  const int64_t heads = shape.heads = upto(7), dim = shape.dim = maybe() ? upto(20) : dims(130);
  shape.scale = 0.3f;
  const bool masked = maybe(), biased = maybe(), shared = maybe();
  const int64_t items = a * b * heads, q_size = items * queries * dim, k_size = items * keys * dim;
  Exact<E> q(q_size), k(k_size), v(k_size), out(q_size, Filled::kNaN), grad(q_size);
  Exact<E> grad_q(q_size, Filled::kNaN), grad_k(k_size, Filled::kNaN), grad_v(k_size, Filled::kNaN);
  const int64_t bias_size = (shared ? heads : items) * keys * queries;
  Exact<float> lse(items * queries), bias(bias_size), grad_bias(bias_size);
  const auto valid = random_mask(a * b * keys);
  KeyMask mask;
  if (masked) mask.valid = {valid.get(), 1, 0, {b * keys, keys}};
  const auto bias_view = [&](float* data) {
    Sequences<float> x{data, queries, keys * queries, {}};
    if (!shared) x.leading[0] = b * heads * keys * queries, x.leading[1] = heads * keys * queries;
    return x;
  };
  const auto constant = [](const auto& x, auto* data) {
    Sequences<const std::remove_pointer_t<decltype(data)>> y{data, x.row, x.head, {}};
    std::copy(x.leading, x.leading + kMaxLeading, y.leading);
    return y;
  };
  const auto in = [&](E* data, int64_t length) { return constant(view<E>(data, b, length, heads, dim, anyhow()), data); };

  AttentionForward<E> forward;
  forward.shape = shape, forward.mask = mask;
  forward.q = in(q, queries), forward.k = in(k, keys), forward.v = in(v, keys);
  if (biased) forward.bias = constant(bias_view(bias), static_cast<float*>(bias));
  forward.out = view<E>(out, b, queries, heads, dim, anyhow()), forward.lse = lse;
  forward.parts = queries ? upto((queries + kPanel - 1) / kPanel) : 1;
  forward.past_caches = maybe();
  forward.ahead = upto_or_none(64) << (maybe() ? 6 : 12);  // less than a row, or several heads
  const int64_t units = items * forward.parts, half = upto(units) - 1;  // as two threads would have them
  if (queries) kernels.forward(forward, 0, half), kernels.forward(forward, half, units);  // without any, torch is done
  out.must_be_finite("attention");

  AttentionBackward<E> backward;
  backward.shape = shape, backward.mask = mask, backward.lse = lse;
  backward.q = forward.q, backward.k = forward.k, backward.v = forward.v, backward.bias = forward.bias;
  backward.out = in(out, queries), backward.grad_out = in(grad, queries);
  backward.grad_q = view<E>(grad_q, b, queries, heads, dim, anyhow());
  backward.grad_k = view<E>(grad_k, b, keys, heads, dim, anyhow());
  backward.grad_v = view<E>(grad_v, b, keys, heads, dim, anyhow());
  if (biased) backward.grad_bias = bias_view(grad_bias);
  backward.past_caches = maybe();
  backward.ahead = forward.ahead;
  const int64_t first = upto(items) - 1;
  kernels.backward(backward, 0, first), kernels.backward(backward, first, items);
  for (auto* x : {&grad_q, &grad_k, &grad_v}) x->must_be_finite("attention, backward");
  grad_bias.must_be_finite("attention, gradient of the bias");
}

template <class E>
void tokens(const TokenKernelsOf<E>& kernels) {
  const int64_t batches = upto(3), rows = upto(20), sources = upto(20), dim = dims(70);
  const int64_t row = dim + upto(4) - 1, batch = sources * row + upto(4) - 1;  // rows may lie apart
  Exact<E> source((batches - 1) * batch + (sources - 1) * row + dim), fill(dim);
  Exact<E> positions(batches * rows * dim), out(batches * rows * dim, Filled::kNaN);
  const auto map = std::make_unique<int64_t[]>(batches * rows);
  for (int64_t i = 0; i < batches * rows; ++i) map[i] = static_cast<int64_t>(rng() % (sources + 1)) - 1;
  MapRows<E> call{batches, rows, sources, dim, source, batch, row, map.get()};
  if (maybe()) call.fill = fill;
  if (maybe()) call.positions = positions, call.positions_rows = rows, call.by_output = maybe();
  if (call.positions && maybe()) call.positions_batch = rows * dim;
  call.out = out;
  kernels.map_rows(call, maybe(), 0, batches * rows);
  Exact<float> sums(dim);
  kernels.sum_unmapped({out, map.get(), dim, sums}, 0, batches * rows);
  out.must_be_finite("tokens");
  sums.must_be_finite("tokens, sums");
}

// Rows have places in random order.
template <class E>
void token_gradients(const TokenKernelsOf<E>& kernels) {
  const bool many = maybe();  // samples: sums are made of several
  const int64_t batches = upto(many ? 70 : 3), places = upto(many ? 20 : 200), rows = upto(places), dim = dims(70);
  Exact<E> grid(batches * places * dim), visible(batches * rows * dim, Filled::kNaN);
  Exact<E> back(batches * places * dim, Filled::kNaN);
  Exact<float> positions(places * dim, Filled::kNaN), fill(dim);
  const auto map = std::make_unique<int64_t[]>(batches * places);
  for (int64_t b = 0; b < batches; ++b) {
    int64_t* row = map.get() + b * places;
    for (int64_t l = 0; l < places; ++l) row[l] = l < rows ? l : -1;
    for (int64_t l = places - 1; l > 0; --l) std::swap(row[l], row[upto(l + 1) - 1]);
  }
  const int64_t half = upto(places) - 1;
  const TokenGradients<E> scattered{batches, places, rows, dim, map.get(), grid, visible, positions, fill};
  const bool past_caches = maybe();
  kernels.scatter_gradients(scattered, past_caches, 0, half);
  kernels.scatter_gradients(scattered, past_caches, half, places);
  visible.must_be_finite("tokens, gradient of visible ones");
  positions.must_be_finite("tokens, gradient of positions");
  fill.must_be_finite("tokens, gradient of the mask token");
  Exact<float> gathered_positions(places * dim, Filled::kNaN);
  const TokenGradients<E> gathered{batches, places, rows, dim, map.get(), visible, back, gathered_positions};
  kernels.gather_gradients(gathered, past_caches, 0, half);
  kernels.gather_gradients(gathered, past_caches, half, places);
  back.must_be_finite("tokens, gradient of gathered ones");
  gathered_positions.must_be_finite("tokens, gradient of their positions");
}

template <class E>
void pool(const PoolKernelsOf<E>& kernels) {
  const int64_t samples = upto(2), pixels = samples * upto(3), dates = upto(40), heads = upto(18), values = dims(50);
  const int64_t dim = heads * values, size = pixels * dates * dim;
  const int64_t row = dim + upto(4) - 1;  // rows may lie apart, and the dates of a pixel a whole image
  const bool far = maybe();
  const int64_t x_date = far ? pixels * row : row, x_pixel = far ? row : dates * row;
  Exact<E> x((pixels - 1) * x_pixel + (dates - 1) * x_date + dim);
  Exact<E> out(pixels * dim), grad(pixels * dim), grad_x(size);
  Exact<float> queries(heads * dim), bias(samples * dates * heads), positions(samples * dates * values);
  Exact<float> lse(pixels * heads), grad_queries(heads * dim), grad_bias(samples * dates * heads);
  const auto mask = random_mask(pixels * dates);
  PoolInputs<E> in{{pixels, samples, dates, heads, dim}, x, x_pixel, x_date, queries, bias, positions};
  if (maybe()) in.mask = mask.get();
  kernels.forward({in, out, lse}, 0, pixels);
  kernels.backward({in, lse, grad, grad_x, grad_queries, grad_bias, maybe()}, 0, pixels);
  out.must_be_finite("pool");
  grad_x.must_be_finite("pool, backward");
  grad_queries.must_be_finite("pool, gradient of the queries");
}

template <class E>
void norm(const NormKernelsOf<E>& kernels) {
  const int64_t groups = upto(4), dim = groups * upto(60), rows = upto(6);
  Exact<E> z(rows * dim), out(rows * dim), grad(rows * dim), grad_z(rows * dim);
  Exact<float> weight(dim), bias(dim), grad_weight(dim), grad_bias(dim);
  const NormForward<E> call{dim, groups, 1e-5f, z, weight, bias, out};
  kernels.forward(call, 0, rows);
  kernels.backward({call, grad, grad_z, grad_weight, grad_bias}, 0, rows);
  out.must_be_finite("norm");
  grad_z.must_be_finite("norm, backward");
}

// Ids of any meaning, few different ones.
std::unique_ptr<int64_t[]> random_ids(int64_t count) {
  std::unique_ptr<int64_t[]> ids(new int64_t[count]);
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int64_t>(rng() % 3);
  return ids;
}

void logits(const LogitsKernels& kernels) {
  const int64_t rows = upto(6), columns = upto(70);
  Exact<float> scores(rows * columns), highest(rows), total(rows, Filled::kZeros);
  Exact<float> near_highest(rows), near_total(rows, Filled::kZeros);
  Exact<float> sums(rows), others(rows);
  const auto group_rows = random_ids(rows), group_columns = random_ids(columns);
  const auto block_rows = random_ids(rows), block_columns = random_ids(columns);
  Pairs pairs{columns};
  if (maybe()) pairs.group_rows = group_rows.get(), pairs.group_columns = group_columns.get();
  if (maybe()) pairs.block_rows = block_rows.get(), pairs.block_columns = block_columns.get();
  kernels.add({pairs, scores, {highest, total}, {near_highest, near_total}}, 0, rows);
  kernels.slopes({pairs, scores, sums, others}, 0, rows);
  total.must_be_finite("logits, candidates");
  near_total.must_be_finite("logits, positives");
  scores.must_be_finite("logits, slopes");
}

void all(const Kernels& kernels) {
  attention(kernels.attention.f32), attention(kernels.attention.bf16), attention(kernels.attention.f16);
  tokens(kernels.tokens.f32), tokens(kernels.tokens.bf16), tokens(kernels.tokens.f16);
  token_gradients(kernels.tokens.f32), token_gradients(kernels.tokens.bf16), token_gradients(kernels.tokens.f16);
  pool(kernels.pool.f32), pool(kernels.pool.bf16), pool(kernels.pool.f16);
  norm(kernels.norm.f32), norm(kernels.norm.bf16), norm(kernels.norm.f16);
  logits(kernels.logits);
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count == 2 ? std::atoi(arguments[1]) : 0;
  if (rounds <= 0) return std::puts("usage: fuzz_kernels ROUNDS"), 2;
  for (int round = 0; round < rounds; ++round) {
    all(kPortable);
#ifdef EOKIT_X86
    if (runs(InstructionSet::kAvx2)) all(kAvx2);
    if (runs(InstructionSet::kAvx512)) all(kAvx512);
    if (runs(InstructionSet::kAvx512Bf16)) attention(kAttentionAvx512Bf16);
#endif
  }
  std::printf("%d rounds, every access in bounds\n", rounds);
  return 0;
}
