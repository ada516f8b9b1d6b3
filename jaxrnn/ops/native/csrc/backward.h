// The loop over time in reverse, with the gradients of weights and of x a chunk of steps at a time.

// Whether gradients of rows of so many features are added up where the result will be.
inline bool is_in_place(int64_t features) { return features % LANES == 0; }

template <typename Cell>
struct BackwardSpace : Layout {
  static constexpr int H_GATES = Cell::PRE - Cell::FIRST_H;
  static constexpr int SUMS = Cell::PRE + Cell::OWN;
  int64_t chunk, wide, slots, batch;
  float *weight_ih, *weight_hh, *weight_hr, *d_pre, *dh, *dc, *d_out, *d_raw, *raw, *right;
  float *d_weight_ih, *d_weight_hh, *d_weight_hr, *sums, *parts;
  Space space;
  BackwardSpace(const Sizes& s, float* base) : Layout(s), space(base) {
    const int64_t projects = s.projects;
    chunk = std::max<int64_t>(1, std::min(s.steps, CHUNK_ROWS / s.rows));
    wide = Cell::PRE * stride + 16;  // not a power of two, or rows would compete for the same places in the cache
    slots = ceiling(s.rows, SLOT_ROWS);
    weight_ih = space.take(Cell::X_GATES * stride * input_stride);
    weight_hh = space.take(H_GATES * stride * output_stride);
    weight_hr = space.take(projects * s.outputs * stride);
    d_pre = space.take(chunk * s.rows * wide);
    dh = space.take(s.rows * output_stride);
    dc = space.take(Cell::HAS_C ? s.rows * stride : 0);
    d_out = space.take(projects * chunk * s.rows * output_stride);  // cotangent of h after its projection ...
    d_raw = space.take(projects * s.rows * stride);                 // ... and before, and h itself before
    raw = space.take(projects * chunk * s.rows * stride);
    const int64_t right_columns = output_stride + input_stride + projects * stride;
    batch = std::min(chunk * s.rows, std::max<int64_t>(1, BATCH / (DEPTH * right_columns)) * DEPTH);
    right = space.take(batch * right_columns);
    d_weight_ih = space.take(is_in_place(s.inputs) ? 0 : Cell::X_GATES * stride * input_stride);
    d_weight_hh = space.take(is_in_place(s.outputs) ? 0 : H_GATES * stride * output_stride);
    d_weight_hr = space.take(!projects || is_in_place(s.hidden) ? 0 : output_stride * stride);
    sums = space.take(slots * SUMS * stride);
    parts = space.take(slots * SUMS * stride);
  }
};

template <typename Cell>
class BackwardRun {
 public:
  explicit BackwardRun(const Backward& call)
      : call_(call), s_(call.sizes), space_(s_, call.workspace), steps_{s_, call.valid, call.restart} {}

  void run(Team& team) {
    const int64_t weights = S::H_GATES * space_.stride * space_.output_stride;
    const Grid grid(s_, space_.units, space_.outputs, weights, team.size());
    const int count = team.size();
    team.each(count, [&](int n) { pack(grid, n, count); });
    team.each(grid.tasks(), [&](int task) { begin(grid.place(task)); });
    for (int64_t end = s_.steps; end > 0; end -= space_.chunk) {
      const int64_t first = std::max<int64_t>(0, end - space_.chunk);  // in the order of the loop
      const Chunk chunk{steps_.low({first, end}), (end - first) * s_.rows};
      const int phases = s_.projects ? 2 : 1;  // which each need what other members did in the one before
      grid.each_step(team, (end - first) * phases + 1, nothing, [&](int64_t at, const Place& place) {
        const int64_t n = end - 1 - at / phases;
        if (at % phases > 0) {
          through_projection(n, chunk, place);
          elementwise(n, chunk, place);
          return;
        }
        if (n + 1 < end) through_product(n + 1, chunk, place);
        if (n >= first) s_.projects ? through_outputs(n, chunk, place) : elementwise(n, chunk, place);
      });
      for (int64_t row = 0; row < chunk.rows; row += space_.batch) {
        const Batch batch{row, std::min(space_.batch, chunk.rows - row)};
        team.each(count, [&](int n) { pack_right(chunk, batch, share(batch.depth, n, count)); });
        team.each(count, [&](int n) {
          of_weights(batch, n, count);
          if (row == 0 && call_.dx) of_inputs(chunk, share(chunk.rows, n, count));
        });
      }
    }
    team.each(grid.tasks(), [&](int task) { write_states(grid.place(task)); });
    team.each(count, [&](int n) { write_weights(n, count); });
  }

