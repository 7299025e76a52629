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
  // For tests and diagnosis: which CPU kernels run from now on, in every thread.
  m.def("select_instruction_set(str name) -> str");
}
