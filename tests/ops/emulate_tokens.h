// The CUDA kernels of masked tokens on the emulator, against plain loops.
#pragma once

#include "emulate_common.h"

#include "../../csrc/cuda/tokens_kernel.h"

namespace eokit {
namespace {

template <class E, int kCount>
void run_tokens(const char* dtype, int dim) {
  const int batches = 3, sources = 7, rows = 11, places = 5;
  std::vector<Pack<E, 16 / sizeof(E)>> memory_of_all(4096);
  E* at = memory_of_all[0].at;
  const auto take = [&](int count) {
    E* here = at;
    at += (count + 15) / 16 * 16;
    for (int i = 0; i < count; ++i) from_float(normal(), here + i);
    return here;
  };
  MapRows<E> call;
  call.batches = batches, call.rows = rows, call.sources = sources, call.dim = dim;
  call.source = take(batches * sources * dim), call.source_batch = sources * dim, call.source_row = dim;
  call.fill = take(dim), call.positions = take(places * dim), call.positions_rows = places;
  E* out = take(batches * rows * dim);
  call.out = out;
  std::vector<int64_t> map(batches * rows, -1), index(batches * sources);
  for (int b = 0; b < batches; ++b)
    for (int s = 0; s < sources; ++s) index[b * sources + s] = (s * 3 + b) % rows;
  const InvertIndex inversion{index.data(), batches, sources, rows, map.data()};
  emulator::launch(2, 32, [] {}, [&] { invert_index_block(inversion); });
  int wrong = 0;
  emulator::launch(2, 32, [] {}, [&] { check_inverse_block(inversion, &wrong); });
  report("index is accepted", wrong, 0);
  call.map = map.data();
  for (const bool by_output : {false, true}) {
    call.by_output = by_output;
    for (int i = 0; i < batches * rows * dim; ++i) from_float(NAN, out + i);
    emulator::launch(3, 32, [] {}, [&] { map_rows_block<E, kCount>(call, 4); });
    double worst = 0;
    for (int i = 0; i < batches * rows; ++i)
      for (int d = 0; d < dim; ++d) {
        const int64_t from = map[i], place = by_output ? i % rows : from;
        const float row = to_float(from < 0 ? call.fill[d] : call.source[(i / rows * sources + from) * dim + d]);
        E wanted;
        from_float(place < 0 ? row : row + to_float(call.positions[place % places * dim + d]), &wanted);
        const double off = std::abs(to_float(out[i * dim + d]) - to_float(wanted));
        if (!(off <= worst)) worst = off;
      }
    report(std::string(dtype) + " map_rows", worst, 0);
  }
}

template <class E>
std::vector<float> summed(const SumRows<E>& given, int parts, int most_lanes, bool aligned) {
  std::vector<float> of_parts(size_t(parts) * given.dim, NAN);
  SumRows<E> call = given;
  call.parts = parts, call.sums = of_parts.data();
  split_columns(call, most_lanes);
  char* shared = nullptr;
  const int threads = 64, bytes = threads * 4 * call.kPiece;
  emulator::launch(parts * call.chunks, threads, [&] { shared = poisoned(bytes); }, [&] {
    float* of_block = reinterpret_cast<float*>(shared);
    aligned ? sum_rows_block<true>(call, of_block) : sum_rows_block<false>(call, of_block);
  });
  check_guard("sum_rows", bytes);
  return of_parts;
}

// Both stages of sum_unmapped: rows (count, dim), a third of which counts.
template <class E>
void run_sum(const char* dtype, int count, int dim) {
  constexpr int kPiece = SumRows<E>::kPiece, kParts = 3;
  std::vector<Pack<E, kPiece>> memory_of_rows(size_t(count) * dim / kPiece + 2);
  E* rows = memory_of_rows[0].at;
  std::vector<int64_t> map(count);
  for (int i = 0; i < count * dim; ++i) from_float(normal(), rows + i);
  for (int64_t& at : map) at = generator() % 3 == 0 ? -1 : 5;
  std::vector<double> wanted(dim, 0.0);
  for (int i = 0; i < count; ++i)
    for (int d = 0; d < dim; ++d) {
      if (map[i] < 0) wanted[d] += to_float(rows[i * dim + d]);
      if (map[i] >= 0) from_float(NAN, rows + i * dim + d);  // what does not count is not read
    }
  const SumRows<E> call{rows, map.data(), count, dim};
  const auto total = [&](bool aligned) {
    std::vector<float> parts = summed(call, kParts, 4, aligned);
    return summed(SumRows<float>{parts.data(), nullptr, kParts, dim}, 1, 2, dim % 4 == 0);
  };
  const bool aligned = dim % kPiece == 0;
  const std::vector<float> sums = total(aligned), again = total(false);
  double worst = 0;
  for (int d = 0; d < dim; ++d)
    if (!(std::abs(sums[d] - wanted[d]) <= worst)) worst = std::abs(sums[d] - wanted[d]);
  const std::string name = std::string(dtype) + " sum_unmapped " + std::to_string(count) + " x " + std::to_string(dim);
  report(name, worst, 1e-4);
  emulator::backwards = !emulator::backwards;
  const bool same = sums == again && sums == total(aligned);
  emulator::backwards = !emulator::backwards;
  report(name + ": the same bits, aligned or not, whoever goes first", !same, 0);
}

}  // namespace
}  // namespace eokit
