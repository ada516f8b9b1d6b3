// Where the arrays of the loop over time lie.

template <typename Cell>
struct ForwardSpace : Layout {
  static constexpr int64_t WIDTH = Cell::PRE * Cell::UNITS * LANES;  // of a panel of pre-activations
  static constexpr int X_VECTORS = Cell::X_GATES * Cell::UNITS;
  static constexpr int H_VECTORS = (Cell::PRE - Cell::FIRST_H) * Cell::UNITS;
  const Sizes& sizes;
  bool few_rows;
  bool ahead_pays;  // to multiply inputs of later steps while members hand over h
  int64_t panels, weights, chunk, chunk_ahead, panel_sums, apart;
  float *weight_ih, *weight_hh, *weight_hr, *bias, *h[2], *c, *raw, *pre;
  Space space;
  ForwardSpace(const Sizes& s, float* base) : Layout(s), sizes(s), space(base) {
    panels = ceiling(units, Cell::UNITS);
    weights = panels * s.outputs * H_VECTORS * LANES;  // floats of W_hh
    few_rows = s.rows < FEW_ROWS;
    // With vectors of 16 the time suffices for it. Few weights are read in no time; with many, or many inputs, a
    // step takes so long that it is better to read W_ih less often.
    ahead_pays =
        few_rows && LANES == 16 && CLOSE_WEIGHTS < weights && weights <= OWN_WEIGHTS && s.inputs <= 2 * s.outputs;
    apart = ahead_pays ? 4096 : 0;  // between members' sums, or a core would fetch ahead what is the other's
    chunk = std::min(s.steps, ceiling(2 * FEW_ROWS, s.rows));
    chunk_ahead = std::min(s.steps, ceiling(ROWS_AHEAD, s.rows));
    panel_sums = few_rows ? std::max(chunk, ahead_pays ? 2 * chunk_ahead : 0) * s.rows * WIDTH : 0;
    weight_ih = space.take(panels * s.inputs * X_VECTORS * LANES);
    weight_hh = space.take(weights);
    weight_hr = space.take(s.projects ? s.hidden * output_stride : 0);
    bias = space.take(panels * WIDTH);
    h[0] = space.take(s.rows * output_stride);
    h[1] = space.take(s.rows * output_stride);
    c = space.take(Cell::HAS_C ? s.rows * stride : 0);
    raw = space.take(s.projects ? s.rows * stride : 0);  // h before it is projected
    pre = space.take(few_rows ? panels * panel_sums + std::min<int64_t>(panels, MOST_THREADS) * apart : 0);
  }

  float* panel_ih(int64_t panel) const { return weight_ih + panel * sizes.inputs * X_VECTORS * LANES; }
  float* panel_hh(int64_t panel) const { return weight_hh + panel * sizes.outputs * H_VECTORS * LANES; }

  // W_ih x of a panel, for so many rows of x and some of their columns; with the first of these, + b.
  void from_inputs(int64_t panel, const float* x, int64_t rows, Range columns, float* sums) const {
    for (int64_t row = 0; columns.first == 0 && row < rows; ++row) {
      for (int64_t k = 0; k < WIDTH; k += LANES) store(sums + row * WIDTH + k, load(bias + panel * WIDTH + k));
    }
    product(rows, columns.end - columns.first, X_VECTORS, x + columns.first, sizes.inputs,
            panel_ih(panel) + columns.first * X_VECTORS * LANES, sums, WIDTH, false);
  }
};
