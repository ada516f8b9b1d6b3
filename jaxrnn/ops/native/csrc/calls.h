// What the kernels are given, whichever instruction set they are compiled for.

#pragma once

#include <cstdint>

namespace jaxrnn {

enum class CellKind : int32_t { tanh, relu, gru, lstm, peephole_lstm };

struct Sizes {
  int64_t steps, rows, inputs, hidden, outputs;  // T, B, I, H, R
  bool reverse, projects;                        // by weight_hr; otherwise R is H
};

// Arrays in C order. `valid` and `restart`, [T, B], may be null; so may `kept` and what a cell lacks.
struct Forward {
  Sizes sizes;
  const float *x, *weight_ih, *weight_hh, *weight_hr;  // [T, B, I], [G*H, I], [G*H, R], [R, H]
  const float *bias, *own;                             // [PRE, H], [OWN, H]
  const float *h_first, *c_first;                      // [B, R], [B, H]
  const bool *valid, *restart;
  float *h, *h_last, *c_last;  // [T, B, R], [B, R], [B, H]
  float* kept;                 // as the kernel likes it
  float* workspace;
};

struct Backward {
  Sizes sizes;
  const float *x, *weight_ih, *weight_hh, *weight_hr, *own, *h_first;
  const bool *valid, *restart;
  const float *h, *kept;
  const float *dh, *dh_last, *dc_last;
  float* dx;  // null where nobody asks for it
  float *d_weight_ih, *d_weight_hh, *d_weight_hr, *d_bias, *d_own, *dh_first, *dc_first;
  float* workspace;
};

// Of one instruction set.
struct Kernels {
  void (*forward)(CellKind, const Forward&, int threads);
  void (*backward)(CellKind, const Backward&, int threads);
  int64_t (*forward_workspace)(CellKind, const Sizes&);  // floats
  int64_t (*backward_workspace)(CellKind, const Sizes&);
};

const Kernels* avx512_kernels();  // null where the compiler cannot make them
const Kernels* avx2_kernels();
const Kernels* neon_kernels();

}  // namespace jaxrnn
