// Torch tensors as `MapRows`, checked; shared by CPU and GPU, which check on which device they lie and what the map says.
#pragma once

#include <optional>

#include "tensors.h"
#include "tokens.h"

namespace eokit {

// Whole numbers of `shape`, two dimensions, that go with `rows` (B, ...).
inline void check_map(const Tensor& map, const char* name, const char* shape, const Tensor& rows) {
  STD_TORCH_CHECK(map.scalar_type() == ScalarType::Long && map.dim() == 2 && map.is_contiguous() &&
                      map.size(0) == rows.size(0),
                  name, ": expected contiguous int64 ", shape);
}

// Rows (B, R, D) and a map (B, R) of them.
inline void check_rows_and_map(const Tensor& rows, const char* rows_name, const Tensor& map, const char* name) {
  STD_TORCH_CHECK(rows.dim() == 3 && rows.is_contiguous(), rows_name, ": expected contiguous (B, R, D)");
  check_map(map, name, "(B, R)", rows);
  STD_TORCH_CHECK(map.size(1) == rows.size(1), name, ": expected the rows of `", rows_name, "`");
}

// The arguments of map_rows in torch.
struct MappedTensors {
  const Tensor &source, &map;
  const std::optional<Tensor>&fill, &positions;
  bool by_output;

  int64_t places() const { return positions ? positions->size(positions->dim() - 2) : 1; }

  void check() const {
    STD_TORCH_CHECK(source.dim() == 3 && (source.numel() == 0 || source.size(2) == 1 || source.stride(2) == 1),
                    "source: expected (B, S, D) with a contiguous last dimension");
    check_map(map, "map", "(B, R)", source);
    check_like_source(fill, "fill");
    check_like_source(positions, "positions");
    STD_TORCH_CHECK(!fill || fill->dim() == 1, "fill: expected (D)");
    STD_TORCH_CHECK(!positions || positions->dim() == 2 || (positions->dim() == 3 && positions->size(0) == map.size(0)),
                    "positions: expected (P, D) or (B, P, D)");
    STD_TORCH_CHECK(places() > 0 || map.size(1) == 0, "positions: expected one or more, found none");
  }

  template <class E>
  MapRows<E> into(Tensor& out) const {
    MapRows<E> call;
    call.batches = map.size(0), call.rows = map.size(1), call.sources = source.size(1), call.dim = source.size(2);
    call.source = data<E>(source), call.source_batch = source.stride(0), call.source_row = source.stride(1);
    call.map = map.const_data_ptr<int64_t>();
    call.fill = fill ? data<E>(*fill) : nullptr;
    call.positions = positions ? data<E>(*positions) : nullptr;
    call.positions_batch = positions && positions->dim() == 3 ? places() * call.dim : 0;
    call.positions_rows = places();
    call.by_output = by_output;
    call.out = data<E>(out);
    return call;
  }

 private:
  void check_like_source(const std::optional<Tensor>& x, const char* name) const {
    STD_TORCH_CHECK(!x || (x->scalar_type() == source.scalar_type() && x->is_contiguous() && x->dim() > 0 &&
                           x->size(x->dim() - 1) == source.size(2)),
                    name, ": expected it contiguous, of the dtype and with the features of source");
  }
};

}  // namespace eokit
