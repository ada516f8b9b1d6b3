// Matrix products of what lies in the cache.
//
// The right operand is packed into panels: a few vectors of columns, one row after the other, so that it is read
// from one end to the other. A block of BLOCK_ROWS rows by up to BLOCK_VECTORS vectors is summed up in registers.

constexpr int BLOCK_ROWS = JAXRNN_BLOCK_ROWS;
constexpr int BLOCK_VECTORS = JAXRNN_BLOCK_VECTORS;
constexpr int PANEL = 4;        // vectors of columns of a panel, at most
constexpr int WIDE_ROWS = 2;    // with no more, a block is as wide as a panel
constexpr int FAR_DEPTH = 256;  // a deeper panel is of a matrix that a second-level cache does not hold
constexpr int FEW_BLOCKS = 3;   // leave no time to fetch ahead
constexpr int DEPTH = 128;      // of a part of a panel that is used again from the first-level cache

// Or sums would be kept in memory: GCC unrolls by itself, but too late to tell that they need not be.
#define UNROLLED _Pragma("GCC unroll 8")

// C [ROWS, VECTORS] += A [ROWS, depth] B [depth, VECTORS], summed up apart before it is added: that is two sums
// of few numbers rather than one of many, and rounds less. A's rows are `row_stride` apart, its columns
// `column_stride`.
template <int ROWS, int VECTORS>
void block(int64_t depth, const float* a, int64_t row_stride, int64_t column_stride, const float* b,
           int64_t b_stride, float* c, int64_t c_stride) {
  Vec sums[ROWS][VECTORS];
  UNROLLED for (int row = 0; row < ROWS; ++row) { UNROLLED for (int v = 0; v < VECTORS; ++v) sums[row][v] = Vec{}; }
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[VECTORS];
    UNROLLED for (int v = 0; v < VECTORS; ++v) right[v] = load(b + v * LANES);
    UNROLLED for (int row = 0; row < ROWS; ++row) {
      const Vec left = splat(a[row * row_stride]);
      UNROLLED for (int v = 0; v < VECTORS; ++v) sums[row][v] += left * right[v];
    }
    a += column_stride;
    b += b_stride;
  }
  UNROLLED for (int row = 0; row < ROWS; ++row) {
    UNROLLED for (int v = 0; v < VECTORS; ++v) {
      float* to = c + row * c_stride + v * LANES;
      store(to, load(to) + sums[row][v]);
    }
  }
}

using Block = void (*)(int64_t, const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t);

template <int VECTORS, int... ROWS>
constexpr std::array<Block, sizeof...(ROWS)> blocks_of(std::integer_sequence<int, ROWS...>) {
  return {&block<ROWS + 1, VECTORS>...};
}

template <int... VECTORS>
constexpr auto all_blocks(std::integer_sequence<int, VECTORS...>) {
  return std::array<std::array<Block, BLOCK_ROWS>, sizeof...(VECTORS)>{
      blocks_of<VECTORS + 1>(std::make_integer_sequence<int, BLOCK_ROWS>())...};
}

inline constexpr auto BLOCKS = all_blocks(std::make_integer_sequence<int, PANEL>());

// c [VECTORS] += a [depth] B, for one row. Each addition waits for the one before it, so even and odd steps are
// summed up apart: so much at once keeps a core busy.
template <int VECTORS>
void row_block(int64_t depth, const float* a, const float* b, float* c) {
  Vec even[VECTORS], odd[VECTORS];
  UNROLLED for (int v = 0; v < VECTORS; ++v) even[v] = odd[v] = Vec{};
  int64_t k = 0;
  for (; k + 2 <= depth; k += 2, b += 2 * VECTORS * LANES) {
    const Vec left = splat(a[k]), next = splat(a[k + 1]);
    UNROLLED for (int v = 0; v < VECTORS; ++v) even[v] += left * load(b + v * LANES);
    UNROLLED for (int v = 0; v < VECTORS; ++v) odd[v] += next * load(b + (VECTORS + v) * LANES);
  }
  if (k < depth) {
    const Vec left = splat(a[k]);
    UNROLLED for (int v = 0; v < VECTORS; ++v) even[v] += left * load(b + v * LANES);
  }
  UNROLLED for (int v = 0; v < VECTORS; ++v) store(c + v * LANES, load(c + v * LANES) + (even[v] + odd[v]));
}

using RowBlock = void (*)(int64_t, const float*, const float*, float*);
inline constexpr std::array<RowBlock, PANEL> ROW_BLOCKS = {&row_block<1>, &row_block<2>, &row_block<3>,
                                                           &row_block<4>};

// C [rows, vectors] += A [rows, depth] B, one panel of `vectors` vectors. `is_only`: there is no other row in the
// whole call. (Not whether `rows` is 1: a row may be alone with some numbers of threads, and not with others.)
inline void product(int64_t rows, int64_t depth, int vectors, const float* a, int64_t row_stride, const float* b,
                    float* c, int64_t c_stride, bool is_only) {
  const int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  // Whether, while one part of the panel is multiplied, the next is fetched, some of it before each block.
  const bool fetches = depth > FAR_DEPTH && blocks > FEW_BLOCKS;
  const int widest = rows <= WIDE_ROWS ? PANEL : BLOCK_VECTORS;
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t part = std::min<int64_t>(DEPTH, depth - k);
    if (is_only) {
      ROW_BLOCKS[vectors - 1](part, a + k, b + k * vectors * LANES, c);
      continue;
    }
    for (int v = 0; v < vectors; v += widest) {
      const auto& of_rows = BLOCKS[std::min(widest, vectors - v) - 1];
      const float* next = b + (v + widest < vectors ? k * vectors + v + widest : (k + part) * vectors) * LANES;
      for (int64_t n = 0; n < blocks; ++n) {  // of about the same height, as a low one is slow
        const int64_t first = rows * n / blocks, height = rows * (n + 1) / blocks - first;
        for (int64_t i = part * n / blocks; fetches && i < part * (n + 1) / blocks; ++i) {
          for (int j = 0; j < widest * LANES; j += 16) __builtin_prefetch(next + i * vectors * LANES + j);
        }
        of_rows[height - 1](part, a + first * row_stride + k, row_stride, 1, b + (k * vectors + v) * LANES,
                            vectors * LANES, c + first * c_stride + v * LANES, c_stride);
      }
    }
  }
}
