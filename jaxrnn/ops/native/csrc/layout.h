// How a call is divided into tasks, and where its arrays lie.
//
// Tasks form a grid: `groups` of rows, which need nothing from each other, times `members`, each with some of the
// hidden units, which have to be done with a step before the next one begins. Where rows are many, there are groups
// only, and each makes all its steps alone; where they are few, or weights many, members, as many as have enough to
// do.

constexpr int TILE_ROWS = 48;              // whose sums are computed at once, and stay in the first-level cache
constexpr int SLOT_ROWS = 16;              // that one thread computes, and adds up to a sum of their own
constexpr int FEW_ROWS = 24;               // with fewer, the inputs of several steps are multiplied at once
constexpr int ROWS_AHEAD = 8;              // steps times rows whose inputs are multiplied while members hand over h
constexpr int64_t PART_AHEAD = 64;         // columns of W_ih that are multiplied at once then, so that nobody waits
constexpr int64_t CHUNK_ROWS = 128;        // of the backward pass: steps times rows whose gradients are one product
constexpr int64_t BATCH = 1 << 16;         // floats of what a chunk's cotangents are multiplied with at once
constexpr int64_t BLOCKS_AT_ONCE = 8;      // of a gradient of weights, so that a panel is read once for all of them
constexpr int64_t PANELS_TO_PACK_FOR = 4;  // columns of cotangents, before they are multiplied with so many
constexpr int64_t OWN_WEIGHTS = 1 << 18;   // floats of weights that one thread can keep close
constexpr int64_t CLOSE_WEIGHTS = 1 << 14;  // floats that two first-level caches hold
constexpr int64_t MEMBERS_WORK = 1 << 12;   // multiplications by W_hh in a step that a member is worth waiting for
constexpr int64_t STRETCH = 1 << 21;        // multiplications by W_hh in steps for which threads stay together

inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t first, end;
};

// What one of several gets of so many things.
inline Range share(int64_t things, int64_t member, int64_t members) {
  return {things * member / members, things * (member + 1) / members};
}

inline Range rows_of(const Range& slots, int64_t rows) {
  return {std::min(slots.first * SLOT_ROWS, rows), std::min(slots.end * SLOT_ROWS, rows)};
}

// The lanes of vector v that hold something.
inline int filled(int64_t features, int64_t v) {
  return static_cast<int>(std::min<int64_t>(LANES, features - v * LANES));
}

// What one task's is.
struct Place {
  Range slots, rows, panels, outputs;  // panels of hidden units, vectors of outputs
  int64_t member;
};

inline void nothing(int64_t, const Place&) {}  // before a step

class Grid {
 public:
  // `panels` hold hidden units, `outputs` are vectors of h, `weights` counts the floats of W_hh.
  Grid(const Sizes& s, int64_t panels, int64_t outputs, int64_t weights, int threads)
      : rows_(s.rows), panels_(panels), outputs_(outputs) {
    const int64_t most = std::min<int64_t>(threads, s.rows / SLOT_ROWS);
    groups_ = std::max(most, std::min<int64_t>(threads * TASKS_EACH, s.rows / TILE_ROWS));
    if (threads == 1 || s.rows < FEW_ROWS || (weights > OWN_WEIGHTS && panels >= threads)) groups_ = 1;
    const int64_t work = s.rows * weights / groups_;  // of a step of one group
    members_ = std::max<int64_t>(1, std::min({threads / groups_, panels, work / MEMBERS_WORK}));
    stretch_ = std::max<int64_t>(1, STRETCH / (s.rows * weights));
    for (int64_t task = 0; task < groups_ * members_; ++task) places_.push_back(place_of(task));
  }

  int tasks() const { return static_cast<int>(groups_ * members_); }
  int64_t members() const { return members_; }

  // Do `before(step, place)` and `work(step, place)` for each place and each step in turn. Members are done with
  // the work of a step before that of the next begins; what is to be done before it does not wait, and may touch
  // only what is its place's own.
  template <typename Before, typename Work>
  void each_step(Team& team, int64_t steps, const Before& before, const Work& work) const {
    if (members_ > 1) {
      team.each_step(
          steps, tasks(), stretch_, [&](int64_t step, int task) { before(step, place(task)); },
          [&](int64_t step, int task) { work(step, place(task)); });
      return;
    }
    team.each(tasks(), [&](int task) {
      for (int64_t step = 0; step < steps; ++step) {
        before(step, place(task));
        work(step, place(task));
      }
    });
  }