 private:
  using S = BackwardSpace<Cell>;

  struct Chunk {
    int64_t low, rows;  // its first step in memory; its steps times rows
  };

  // Some of a chunk's rows, for which gradients of weights are one product.
  struct Batch {
    int64_t first, depth;
  };

  // One of the matrices whose gradients are added up, [gates * rows, features]: where the result will be, or, where
  // rows do not end with a vector, in panels [gates * stride, PANEL] of the workspace.
  struct Gradient {
    float *result, *panels;
    int64_t gates, rows, stride, features;
    int first_gate;  // -1 where there are no gates

    int64_t vectors() const { return ceiling(features, LANES); }
    int64_t vectors_of(int64_t panel) const { return std::min<int64_t>(PANEL, vectors() - panel * PANEL); }
    bool in_place() const { return is_in_place(features); }
    int64_t size() const { return in_place() ? gates * rows * features : gates * stride * vectors() * LANES; }
    float* sums() const { return in_place() ? result : panels; }
    int64_t row_stride(int64_t panel) const { return in_place() ? features : vectors_of(panel) * LANES; }
    float* at_result(int64_t gate, int64_t row) const {
      const int64_t block = first_gate < 0 ? 0 : Cell::row_block(first_gate + static_cast<int>(gate));
      return result + (block * rows + row) * features;
    }
    float* at(int64_t gate, int64_t row, int64_t v) const {
      if (in_place()) return at_result(gate, row) + v * LANES;
      const int64_t panel = v / PANEL, before = panel * PANEL * gates * stride;
      return panels + (before + (gate * stride + row) * vectors_of(panel) + v % PANEL) * LANES;
    }
  };

  Gradient of_ih() const {
    return {call_.d_weight_ih, space_.d_weight_ih, Cell::X_GATES, s_.hidden, space_.stride, s_.inputs, 0};
  }
  Gradient of_hh() const {
    return {call_.d_weight_hh, space_.d_weight_hh, S::H_GATES, s_.hidden, space_.stride, s_.outputs, Cell::FIRST_H};
  }
  Gradient of_hr() const {
    return {call_.d_weight_hr, space_.d_weight_hr, 1, s_.outputs, space_.output_stride, s_.hidden, -1};
  }

  void pack(const Grid& grid, int number, int count) {
    const auto rows_of_gates = [&](const float* weight, int64_t columns, int first_gate) {
      return [=](int64_t k) -> const float* {
        const int64_t unit = k % space_.stride, gate = k / space_.stride + first_gate;
        if (unit >= s_.hidden) return nullptr;
        return weight + (Cell::row_block(static_cast<int>(gate)) * s_.hidden + unit) * columns;
      };
    };
    const int64_t x_depth = Cell::X_GATES * space_.stride, h_depth = S::H_GATES * space_.stride;
    if (number < grid.members()) {  // panels of a member's own, in all groups
      const Place& place = grid.place(number);
      pack_rows(h_depth, place.outputs, s_.outputs, space_.weight_hh + place.outputs.first * h_depth * LANES,
                rows_of_gates(call_.weight_hh, s_.outputs, Cell::FIRST_H));
      if (s_.projects) {
        pack_rows(s_.outputs, place.panels, s_.hidden, space_.weight_hr + place.panels.first * s_.outputs * LANES,
                  [&](int64_t k) { return call_.weight_hr + k * s_.hidden; });
      }
    }
    const Range panels = share(ceiling(space_.inputs, PANEL), number, count);
    const Range inputs{panels.first * PANEL, std::min(panels.end * PANEL, space_.inputs)};
    pack_rows(x_depth, inputs, s_.inputs, space_.weight_ih + inputs.first * x_depth * LANES,
              rows_of_gates(call_.weight_ih, s_.inputs, 0));
    for (const Gradient& gradient : {of_ih(), of_hh(), of_hr()}) {
      if (!s_.projects && gradient.first_gate < 0) continue;
      const Range mine = share(gradient.size(), number, count);
      std::fill(gradient.sums() + mine.first, gradient.sums() + mine.end, 0.0f);
    }
  }

