// The loop over time.

template <typename Cell>
class ForwardRun {
 public:
  explicit ForwardRun(const Forward& call)
      : call_(call), s_(call.sizes), space_(s_, call.workspace), steps_{s_, call.valid, call.restart} {}

  void run(Team& team) {
    const Grid grid(s_, space_.panels, ceiling(space_.outputs, PANEL), space_.weights, team.size());
    team.each(team.size(), [&](int n) {
      pack(share(space_.panels, n, team.size()), share(ceiling(space_.outputs, PANEL), n, team.size()));
      begin(share(s_.rows, n, team.size()));
    });
    const int phases = s_.projects ? 2 : 1;  // which each need what other members did in the one before
    const FewRows<Cell> few_rows(call_, space_, steps_, grid.members());
    const auto before = [&](int64_t at, const Place& place) {
      if (few_rows.is_ahead() && at % phases == 0) few_rows.ahead(few_rows.step(at / phases), place, 0);
    };
    grid.each_step(team, s_.steps * phases, before, [&](int64_t at, const Place& place) {
      if (at % phases > 0) {
        project(at / phases, place);
      } else if (space_.few_rows) {
        step_of_few_rows(at / phases, place, few_rows);
      } else {
        step_of_many_rows(at / phases, place);
      }
    });
  }

 private:
  using S = ForwardSpace<Cell>;

  void pack(Range panels, Range of_outputs) {
    const auto columns_of = [&](const float* weight, int64_t depth, int64_t panel, int first_gate) {
      return [=](int64_t column) -> const float* {
        const int gate = first_gate + static_cast<int>(column / (Cell::UNITS * LANES));
        const int64_t unit = panel * Cell::UNITS * LANES + column % (Cell::UNITS * LANES);
        return unit < s_.hidden ? weight + (Cell::row_block(gate) * s_.hidden + unit) * depth : nullptr;
      };
    };
    for (int64_t p = panels.first; p < panels.end; ++p) {
      pack_transposed(s_.inputs, S::X_VECTORS, space_.panel_ih(p), columns_of(call_.weight_ih, s_.inputs, p, 0));
      pack_transposed(s_.outputs, S::H_VECTORS, space_.panel_hh(p),
                      columns_of(call_.weight_hh, s_.outputs, p, Cell::FIRST_H));
      for (int64_t column = 0; column < S::WIDTH; ++column) {
        const int64_t pre = column / (Cell::UNITS * LANES);
        const int64_t unit = p * Cell::UNITS * LANES + column % (Cell::UNITS * LANES);
        space_.bias[p * S::WIDTH + column] = unit < s_.hidden ? call_.bias[pre * s_.hidden + unit] : 0;
      }
    }
    if (!s_.projects) return;
    for (int64_t p = of_outputs.first; p < of_outputs.end; ++p) {
      const int64_t vectors = std::min<int64_t>(PANEL, space_.outputs - p * PANEL);
      pack_transposed(s_.hidden, vectors, space_.weight_hr + p * PANEL * LANES * s_.hidden, [&](int64_t column) {
        const int64_t output = p * PANEL * LANES + column;
        return output < s_.outputs ? call_.weight_hr + output * s_.hidden : nullptr;
      });
    }
  }

  void begin(Range rows) {
    for (int64_t row = rows.first; row < rows.end; ++row) {
      const bool cut = steps_.restarts(0, row);
      for (int64_t v = 0; v < space_.outputs; ++v) {
        const float* from = call_.h_first + row * s_.outputs + v * LANES;
        store(space_.h[0] + row * space_.output_stride + v * LANES,
              cut ? Vec{} : load(from, filled(s_.outputs, v)));
      }
      for (int64_t v = 0; Cell::HAS_C && v < space_.units; ++v) {
        const float* from = call_.c_first + row * s_.hidden + v * LANES;
        store(space_.c + row * space_.stride + v * LANES, cut ? Vec{} : load(from, filled(s_.hidden, v)));
      }
    }
  }

  // With many rows, a tile of sums is used up while it is in the first-level cache.
  void step_of_many_rows(int64_t n, const Place& place) {
    alignas(64) float tile[TILE_ROWS * S::WIDTH];
    for (int64_t p = place.panels.first; p < place.panels.end; ++p) {
      for (int64_t first = place.rows.first; first < place.rows.end; first += TILE_ROWS) {
        const Range rows{first, std::min(first + TILE_ROWS, place.rows.end)};
        const float* x = call_.x + (steps_.at(n) * s_.rows + first) * s_.inputs;
        space_.from_inputs(p, x, rows.end - first, {0, s_.inputs}, tile);
        from_state(n, p, rows, tile);
        elementwise(n, p, rows, tile);
      }
    }
  }