  const Place& place(int task) const { return places_[static_cast<size_t>(task)]; }

 private:
  Place place_of(int64_t task) const {
    const int64_t member = task % members_;
    const Range slots = share(ceiling(rows_, SLOT_ROWS), task / members_, groups_);
    return {slots, rows_of(slots, rows_), share(panels_, member, members_), share(outputs_, member, members_),
            member};
  }

  int64_t rows_, panels_, outputs_, groups_, members_, stretch_;
  std::vector<Place> places_;
};

// The steps in the order of the loop, and the marks on them.
struct Steps {
  const Sizes& sizes;
  const bool *where_valid, *where_restart;  // [T, B], or null

  int64_t at(int64_t n) const { return sizes.reverse ? sizes.steps - 1 - n : n; }
  // Where some of them begin in memory.
  int64_t low(const Range& some) const { return at(sizes.reverse ? some.end - 1 : some.first); }
  bool valid(int64_t t, int64_t row) const { return !where_valid || where_valid[t * sizes.rows + row]; }
  // Whether step n of the loop begins from zeros; there is none after the last.
  bool restarts(int64_t n, int64_t row) const {
    return where_restart && n < sizes.steps && where_restart[at(n) * sizes.rows + row];
  }
};

// Arrays in a workspace, one after the other; a workspace at null has a size only.
class Space {
 public:
  explicit Space(float* base) : base_(base) {
    if (base) used_ = static_cast<int64_t>((64 - reinterpret_cast<uintptr_t>(base) % 64) % 64 / sizeof(float));
  }
  float* take(int64_t count) {
    float* here = base_ ? base_ + used_ : nullptr;
    used_ += ceiling(count, 16) * 16;
    return here;
  }
  int64_t size() const { return used_ + 16; }

 private:
  float* base_;
  int64_t used_ = 0;
};

// Vectors of hidden units, of outputs and of inputs; floats from row to row.
struct Layout {
  int64_t units, stride, outputs, output_stride, inputs, input_stride;
  explicit Layout(const Sizes& s)
      : units(ceiling(s.hidden, LANES)),
        stride(units * LANES),
        outputs(ceiling(s.outputs, LANES)),
        output_stride(outputs * LANES),
        inputs(ceiling(s.inputs, LANES)),
        input_stride(inputs * LANES) {}
};

// Pack a panel [depth, vectors] of the transposed of a matrix whose row for column c is `row(c)`, null for zeros.
template <typename Row>
void pack_transposed(int64_t depth, int64_t vectors, float* to, const Row& row) {
  const int64_t width = vectors * LANES, part = 64;  // rows of the panel that stay in the first-level cache
  for (int64_t first = 0; first < depth; first += part) {
    const int64_t end = std::min(first + part, depth);
    for (int64_t column = 0; column < width; ++column) {
      const float *from = row(column), *later = column + 4 < width ? row(column + 4) : nullptr;
      for (int64_t k = first; later && k < end; k += 16) __builtin_prefetch(later + k);  // too short to be guessed
      for (int64_t k = first; k < end; ++k) to[k * width + column] = from ? from[k] : 0;
    }
  }
}

// Pack panels [depth, PANEL] of some vectors of columns of a matrix whose row k is `row(k)`, null for zeros.
template <typename Row>
void pack_rows(int64_t depth, Range vectors, int64_t columns, float* to, const Row& row) {
  constexpr int64_t PART = 16;  // rows that are read from one end to the other, before the next are
  for (int64_t first = 0; first < depth; first += PART) {
    const int64_t end = std::min(first + PART, depth);
    for (int64_t v = vectors.first; v < vectors.end; v += PANEL) {
      const int64_t width = std::min<int64_t>(PANEL, vectors.end - v);
      float* here = to + ((v - vectors.first) * depth + first * width) * LANES;
      for (int64_t k = first; k < end; ++k) {
        const float* from = row(k);
        for (int64_t j = v; j < v + width; ++j, here += LANES) {
          store(here, from ? load(from + j * LANES, filled(columns, j)) : Vec{});
        }
      }
    }
  }
}