  void begin(const Place& place) {
    for (int64_t row = place.rows.first; row < place.rows.end; ++row) {
      for (int64_t v = place.outputs.first; v < place.outputs.end; ++v) {
        const float* from = call_.dh_last + row * s_.outputs + v * LANES;
        store(space_.dh + row * space_.output_stride + v * LANES, load(from, filled(s_.outputs, v)));
      }
      for (int64_t v = place.panels.first; Cell::HAS_C && v < place.panels.end; ++v) {
        const float* from = call_.dc_last + row * s_.hidden + v * LANES;
        store(space_.dc + row * space_.stride + v * LANES, load(from, filled(s_.hidden, v)));
      }
    }
    for (int64_t slot = place.slots.first; slot < place.slots.end; ++slot) {
      for (int64_t j = 0; j < S::SUMS; ++j) {
        for (int64_t v = place.panels.first; v < place.panels.end; ++v) {
          store(sum(space_.sums, slot, j, v), Vec{});
          store(sum(space_.parts, slot, j, v), Vec{});
        }
      }
    }
  }

  // Steps ---------------------------------------------------------------------------------------------------------

  // The cotangent of h after step n, from the steps after it and from whoever used the output.
  Vec cotangent(int64_t n, int64_t row, int64_t v) const {
    const int64_t at = steps_.at(n) * s_.rows + row;
    const Vec later = load(space_.dh + row * space_.output_stride + v * LANES);
    const Vec used = load(call_.dh + at * s_.outputs + v * LANES, filled(s_.outputs, v));
    return steps_.restarts(n + 1, row) ? used : later + used;
  }

  // With a projection: the cotangents of outputs, those of a chunk together, as they are multiplied by W_hr.
  void through_outputs(int64_t n, const Chunk& chunk, const Place& place) {
    const int64_t t = steps_.at(n);
    for (int64_t row = place.rows.first; row < place.rows.end; ++row) {
      for (int64_t v = place.outputs.first; v < place.outputs.end; ++v) {
        const Vec dh = cotangent(n, row, v);
        const bool passes = !steps_.valid(t, row);
        store(d_out(chunk, t, row) + v * LANES, passes ? Vec{} : dh);
        store(space_.dh + row * space_.output_stride + v * LANES, passes ? dh : Vec{});
      }
    }
  }

  void through_projection(int64_t n, const Chunk& chunk, const Place& place) {
    for (int64_t row = place.rows.first; row < place.rows.end; ++row) {
      float* to = space_.d_raw + row * space_.stride;
      std::fill(to + place.panels.first * LANES, to + place.panels.end * LANES, 0.0f);
    }
    multiply(place.rows, s_.outputs, place.panels, d_out(chunk, steps_.at(n), 0), space_.output_stride,
             space_.weight_hr, space_.d_raw, space_.stride);
  }

