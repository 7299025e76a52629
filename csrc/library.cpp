// Every op schema, once; the implementations register themselves where they are (cpu/, cuda/).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(eokit, m) {
  // q, grad_out, out: (..., Lq, H, D). k, v: (..., Lk, H, D). key_mask: bool (..., Lk). lse: (..., H, Lq) contiguous.
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? key_mask, float scale) -> (Tensor out, Tensor lse)");
  m.def(
      "attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor out, Tensor lse, "
      "float scale) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)");
  // For tests and diagnosis: which CPU kernels run from now on, in every thread.
  m.def("select_instruction_set(str name) -> str");
}