  // With few, what others computed of h is fetched at once; panels are read from either end in turns, as those read
  // last are in the first-level cache still; and all sums of a step come first, so that a core can begin with the
  // elementwise part of a vector while another's is under way.
  void step_of_few_rows(int64_t n, const Place& place, const FewRows<Cell>& few_rows) {
    const Range& all = place.panels;
    const auto step = few_rows.step(n);
    if (all.end - all.first < space_.panels) {
      for (int64_t k = 0; k < s_.rows * space_.output_stride; k += LANES) __builtin_prefetch(space_.h[n % 2] + k);
    }
    if (few_rows.is_ahead()) few_rows.ahead(step, place, 1);
    for (int64_t j = all.first; j < all.end; ++j) {
      const int64_t p = in_turns(n, j, all);
      from_state(n, p, place.rows, few_rows.inputs(step, place, p));
    }
    for (int64_t p = all.first; p < all.end; ++p) elementwise(n, p, place.rows, few_rows.sums(step, place, p));
  }

  static int64_t in_turns(int64_t n, int64_t j, const Range& all) {
    return n % 2 ? all.first + all.end - 1 - j : j;
  }

  // Add W_hh h.
  void from_state(int64_t n, int64_t panel, Range rows, float* pre) const {
    product(rows.end - rows.first, s_.outputs, S::H_VECTORS, space_.h[n % 2] + rows.first * space_.output_stride,
            space_.output_stride, space_.panel_hh(panel), pre + Cell::FIRST_H * Cell::UNITS * LANES, S::WIDTH,
            s_.rows == 1);
  }

  void elementwise(int64_t n, int64_t panel, Range rows, const float* pre) {
    const int64_t units = std::min<int64_t>(Cell::UNITS, space_.units - panel * Cell::UNITS);
    for (int64_t j = 0; j < units; ++j) of_vector(n, panel * Cell::UNITS + j, rows, pre + j * LANES);
  }

  void of_vector(int64_t n, int64_t v, Range rows, const float* pre) {
    const int64_t t = steps_.at(n);
    const int lanes = filled(s_.hidden, v);
    Vec own[Cell::OWN + 1];
    for (int j = 0; j < Cell::OWN; ++j) own[j] = load(call_.own + j * s_.hidden + v * LANES, lanes);
    for (int64_t row = rows.first; row < rows.end; ++row, pre += S::WIDTH) {
      const int64_t here = row * space_.stride + v * LANES;
      Vec sums[Cell::PRE], kept[Cell::KEPT + 1], h = {}, c = {};
      for (int j = 0; j < Cell::PRE; ++j) sums[j] = load(pre + j * Cell::UNITS * LANES);
      if (!s_.projects) h = load(space_.h[n % 2] + here);
      if constexpr (Cell::HAS_C) c = load(space_.c + here);
      const Vec c_before = c;
      Cell::step(sums, own, h, c, kept);
      if (call_.kept) {
        float* to = call_.kept + ((t * space_.units + v) * s_.rows + row) * Cell::KEPT * LANES;
        for (int j = 0; j < Cell::KEPT; ++j) store(to + j * LANES, kept[j]);
      }
      if constexpr (Cell::HAS_C) {
        if (!steps_.valid(t, row)) c = c_before;
        if (n + 1 == s_.steps) store(call_.c_last + row * s_.hidden + v * LANES, c, lanes);
        store(space_.c + here, steps_.restarts(n + 1, row) ? Vec{} : c);
      }
      if (s_.projects) {
        store(space_.raw + here, h);
      } else {
        finish(n, v, row, h);
      }
    }
  }

  // h = W_hr h, for some panels of outputs.
  void project(int64_t n, const Place& place) {
    alignas(64) float tile[TILE_ROWS * PANEL * LANES];
    for (int64_t p = place.outputs.first; p < place.outputs.end; ++p) {
      const int64_t vectors = std::min<int64_t>(PANEL, space_.outputs - p * PANEL);
      for (int64_t first = place.rows.first; first < place.rows.end; first += TILE_ROWS) {
        const int64_t end = std::min(first + TILE_ROWS, place.rows.end);
        std::fill(tile, tile + (end - first) * vectors * LANES, 0.0f);
        product(end - first, s_.hidden, static_cast<int>(vectors), space_.raw + first * space_.stride,
                space_.stride, space_.weight_hr + p * PANEL * LANES * s_.hidden, tile, vectors * LANES,
                s_.rows == 1);
        for (int64_t row = first; row < end; ++row) {
          for (int64_t j = 0; j < vectors; ++j) {
            finish(n, p * PANEL + j, row, load(tile + ((row - first) * vectors + j) * LANES));
          }
        }
      }
    }
  }

  // Write the h of a step.
  void finish(int64_t n, int64_t v, int64_t row, Vec h) {
    const int64_t t = steps_.at(n), here = row * space_.output_stride + v * LANES;
    const int lanes = filled(s_.outputs, v);
    if (!steps_.valid(t, row)) h = load(space_.h[n % 2] + here);
    store(call_.h + (t * s_.rows + row) * s_.outputs + v * LANES, h, lanes);
    if (n + 1 == s_.steps) store(call_.h_last + row * s_.outputs + v * LANES, h, lanes);
    store(space_.h[(n + 1) % 2] + here, steps_.restarts(n + 1, row) ? Vec{} : h);
  }

  const Forward& call_;
  const Sizes& s_;
  const S space_;
  const Steps steps_;
};