  // Cotangents of a step's pre-activations, and of what passes by the products.
  void elementwise(int64_t n, const Chunk& chunk, const Place& place) {
    const int64_t t = steps_.at(n);
    for (int64_t v = place.panels.first; v < place.panels.end; ++v) {
      const int lanes = filled(s_.hidden, v);
      Vec own[Cell::OWN + 1];
      for (int j = 0; j < Cell::OWN; ++j) own[j] = load(call_.own + j * s_.hidden + v * LANES, lanes);
      for (int64_t slot = place.slots.first; slot < place.slots.end; ++slot) {
        Vec sums[S::SUMS] = {};
        const Range rows = rows_of({slot, slot + 1}, s_.rows);
        for (int64_t row = rows.first; row < rows.end; ++row) {
          const int64_t here = row * space_.stride + v * LANES;
          Vec dh = s_.projects ? load(space_.d_raw + here) : cotangent(n, row, v);
          Vec dc = {}, pre[S::SUMS] = {}, raw = {};
          if constexpr (Cell::HAS_C) dc = steps_.restarts(n + 1, row) ? Vec{} : load(space_.dc + here);
          if (steps_.valid(t, row)) {
            Vec kept[Cell::KEPT + 1], h_before = {}, h = {};
            const float* from = call_.kept + ((t * space_.units + v) * s_.rows + row) * Cell::KEPT * LANES;
            for (int j = 0; j < Cell::KEPT; ++j) kept[j] = load(from + j * LANES);
            if constexpr (!Cell::HAS_C) {
              if (!steps_.restarts(n, row)) h_before = load(before(n, row) + v * LANES, lanes);
              h = load(call_.h + (t * s_.rows + row) * s_.hidden + v * LANES, lanes);
            }
            raw = Cell::back(kept, own, h_before, h, dh, dc, pre, pre + Cell::PRE);
          }
          for (int j = 0; j < S::SUMS; ++j) sums[j] += pre[j];
          float* to = d_pre(chunk, t, row) + v * LANES;
          for (int j = 0; j < Cell::PRE; ++j) store(to + j * space_.stride, pre[j]);
          if constexpr (Cell::HAS_C) store(space_.dc + here, dc);
          if (s_.projects) {
            store(space_.raw + ((t - chunk.low) * s_.rows + row) * space_.stride + v * LANES, raw);
          } else {
            store(space_.dh + here, dh);
          }
        }
        for (int j = 0; j < S::SUMS; ++j) {
          float* part = sum(space_.parts, slot, j, v);
          store(part, load(part) + sums[j]);
        }
      }
    }
  }

  void through_product(int64_t n, const Chunk& chunk, const Place& place) {
    multiply(place.rows, S::H_GATES * space_.stride, place.outputs,
             d_pre(chunk, steps_.at(n), 0) + Cell::FIRST_H * space_.stride, space_.wide, space_.weight_hh,
             space_.dh, space_.output_stride);
  }

  // C += A B for some rows and some vectors of columns, those of one member.
  void multiply(Range rows, int64_t depth, Range vectors, const float* a, int64_t a_stride, const float* b,
                float* c, int64_t c_stride) const {
    for (int64_t first = rows.first; first < rows.end; first += TILE_ROWS) {
      const int64_t many = std::min<int64_t>(TILE_ROWS, rows.end - first);
      for (int64_t v = vectors.first; v < vectors.end; v += PANEL) {
        product(many, depth, static_cast<int>(std::min<int64_t>(PANEL, vectors.end - v)), a + first * a_stride,
                a_stride, b + v * depth * LANES, c + first * c_stride + v * LANES, c_stride, s_.rows == 1);
      }
    }
  }

  // Chunks --------------------------------------------------------------------------------------------------------

  // What gradients of weights are cotangents times of: h before a step, x, and h before its projection.
  void pack_right(const Chunk& chunk, const Batch& batch, Range rows) {
    float* x_right = space_.right + batch.depth * space_.output_stride;
    float* raw_right = x_right + batch.depth * space_.input_stride;
    for (int64_t k = rows.first; k < rows.end; ++k) {
      const int64_t at = chunk.low * s_.rows + batch.first + k, row = at % s_.rows, n = steps_.at(at / s_.rows);
      const bool out = !steps_.valid(at / s_.rows, row);
      pack_row(out || steps_.restarts(n, row) ? nullptr : before(n, row), s_.outputs, space_.outputs, batch.depth,
               k, space_.right);
      pack_row(out ? nullptr : call_.x + at * s_.inputs, s_.inputs, space_.inputs, batch.depth, k, x_right);
      if (s_.projects) {
        pack_row(space_.raw + (batch.first + k) * space_.stride, space_.stride, space_.units, batch.depth, k,
                 raw_right);
      }
    }
  }

  // d W += (cotangents)^T (what was multiplied), and the sums of cotangents.
  void of_weights(const Batch& batch, int number, int count) {
    const int64_t depth = batch.depth;
    const float *x_right = space_.right + depth * space_.output_stride,
                *raw_right = x_right + depth * space_.input_stride;
    const float* d_pre = space_.d_pre + batch.first * space_.wide;
    add_products(of_hh(), d_pre + Cell::FIRST_H * space_.stride, space_.wide, space_.right, depth, number, count);
    add_products(of_ih(), d_pre, space_.wide, x_right, depth, number, count);
    if (s_.projects) {
      add_products(of_hr(), space_.d_out + batch.first * space_.output_stride, space_.output_stride, raw_right,
                   depth, number, count);
    }
    if (batch.first == 0) fold_sums(share(space_.slots * S::SUMS, number, count));
  }

