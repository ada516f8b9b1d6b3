// Runs the kernels on arrays of their exact sizes, filled with NaN where nothing was given, for a sanitizer to
// watch.
//
// For each cell, size, mask and direction: forward, with what it keeps and without; backward, with the gradient of
// x and without. Fails where a result is not finite, and where one depends on the number of threads.

#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"

using namespace jaxrnn;

namespace {

struct Case {
  CellKind cell;
  int64_t steps, rows, inputs, hidden, projected;
  bool ragged, resets, reverse;
};

class Numbers {
 public:
  float next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<float>(static_cast<int64_t>(state_ >> 40) - (1 << 23)) / static_cast<float>(1 << 23);
  }
  std::vector<float> draw(int64_t count, float most = 1) {
    std::vector<float> drawn(static_cast<size_t>(count));
    for (float& x : drawn) x = most * next();
    return drawn;
  }

 private:
  uint64_t state_ = 1;
};

std::vector<float> unwritten(int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), std::numeric_limits<float>::quiet_NaN());
}

// All results of a forward and a backward pass.
std::vector<float> run(const Kernels& kernels, const Case& c, int threads) {
  const bool has_c = c.cell == CellKind::lstm || c.cell == CellKind::peephole_lstm;
  const bool simple = c.cell == CellKind::tanh || c.cell == CellKind::relu;
  const int64_t gates = simple ? 1 : has_c ? 4 : 3, sums = simple ? 1 : 4;
  const int64_t arrays = simple ? 0 : has_c ? 5 : 4, own_rows = c.cell == CellKind::peephole_lstm ? 3 : 0;
  const int64_t outputs = c.projected ? c.projected : c.hidden, T = c.steps, B = c.rows;
  const Sizes sizes{T, B, c.inputs, c.hidden, outputs, c.reverse, c.projected > 0};

  Numbers numbers;
  const auto x = numbers.draw(T * B * c.inputs), w_ih = numbers.draw(gates * c.hidden * c.inputs);
  const float calm = 1 / std::sqrt(static_cast<float>(c.hidden));  // or ReLU's h overflows within 80 steps
  const auto w_hh = numbers.draw(gates * c.hidden * outputs, calm), w_hr = numbers.draw(c.projected * c.hidden);
  const auto bias = numbers.draw(sums * c.hidden), own = numbers.draw(own_rows * c.hidden);
  const auto h_first = numbers.draw(B * outputs), c_first = numbers.draw(has_c ? B * c.hidden : 0);
  const auto dh = numbers.draw(T * B * outputs), dh_last = numbers.draw(B * outputs);
  const auto dc_last = numbers.draw(has_c ? B * c.hidden : 0);
  const std::unique_ptr<bool[]> valid(new bool[static_cast<size_t>(T * B)]);
  const std::unique_ptr<bool[]> restart(new bool[static_cast<size_t>(T * B)]);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t row = 0; row < B; ++row) {
      valid[static_cast<size_t>(t * B + row)] = t < row % (T + 1);
      restart[static_cast<size_t>(t * B + row)] = numbers.next() > 0.5f && t < row % (T + 1);
    }
  }

  std::vector<float> h = unwritten(T * B * outputs), h_last = unwritten(B * outputs),
                     c_last = unwritten(dc_last.size());
  std::vector<float> kept = unwritten(T * B * ((c.hidden + 15) / 16 * 16) * arrays);
  std::vector<float> first_space = unwritten(kernels.forward_workspace(c.cell, sizes));
  Forward forward{};
  forward.sizes = sizes;
  forward.x = x.data(), forward.weight_ih = w_ih.data(), forward.weight_hh = w_hh.data();
  forward.weight_hr = w_hr.data(), forward.bias = bias.data(), forward.own = own.data();
  forward.h_first = h_first.data(), forward.c_first = c_first.data();
  forward.valid = c.ragged ? valid.get() : nullptr, forward.restart = c.resets ? restart.get() : nullptr;
  forward.h = h.data(), forward.h_last = h_last.data(), forward.c_last = c_last.data();
  forward.workspace = first_space.data();
  kernels.forward(c.cell, forward, threads);
  std::vector<float> results = h;
  forward.kept = kept.data();
  kernels.forward(c.cell, forward, threads);
  if (h != results) results.push_back(std::numeric_limits<float>::quiet_NaN());

  std::vector<float> dx = unwritten(x.size()), d_ih = unwritten(w_ih.size()), d_hh = unwritten(w_hh.size());
  std::vector<float> d_hr = unwritten(w_hr.size()), d_bias = unwritten(bias.size()), d_own = unwritten(own.size());
  std::vector<float> dh_first = unwritten(h_first.size()), dc_first = unwritten(c_first.size());
  std::vector<float> second_space = unwritten(kernels.backward_workspace(c.cell, sizes));
  Backward backward{};
  backward.sizes = sizes;
  backward.x = x.data(), backward.weight_ih = w_ih.data(), backward.weight_hh = w_hh.data();
  backward.weight_hr = w_hr.data(), backward.own = own.data(), backward.h_first = h_first.data();
  backward.valid = forward.valid, backward.restart = forward.restart;
  backward.h = h.data(), backward.kept = kept.data();
  backward.dh = dh.data(), backward.dh_last = dh_last.data(), backward.dc_last = dc_last.data();
  backward.d_weight_ih = d_ih.data(), backward.d_weight_hh = d_hh.data(), backward.d_weight_hr = d_hr.data();
  backward.d_bias = d_bias.data(), backward.d_own = d_own.data();
  backward.dh_first = dh_first.data(), backward.dc_first = dc_first.data();
  backward.workspace = second_space.data();
  kernels.backward(c.cell, backward, threads);
  backward.dx = dx.data();
  kernels.backward(c.cell, backward, threads);
  for (const auto* part : {&h_last, &c_last, &dx, &d_ih, &d_hh, &d_hr, &d_bias, &d_own, &dh_first, &dc_first}) {
    results.insert(results.end(), part->begin(), part->end());
  }
  return results;
}

