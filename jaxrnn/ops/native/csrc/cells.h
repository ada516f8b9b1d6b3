// What each cell does between its products, on vectors: `jaxrnn.cells` in C++, with derivatives in reverse.
//
// A cell's pre-activations are ordered so that those with a part from x come first and those with a part from h
// come last: X_GATES of PRE, and all from FIRST_H on. `row_block` is torch's block of H rows for each of them. A
// panel holds all pre-activations of UNITS vectors of hidden units.

struct Lstm {
  static constexpr int PRE = 4, X_GATES = 4, FIRST_H = 0, UNITS = 1, KEPT = 5, OWN = 0;
  static constexpr bool HAS_C = true;
  static constexpr int row_block(int pre) { return pre; }

  static void step(const Vec* pre, const Vec*, Vec& h, Vec& c, Vec* kept) {
    const Vec i = sigmoid(pre[0]), f = sigmoid(pre[1]), g = hyperbolic_tangent(pre[2]), o = sigmoid(pre[3]);
    kept[0] = i, kept[1] = f, kept[2] = g, kept[3] = o, kept[4] = c;
    c = f * c + i * g;
    h = o * hyperbolic_tangent(c);
  }

  // In: the cotangents of h and c after the step; out: of h (what does not go through a product) and c before it.
  // Returns h, which a projection's gradient needs.
  static Vec back(const Vec* kept, const Vec*, Vec, Vec, Vec& dh, Vec& dc, Vec* d_pre, Vec*) {
    const Vec one = splat(1.0f), i = kept[0], f = kept[1], g = kept[2], o = kept[3], c = kept[4];
    const Vec squashed = hyperbolic_tangent(f * c + i * g);
    const Vec d = dc + dh * o * (one - squashed * squashed);
    d_pre[0] = d * g * i * (one - i);
    d_pre[1] = d * c * f * (one - f);
    d_pre[2] = d * i * (one - g * g);
    d_pre[3] = dh * squashed * o * (one - o);
    dc = d * f;
    dh = Vec{};
    return o * squashed;
  }
};

struct PeepholeLstm {
  static constexpr int PRE = 4, X_GATES = 4, FIRST_H = 0, UNITS = 1, KEPT = 5, OWN = 3;
  static constexpr bool HAS_C = true;
  static constexpr int row_block(int pre) { return pre; }

  static void step(const Vec* pre, const Vec* own, Vec& h, Vec& c, Vec* kept) {
    const Vec i = sigmoid(pre[0] + own[0] * c), f = sigmoid(pre[1] + own[1] * c);
    const Vec g = hyperbolic_tangent(pre[2]), after = f * c + i * g, o = sigmoid(pre[3] + own[2] * after);
    kept[0] = i, kept[1] = f, kept[2] = g, kept[3] = o, kept[4] = c;
    c = after;
    h = o * hyperbolic_tangent(after);
  }

  static Vec back(const Vec* kept, const Vec* own, Vec, Vec, Vec& dh, Vec& dc, Vec* d_pre, Vec* d_own) {
    const Vec one = splat(1.0f), i = kept[0], f = kept[1], g = kept[2], o = kept[3], c = kept[4];
    const Vec after = f * c + i * g, squashed = hyperbolic_tangent(after);
    d_pre[3] = dh * squashed * o * (one - o);
    const Vec d = dc + dh * o * (one - squashed * squashed) + d_pre[3] * own[2];
    d_pre[0] = d * g * i * (one - i);
    d_pre[1] = d * c * f * (one - f);
    d_pre[2] = d * i * (one - g * g);
    d_own[0] = d_pre[0] * c, d_own[1] = d_pre[1] * c, d_own[2] = d_pre[3] * after;
    dc = d * f + d_pre[0] * own[0] + d_pre[1] * own[1];
    dh = Vec{};
    return o * squashed;
  }
};

struct Gru {  // pre-activations n_x, r, z, n_h
  static constexpr int PRE = 4, X_GATES = 3, FIRST_H = 1, UNITS = 1, KEPT = 4, OWN = 0;
  static constexpr bool HAS_C = false;
  static constexpr int row_block(int pre) { return pre == 0 || pre == 3 ? 2 : pre - 1; }

  static void step(const Vec* pre, const Vec*, Vec& h, Vec&, Vec* kept) {
    const Vec r = sigmoid(pre[1]), z = sigmoid(pre[2]), n = hyperbolic_tangent(pre[0] + r * pre[3]);
    kept[0] = r, kept[1] = z, kept[2] = n, kept[3] = pre[3];
    h = (splat(1.0f) - z) * n + z * h;
  }

  static Vec back(const Vec* kept, const Vec*, Vec h_before, Vec h_after, Vec& dh, Vec&, Vec* d_pre, Vec*) {
    const Vec one = splat(1.0f), r = kept[0], z = kept[1], n = kept[2], n_h = kept[3];
    const Vec d = dh * (one - z) * (one - n * n);
    d_pre[0] = d;
    d_pre[1] = d * n_h * r * (one - r);
    d_pre[2] = dh * (h_before - n) * z * (one - z);
    d_pre[3] = d * r;
    dh = dh * z;
    return h_after;
  }
};

struct Tanh {
  static constexpr int PRE = 1, X_GATES = 1, FIRST_H = 0, UNITS = 4, KEPT = 0, OWN = 0;
  static constexpr bool HAS_C = false;
  static constexpr int row_block(int pre) { return pre; }

  static void step(const Vec* pre, const Vec*, Vec& h, Vec&, Vec*) { h = hyperbolic_tangent(pre[0]); }

  static Vec back(const Vec*, const Vec*, Vec, Vec h_after, Vec& dh, Vec&, Vec* d_pre, Vec*) {
    d_pre[0] = dh * (splat(1.0f) - h_after * h_after);
    dh = Vec{};
    return h_after;
  }
};

struct Relu {
  static constexpr int PRE = 1, X_GATES = 1, FIRST_H = 0, UNITS = 4, KEPT = 0, OWN = 0;
  static constexpr bool HAS_C = false;
  static constexpr int row_block(int pre) { return pre; }

  static void step(const Vec* pre, const Vec*, Vec& h, Vec&, Vec*) {
    h = select(pre[0] < Vec{}, Vec{}, pre[0]);  // so that NaN stays NaN
  }

  static Vec back(const Vec*, const Vec*, Vec, Vec h_after, Vec& dh, Vec&, Vec* d_pre, Vec*) {
    d_pre[0] = select(h_after > Vec{}, dh, Vec{});
    dh = Vec{};
    return h_after;
  }
};