  // A chunk's part of the sums is added up before it joins them: it is small beside them, and would be rounded off.
  void fold_sums(Range rows) {
    for (int64_t at = rows.first * space_.stride; at < rows.end * space_.stride; at += LANES) {
      store(space_.sums + at, load(space_.sums + at) + load(space_.parts + at));
      store(space_.parts + at, Vec{});
    }
  }

  // Row k of panels [depth, PANEL]; null for zeros.
  static void pack_row(const float* from, int64_t features, int64_t all, int64_t depth, int64_t k, float* to) {
    for (int64_t v = 0; v < all; ++v) {
      const int64_t panel = v / PANEL, vectors = std::min<int64_t>(PANEL, all - panel * PANEL);
      store(to + (panel * PANEL * depth + k * vectors + v % PANEL) * LANES,
            from ? load(from + v * LANES, filled(features, v)) : Vec{});
    }
  }

  // Add left^T right, one thread's part of the gradient's rows, some blocks of rows at a time.
  static void add_products(const Gradient& to, const float* left, int64_t left_stride, const float* right,
                           int64_t depth, int number, int count) {
    const int64_t heights = ceiling(to.rows, BLOCK_ROWS), panels = ceiling(to.vectors(), PANEL);
    const Range mine = share(to.gates * heights, number, count);
    const bool packs = panels >= PANELS_TO_PACK_FOR;
    const int64_t stride = packs ? BLOCK_ROWS : left_stride;
    alignas(64) float packed[BLOCKS_AT_ONCE][DEPTH * BLOCK_ROWS];
    struct {
      const float* columns;  // of the left side
      int64_t gate, row, height;
    } blocks[BLOCKS_AT_ONCE];
    for (int64_t k = 0; k < depth; k += DEPTH) {
      const int64_t part = std::min<int64_t>(DEPTH, depth - k);
      for (int64_t first = mine.first; first < mine.end; first += BLOCKS_AT_ONCE) {
        const int64_t many = std::min(BLOCKS_AT_ONCE, mine.end - first);
        for (int64_t b = 0; b < many; ++b) {
          const int64_t gate = (first + b) / heights, row = (first + b) % heights * BLOCK_ROWS;
          const float* columns = left + k * left_stride + gate * to.stride + row;
          if (packs) pack_columns(part, columns, left_stride, packed[b]);
          blocks[b] = {packs ? packed[b] : columns, gate, row, std::min<int64_t>(BLOCK_ROWS, to.rows - row)};
        }
        for (int64_t p = 0; p < panels; ++p) {
          const int64_t vectors = to.vectors_of(p);
          for (int64_t b = 0; b < many; ++b) {
            const auto& [columns, gate, row, height] = blocks[b];
            for (int64_t v = 0; v < vectors; v += BLOCK_VECTORS) {
              const int64_t few = std::min<int64_t>(BLOCK_VECTORS, vectors - v);
              BLOCKS[static_cast<size_t>(few - 1)][static_cast<size_t>(height - 1)](
                  part, columns, 1, stride, right + (p * PANEL * depth + k * vectors + v) * LANES, vectors * LANES,
                  to.at(gate, row, p * PANEL + v), to.row_stride(p));
            }
          }
        }
      }
    }
  }

  // The columns of a block, as each of their rows is in another page, and a processor has few pages at hand. Always
  // as many as the highest block has: those after the last are the padding, or what follows in the workspace, and
  // unused.
  static void pack_columns(int64_t depth, const float* from, int64_t stride, float* to) {
    for (int64_t k = 0; k < depth; ++k) {
      std::memcpy(to + k * BLOCK_ROWS, from + k * stride, sizeof(float) * BLOCK_ROWS);
    }
  }

