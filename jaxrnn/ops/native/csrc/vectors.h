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

inline Vec select(IntVec condition, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((condition & reinterpret_cast<IntVec>(yes)) |
                               (~condition & reinterpret_cast<IntVec>(no)));
}

// e^x to 1.5 units in the last place, between e^-87 and e^88; NaN stays NaN.
inline Vec exponential(Vec x) {
  const Vec low = splat(-87.0f), high = splat(88.0f);
  x = select(x < low, low, x);
  x = select(x > high, high, x);
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
  const Vec y = (q * r) * r + r + splat(1.0f);
  const IntVec power = (reinterpret_cast<IntVec>(shifted) << 23) + reinterpret_cast<IntVec>(splat(1.0f));
  return y * reinterpret_cast<Vec>(power);
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exponential(-x)); }

// tanh to 2 units in the last place: a polynomial (Remez' exchange) up to 0.625, then 1 - 2 / (e^2x + 1).
inline Vec hyperbolic_tangent(Vec x) {
  const IntVec sign_bit = reinterpret_cast<IntVec>(splat(-0.0f));
  const Vec magnitude = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(x) & ~sign_bit);
  const Vec s = x * x;
  Vec q = splat(-0.00571704506f);
  q = q * s + splat(0.0206505873f);
  q = q * s + splat(-0.0537434981f);
  q = q * s + splat(0.133314913f);
  q = q * s + splat(-0.333332839f);
  const Vec small = x + x * (s * q);
  const Vec large = splat(1.0f) - splat(2.0f) / (exponential(magnitude + magnitude) + splat(1.0f));
  const Vec signed_large =
      reinterpret_cast<Vec>(reinterpret_cast<IntVec>(large) | (reinterpret_cast<IntVec>(x) & sign_bit));
  return select(magnitude < splat(0.625f), small, signed_large);
}
