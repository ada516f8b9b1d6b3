// One instruction set's kernels. No include guard: each includes it in a namespace of its own.

#include "vectors.h"
#include "products.h"
#include "cells.h"
#include "layout.h"
#include "forward_space.h"
#include "few_rows.h"
#include "forward.h"
#include "backward.h"

template <typename Function>
auto for_cell(CellKind kind, Function function) {
  switch (kind) {
    case CellKind::tanh:
      return function(Tanh());
    case CellKind::relu:
      return function(Relu());
    case CellKind::gru:
      return function(Gru());
    case CellKind::lstm:
      return function(Lstm());
    default:
      return function(PeepholeLstm());
  }
}

template <template <typename> class Run, typename Call>
void run(CellKind kind, const Call& call, int threads) {
  for_cell(kind, [&](auto cell) {
    Team team(threads);
    Run<decltype(cell)>(call).run(team);
  });
}

template <template <typename> class Layout>
int64_t workspace(CellKind kind, const Sizes& sizes) {
  return for_cell(kind, [&](auto cell) { return Layout<decltype(cell)>(sizes, nullptr).space.size(); });
}

inline constexpr Kernels KERNELS = {run<ForwardRun, Forward>, run<BackwardRun, Backward>, workspace<ForwardSpace>,
                                    workspace<BackwardSpace>};