  // dx = (cotangents of pre-activations) W_ih, for some of a chunk's rows, counted over all its steps.
  void of_inputs(const Chunk& chunk, Range rows) {
    const int64_t depth = Cell::X_GATES * space_.stride;
    alignas(64) float tile[TILE_ROWS * PANEL * LANES];
    for (int64_t first = rows.first; first < rows.end; first += TILE_ROWS) {
      const int64_t many = std::min<int64_t>(TILE_ROWS, rows.end - first);
      for (int64_t v = 0; v < space_.inputs; v += PANEL) {
        const int64_t vectors = std::min<int64_t>(PANEL, space_.inputs - v);
        std::fill(tile, tile + many * vectors * LANES, 0.0f);
        product(many, depth, static_cast<int>(vectors), space_.d_pre + first * space_.wide, space_.wide,
                space_.weight_ih + v * depth * LANES, tile, vectors * LANES, false);
        for (int64_t row = 0; row < many; ++row) {
          float* to = call_.dx + (chunk.low * s_.rows + first + row) * s_.inputs;
          for (int64_t j = 0; j < vectors; ++j) {
            store(to + (v + j) * LANES, load(tile + (row * vectors + j) * LANES), filled(s_.inputs, v + j));
          }
        }
      }
    }
  }

  // Results -------------------------------------------------------------------------------------------------------

  void write_states(const Place& place) {
    for (int64_t row = place.rows.first; row < place.rows.end; ++row) {
      const bool cut = steps_.restarts(0, row);
      for (int64_t v = place.outputs.first; v < place.outputs.end; ++v) {
        const float* from = space_.dh + row * space_.output_stride + v * LANES;
        store(call_.dh_first + row * s_.outputs + v * LANES, cut ? Vec{} : load(from), filled(s_.outputs, v));
      }
      for (int64_t v = place.panels.first; Cell::HAS_C && v < place.panels.end; ++v) {
        const float* from = space_.dc + row * space_.stride + v * LANES;
        store(call_.dc_first + row * s_.hidden + v * LANES, cut ? Vec{} : load(from), filled(s_.hidden, v));
      }
    }
  }

  void write_weights(int number, int count) {
    unpack(of_ih(), number, count);
    unpack(of_hh(), number, count);
    if (s_.projects) unpack(of_hr(), number, count);
    for (int j = 0; number == 0 && j < S::SUMS; ++j) {
      float* to = j < Cell::PRE ? call_.d_bias + j * s_.hidden : call_.d_own + (j - Cell::PRE) * s_.hidden;
      for (int64_t v = 0; v < space_.units; ++v) {
        Vec total = {};
        for (int64_t slot = 0; slot < space_.slots; ++slot) total += load(sum(space_.sums, slot, j, v));
        store(to + v * LANES, total, filled(s_.hidden, v));
      }
    }
  }

  // From panels into torch's layout, whose blocks of rows are in another order.
  static void unpack(const Gradient& from, int number, int count) {
    const Range mine = share(from.in_place() ? 0 : from.gates * from.rows, number, count);
    for (int64_t r = mine.first; r < mine.end; ++r) {
      const int64_t gate = r / from.rows, row = r % from.rows;
      for (int64_t v = 0; v < from.vectors(); ++v) {
        store(from.at_result(gate, row) + v * LANES, load(from.at(gate, row, v)), filled(from.features, v));
      }
    }
  }

  // Places --------------------------------------------------------------------------------------------------------

  float* sum(float* of, int64_t slot, int64_t j, int64_t v) const {
    return of + (slot * S::SUMS + j) * space_.stride + v * LANES;
  }

  float* d_pre(const Chunk& chunk, int64_t t, int64_t row) const {
    return space_.d_pre + ((t - chunk.low) * s_.rows + row) * space_.wide;
  }

  float* d_out(const Chunk& chunk, int64_t t, int64_t row) const {
    return space_.d_out + ((t - chunk.low) * s_.rows + row) * space_.output_stride;
  }

  // h of a row before step n, unless it restarts there.
  const float* before(int64_t n, int64_t row) const {
    return (n == 0 ? call_.h_first : call_.h + steps_.at(n - 1) * s_.rows * s_.outputs) + row * s_.outputs;
  }

  const Backward& call_;
  const Sizes& s_;
  const S space_;
  const Steps steps_;
};
