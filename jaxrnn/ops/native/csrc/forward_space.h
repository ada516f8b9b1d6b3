// Where the arrays of the loop over time lie.

template <typename Cell>
struct ForwardSpace : Layout {
  static constexpr int64_t WIDTH = Cell::PRE * Cell::UNITS * LANES;  // of a panel of pre-activations
  static constexpr int X_VECTORS = Cell::X_GATES * Cell::UNITS;
  static constexpr int H_VECTORS = (Cell::PRE - Cell::FIRST_H) * Cell::UNITS;
  static constexpr int64_t APART = 4096;  // floats between members' sums, or one would fetch ahead of the other's
  const Sizes& sizes;
  bool slices;  // W_ih, to multiply it while W_hh is read
  int64_t panels, chunk, panel_sums;
  float *weight_ih, *weight_hh, *weight_hr, *bias, *h[2], *c, *raw, *pre;
  Space space;
  ForwardSpace(const Sizes& s, float* base) : Layout(s), sizes(s), space(base) {
    panels = ceiling(units, Cell::UNITS);
    chunk = s.rows >= FEW_ROWS ? 1 : std::min(s.steps, ceiling(2 * FEW_ROWS, s.rows));
    weight_ih = space.take(panels * s.inputs * X_VECTORS * LANES);
    weight_hh = space.take(panels * s.outputs * H_VECTORS * LANES);
    weight_hr = space.take(s.projects ? s.hidden * output_stride : 0);
    bias = space.take(panels * WIDTH);
    h[0] = space.take(s.rows * output_stride);
    h[1] = space.take(s.rows * output_stride);
    c = space.take(Cell::HAS_C ? s.rows * stride : 0);
    raw = space.take(s.projects ? s.rows * stride : 0);  // h before it is projected
    slices = LANES == 16 && s.rows == 1 && s.inputs <= 2 * s.outputs &&
             panels * s.outputs * H_VECTORS * LANES > CLOSE_WEIGHTS;
    panel_sums = slices ? 2 * SLICE_ROWS * WIDTH : chunk > 1 ? chunk * s.rows * WIDTH : 0;
    pre = space.take(panels * panel_sums + (slices ? std::min<int64_t>(panels, MOST_THREADS) * APART : 0));
  }

  float* panel_ih(int64_t panel) const { return weight_ih + panel * sizes.inputs * X_VECTORS * LANES; }
  float* panel_hh(int64_t panel) const { return weight_hh + panel * sizes.outputs * H_VECTORS * LANES; }

  // Begin sums of a panel with its biases, for so many rows.
  void fill(int64_t panel, int64_t rows, float* sums) const {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(sums + row * WIDTH, bias + panel * WIDTH, sizeof(float) * WIDTH);
    }
  }
};
