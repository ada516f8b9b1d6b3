// Sums of pre-activations where a call has one row, and more weights than a first-level cache holds.
//
// Such a step takes as long as reading W_hh from the second-level cache, during which a core could multiply twice
// as much. So W_ih is multiplied with a chunk of steps meanwhile, the one after the current, a slice at a time.

template <typename Cell>
class OneRow {
 public:
  OneRow(const Forward& call, const ForwardSpace<Cell>& space, const Steps& steps)
      : call_(call), s_(call.sizes), space_(space), steps_(steps) {}

  // Those of a panel at step n, which are at `sums` then.
  void add(int64_t n, const Place& place, int64_t panel) const {
    if (n == 0) {
      space_.fill(panel, rows_from(0), sums_from(0, place, panel));
      multiply(place, panel, 0, {0, slices()});
    }
    const int64_t next = start_of(n) + SLICE_ROWS;
    const bool is_whole = next + SLICE_ROWS <= s_.steps;
    Range due = next < s_.steps ? share(slices(), n % SLICE_ROWS, SLICE_ROWS) : Range{0, 0};
    if (n % SLICE_ROWS == 0 && next < s_.steps) {
      space_.fill(panel, rows_from(next), sums_from(next, place, panel));
    }
    float* to = sums(n, place, panel) + Cell::FIRST_H * Cell::UNITS * LANES;
    for (int64_t k = 0; k < s_.outputs; k += DEPTH) {
      const int64_t depth = std::min<int64_t>(DEPTH, s_.outputs - k);
      const float* h = space_.h[n % 2] + k;
      const float* weights = space_.panel_hh(panel) + k * S::H_VECTORS * LANES;
      if (due.first == due.end || !is_whole) {
        block<1, S::H_VECTORS>(depth, h, 0, 1, weights, S::H_VECTORS * LANES, to, 0);
      } else if (vectors_of(due.first) == SLICE_VECTORS) {
        row_and_slice<S::H_VECTORS, SLICE_VECTORS>(depth, h, weights, to, slice(place, panel, next, due.first++));
      } else {
        row_and_slice<S::H_VECTORS, 1>(depth, h, weights, to, slice(place, panel, next, due.first++));
      }
    }
    multiply(place, panel, next, due);
  }

  float* sums(int64_t n, const Place& place, int64_t panel) const {
    return sums_from(start_of(n), place, panel) + (steps_.at(n) - low(start_of(n))) * S::WIDTH;
  }

 private:
  using S = ForwardSpace<Cell>;
  static constexpr int64_t SLICE = DEPTH / STEPS_EACH;  // columns of W_ih
  static constexpr int64_t SLICES_WIDE = (S::X_VECTORS + SLICE_VECTORS - 1) / SLICE_VECTORS;

  // Of a chunk of steps, for one panel.
  int64_t slices() const { return ceiling(s_.inputs, SLICE) * SLICES_WIDE; }

  // Chunks begin at `start`, in the order of the loop; in memory at `low`.
  static int64_t start_of(int64_t n) { return n / SLICE_ROWS * SLICE_ROWS; }
  int64_t rows_from(int64_t start) const { return std::min<int64_t>(SLICE_ROWS, s_.steps - start); }
  int64_t low(int64_t start) const { return steps_.low({start, start + rows_from(start)}); }

  float* sums_from(int64_t start, const Place& place, int64_t panel) const {
    return space_.pre + panel * space_.panel_sums + place.member * S::APART +
           start / SLICE_ROWS % 2 * SLICE_ROWS * S::WIDTH;
  }

  static int vectors_of(int64_t slice) {
    return static_cast<int>(std::min<int64_t>(SLICE_VECTORS, S::X_VECTORS - slice % SLICES_WIDE * SLICE_VECTORS));
  }

  Slice slice(const Place& place, int64_t panel, int64_t start, int64_t at) const {
    const int64_t k = at / SLICES_WIDE * SLICE, v = at % SLICES_WIDE * SLICE_VECTORS;
    return {std::min(SLICE, s_.inputs - k),
            call_.x + low(start) * s_.inputs + k,
            s_.inputs,
            space_.panel_ih(panel) + (k * S::X_VECTORS + v) * LANES,
            S::X_VECTORS * LANES,
            sums_from(start, place, panel) + v * LANES,
            S::WIDTH};
  }

  // Slices that W_hh leaves no time for: of the first chunk, of a last one of few steps, of many inputs.
  void multiply(const Place& place, int64_t panel, int64_t start, Range slices) const {
    const int64_t rows = rows_from(start), blocks = ceiling(rows, BLOCK_ROWS);
    for (int64_t at = slices.first; at < slices.end; ++at) {
      const Slice of = slice(place, panel, start, at);
      for (int64_t n = 0; n < blocks; ++n) {
        const Range some = share(rows, n, blocks);
        BLOCKS[static_cast<size_t>(vectors_of(at) - 1)][static_cast<size_t>(some.end - some.first - 1)](
            of.depth, of.a + some.first * of.a_stride, of.a_stride, 1, of.b, of.b_stride,
            of.c + some.first * of.c_stride, of.c_stride);
      }
    }
  }

  const Forward& call_;
  const Sizes& s_;
  const ForwardSpace<Cell>& space_;
  const Steps& steps_;
};
