// Vectors of floats, and the nonlinearities of recurrent networks on them.
//
// Included once for each instruction set, inside a namespace of its own: `isa_*.cc` define JAXRNN_LANES.
// Vector extensions of GCC and Clang, so that one text serves AVX-512, AVX2 and NEON.

constexpr int LANES = JAXRNN_LANES;

typedef float Vec __attribute__((vector_size(4 * JAXRNN_LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * JAXRNN_LANES)));

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// The first `count` lanes; the others are zero.
inline Vec load(const float* from, int count) {
  if (count >= LANES) return load(from);
  Vec v = {};
  std::memcpy(&v, from, sizeof(float) * static_cast<size_t>(count));
  return v;
}

inline void store(float* to, Vec v, int count) {
  if (count >= LANES) {
    store(to, v);
  } else {
    std::memcpy(to, &v, sizeof(float) * static_cast<size_t>(count));
  }
}

inline Vec splat(float x) { return x - Vec{}; }  // which every compiler knows to be a broadcast

inline Vec select(IntVec condition, Vec yes, Vec no) { return condition ? yes : no; }

inline Vec clamp(Vec x, float least, float most) {
  const Vec low = splat(least), high = splat(most);
  x = select(x < low, low, x);
  return select(x > high, high, x);
}

// e^x = scale * (1 + rest), |rest| < 1/2, between e^-87 and e^88. NaN stays NaN.
struct Exponential {
  Vec scale, rest;
  explicit Exponential(Vec x) {
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds, and leaves n in the lowest bits.
    const Vec magic = splat(12582912.0f);
    const Vec shifted = x * splat(1.44269504f) + magic;
    const Vec n = shifted - magic;
    const Vec r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    // e^r = 1 + r + r^2 q(r); q by Remez' exchange, 3e-9 off.
    Vec q = splat(0.00138145986f);
    q = q * r + splat(0.00836871688f);
    q = q * r + splat(0.0416683880f);
    q = q * r + splat(0.166665206f);
    q = q * r + splat(0.499999934f);
    rest = (q * r) * r + r;
    scale =
        reinterpret_cast<Vec>((reinterpret_cast<IntVec>(shifted) << 23) + reinterpret_cast<IntVec>(splat(1.0f)));
  }
};

// 1 / (1 + e^-x), to 2.5 units in the last place.
inline Vec sigmoid(Vec x) {
  const Exponential e(clamp(-x, -87.0f, 88.0f));
  return splat(1.0f) / ((e.scale * e.rest + e.scale) + splat(1.0f));
}

// m / (m + 2) with m = e^2x - 1, which nothing is lost of where e^2x is near 1; to 2.5 units in the last place.
inline Vec hyperbolic_tangent(Vec x) {
  x = clamp(x, -9.1f, 9.1f);  // beyond it is 1
  const Exponential e(x + x);
  const Vec m = e.scale * e.rest + (e.scale - splat(1.0f));
  return m / (m + splat(2.0f));
}
