// Matrix products of what lies in the cache.
//
// The right operand is packed into panels: a few vectors of columns, one row after the other, so that it is read
// from one end to the other. A block of BLOCK_ROWS rows by up to BLOCK_VECTORS vectors is summed up in registers.

constexpr int BLOCK_ROWS = JAXRNN_BLOCK_ROWS;
constexpr int BLOCK_VECTORS = JAXRNN_BLOCK_VECTORS;
constexpr int DEPTH = 128;  // of a part of a panel that is used again from the first-level cache

// C [ROWS, VECTORS] += A [ROWS, depth] B [depth, VECTORS], summed up apart before it is added: that is two sums
// of few numbers rather than one of many, and rounds less. A's rows are `row_stride` apart, its columns
// `column_stride`.
template <int ROWS, int VECTORS>
void block(int64_t depth, const float* a, int64_t row_stride, int64_t column_stride, const float* b,
           int64_t b_stride, float* c, int64_t c_stride) {
  Vec sums[ROWS][VECTORS] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[VECTORS];
    for (int v = 0; v < VECTORS; ++v) right[v] = load(b + v * LANES);
    for (int row = 0; row < ROWS; ++row) {
      const Vec left = splat(a[row * row_stride]);
      for (int v = 0; v < VECTORS; ++v) sums[row][v] += left * right[v];
    }
    a += column_stride;
    b += b_stride;
  }
  for (int row = 0; row < ROWS; ++row) {
    for (int v = 0; v < VECTORS; ++v) {
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

inline constexpr auto BLOCKS = all_blocks(std::make_integer_sequence<int, BLOCK_VECTORS>());

// C [rows, vectors] += A [rows, depth] B, one panel of `vectors` vectors.
inline void product(int64_t rows, int64_t depth, int vectors, const float* a, int64_t row_stride, const float* b,
                    float* c, int64_t c_stride) {
  const int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t part = std::min<int64_t>(DEPTH, depth - k);
    for (int v = 0; v < vectors; v += BLOCK_VECTORS) {
      const auto& of_rows = BLOCKS[std::min(BLOCK_VECTORS, vectors - v) - 1];
      for (int64_t n = 0; n < blocks; ++n) {  // of about the same height, as a low one is slow
        const int64_t first = rows * n / blocks, height = rows * (n + 1) / blocks - first;
        of_rows[height - 1](part, a + first * row_stride + k, row_stride, 1, b + (k * vectors + v) * LANES,
                            vectors * LANES, c + first * c_stride + v * LANES, c_stride);
      }
    }
  }
}
