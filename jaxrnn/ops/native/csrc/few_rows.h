// Pre-activations where a call has few rows.
//
// Inputs of a chunk of steps are multiplied together, or W_ih would be read for few rows. Where it takes members a
// good part of a step to hand over h, they multiply inputs of the next chunk meanwhile, some at each step.

template <typename Cell>
class FewRows {
 public:
  FewRows(const Forward& call, const ForwardSpace<Cell>& space, const Steps& steps, int64_t members)
      : call_(call),
        s_(call.sizes),
        space_(space),
        steps_(steps),
        is_ahead_(space.ahead_pays && members > 1),
        chunk_(is_ahead_ ? space.chunk_ahead : space.chunk) {}

  // A step, in the order of the loop.
  struct Step {
    int64_t chunk;   // which it is of, by the first step of that
    int64_t number;  // in its chunk
    int64_t offset;  // of its pre-activations, among those of a panel
  };

  Step step(int64_t n) const {
    const int64_t number = n % chunk_, chunk = n - number;
    return {chunk, number, offset_of(chunk) + (steps_.at(n) - low(chunk)) * s_.rows * S::WIDTH};
  }

  bool is_ahead() const { return is_ahead_; }

  // Multiply inputs of the next chunk, in two halves: one after h went out to the others, before it is asked
  // whether theirs is there, and one after that, while it is fetched.
  void ahead(const Step& step, const Place& place, int half) const {
    if (step.chunk + step.number + half == 0) multiply(place, place.panels, 0, 0, 1);
    const int64_t next = step.chunk + chunk_;
    if (next < s_.steps) multiply(place, place.panels, next, 2 * step.number + half, 2 * chunk_);
  }

  // W_ih x + b of a step, for all rows.
  float* inputs(const Step& step, const Place& place, int64_t panel) const {
    if (!is_ahead_ && step.number == 0) multiply(place, {panel, panel + 1}, step.chunk, 0, 1);
    return sums(step, place, panel);
  }

  float* sums(const Step& step, const Place& place, int64_t panel) const {
    return of_panel(place, panel) + step.offset;
  }

 private:
  using S = ForwardSpace<Cell>;

  int64_t steps_of(int64_t chunk) const { return std::min(chunk_, s_.steps - chunk); }
  // Where it begins in memory.
  int64_t low(int64_t chunk) const { return steps_.low({chunk, chunk + steps_of(chunk)}); }

  float* of_panel(const Place& place, int64_t panel) const {
    return space_.pre + panel * space_.panel_sums + place.member * space_.apart;
  }
  int64_t offset_of(int64_t chunk) const {
    return is_ahead_ ? chunk / chunk_ % 2 * chunk_ * s_.rows * S::WIDTH : 0;
  }

  // W_ih x + b of a chunk, one of several shares of it.
  void multiply(const Place& place, Range panels, int64_t chunk, int64_t one, int64_t of) const {
    const int64_t rows = steps_of(chunk) * s_.rows, blocks = is_ahead_ ? ceiling(rows, BLOCK_ROWS) : 1;
    // Also of a single thread, which is not ahead: the order of additions must not depend on how many there are.
    const int64_t depth = space_.ahead_pays ? PART_AHEAD : s_.inputs;
    const int64_t parts = ceiling(s_.inputs, depth);
    const Range some = share((panels.end - panels.first) * parts * blocks, one, of);
    for (int64_t n = some.first; n < some.end; ++n) {
      const int64_t panel = panels.first + n / blocks / parts, k = n / blocks % parts * depth;
      const Range block = share(rows, n % blocks, blocks);
      float* to = of_panel(place, panel) + offset_of(chunk) + block.first * S::WIDTH;
      const float* x = call_.x + (low(chunk) * s_.rows + block.first) * s_.inputs;
      space_.from_inputs(panel, x, block.end - block.first, {k, std::min(k + depth, s_.inputs)}, to);
    }
  }

  const Forward& call_;
  const Sizes& s_;
  const ForwardSpace<Cell>& space_;
  const Steps& steps_;
  bool is_ahead_;
  int64_t chunk_;  // steps
};
