// Every op schema, once; the implementations register themselves where they are (cpu/, cuda/).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(eokit, m) {
  // q, grad_out, out: (..., Lq, H, D). k, v: (..., Lk, H, D). key_mask: bool (..., Lk). bias_t: float32, contiguous
  // (..., H, Lk, Lq), where any dimension but the last two may be 1. lse: (..., H, Lq) contiguous.
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor? bias_t, float scale) -> "
      "(Tensor out, Tensor lse)");
  // grad_bias_t: like bias_t if with_bias, else without elements.
  m.def(
      "attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor? bias_t, Tensor out, "
      "Tensor lse, float scale, bool with_bias) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias_t)");
  // index: int64 (B, K), each of 0..length once at most -> int64 (B, length): where it is in index, -1 if nowhere.
  m.def("invert_index(Tensor index, int length) -> Tensor");
  // source: (B, S, D). map: int64 (B, R); a negative row is fill (D) or 0. positions: (P, D) or (B, P, D), added: that of
  // the row of the source, or of the output if by_output, modulo P. back: int64 (B, S), the way back, which only the
  // gradient takes. -> (B, R, D).
  m.def(
      "map_rows(Tensor source, Tensor map, Tensor back, Tensor? fill, Tensor? positions, bool by_output) -> Tensor");
  // rows: (B, R, D). map: int64 (B, R) -> float32 (D): the sum of the rows whose map is negative.
  m.def("sum_unmapped(Tensor rows, Tensor map) -> Tensor");
  // The gradients of map_rows with positions (L, D) shared by the batch. index: int64 (B, K), inverse: int64 (B, L), the
  // way back. grad (B, K, D) of gathered tokens -> (B, L, D) of the tokens, float32 (L, D) of their positions; index is taken
  // by the gradients of both alone.
  m.def("gather_gradients(Tensor grad, Tensor inverse, Tensor index) -> (Tensor x, Tensor positions)");
  // grad (B, L, D) of scattered tokens -> (B, K, D) of the visible ones, float32 (D) of the mask token, float32 (L, D).
  m.def(
      "scatter_gradients(Tensor grad, Tensor inverse, Tensor index) -> "
      "(Tensor visible, Tensor mask_token, Tensor positions)");
  // x: (P, T, D). queries: (H, D). bias: (S, T, H). positions: (S, T, D / H), all three float32. mask: bool (P, T).
  m.def(
      "pool_forward(Tensor x, Tensor queries, Tensor bias, Tensor positions, Tensor? mask) -> (Tensor out, Tensor lse)");
  m.def(
      "pool_backward(Tensor grad_out, Tensor x, Tensor queries, Tensor bias, Tensor positions, Tensor? mask, Tensor lse) "
      "-> (Tensor grad_x, Tensor grad_queries, Tensor grad_bias)");
  // z: (R, C). weight, bias: float32 (C).
  m.def("norm_relu(Tensor z, Tensor weight, Tensor bias, int groups, float epsilon) -> Tensor");
  m.def("norm_relu_(Tensor(a!) z, Tensor weight, Tensor bias, int groups, float epsilon) -> ()");
  m.def(
      "norm_relu_backward(Tensor grad_out, Tensor z, Tensor weight, Tensor bias, int groups, float epsilon) -> "
      "(Tensor grad_z, Tensor grad_weight, Tensor grad_bias)");
  // A tile of logits, scores: float32 (rows, columns). Ids: int64 (rows) or (columns); equal blocks: no candidates, equal
  // groups: positives. highest, total: float32 (rows), to which the candidates are added; near_: the positives.
  m.def(
      "nce_add_(Tensor scores, Tensor? group_rows, Tensor? group_columns, Tensor? block_rows, Tensor? block_columns, "
      "Tensor(a!) highest, Tensor(b!) total, Tensor(c!) near_highest, Tensor(d!) near_total) -> ()");
  // The same tile as slopes: exp(score - sums), less exp(score - others) of positives. sums, others: float32 (rows).
  m.def(
      "nce_slopes_(Tensor(a!) scores, Tensor? group_rows, Tensor? group_columns, Tensor? block_rows, "
      "Tensor? block_columns, Tensor sums, Tensor others) -> ()");
  // For tests and diagnosis: which CPU kernels run from now on, in every thread.
  m.def("select_instruction_set(str name) -> str");
}