bool is_fine(const Kernels& kernels, const Case& c) {
  const std::vector<float> alone = run(kernels, c, 1);
  for (float x : alone) {
    if (!std::isfinite(x)) return false;
  }
  return run(kernels, c, 2) == alone && run(kernels, c, 7) == alone;
}

}  // namespace

// Arguments: instruction sets of this processor.
int main(int argc, char** argv) {
  // The last four: more steps than threads stay together for, panels so deep that they are fetched ahead, one row
  // whose inputs are multiplied while members hand over, in several parts and with fewer steps at the end, and
  // fewer steps than that takes at once.
  const int64_t sizes[][5] = {{1, 1, 1, 1, 0},     {5, 3, 2, 17, 5},     {40, 2, 19, 33, 0},   {3, 50, 5, 16, 16},
                              {9, 20, 70, 80, 3},  {2, 130, 1, 40, 0},   {31, 7, 33, 130, 70}, {80, 1, 3, 128, 40},
                              {2, 30, 264, 17, 0}, {29, 1, 270, 140, 0}, {3, 1, 5, 130, 0}};
  int failed = 0, count = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const Kernels* kernels = name == "AVX-512" ? avx512_kernels()
                             : name == "AVX2"  ? avx2_kernels()
                                               : neon_kernels();
    for (int cell = 0; cell < 5; ++cell) {
      for (const auto& size : sizes) {
        for (int flags : {0, 3, 5, 6}) {
          const int64_t projected = cell > 2 ? size[4] : 0;
          const Case c{static_cast<CellKind>(cell),
                       size[0],
                       size[1],
                       size[2],
                       size[3],
                       projected,
                       (flags & 1) != 0,
                       (flags & 2) != 0,
                       (flags & 4) != 0};
          ++count;
          if (is_fine(*kernels, c)) continue;
          ++failed;
          std::printf("cell %d, size %d %d %d %d %d, flags %d: wrong\n", cell, static_cast<int>(c.steps),
                      static_cast<int>(c.rows), static_cast<int>(c.inputs), static_cast<int>(c.hidden),
                      static_cast<int>(c.projected), flags);
        }
      }
    }
  }
  std::printf("%d of %d cases are wrong\n", failed, count);
  return failed ? 1 : 0;
}
