// The searches of GGML's reference quantizers for the scale (and minimum) of a block, byte for byte: float32, sums in
// the order of the elements, products from left to right. Source: llama.cpp, ggml-quants.c (make_qx_quants,
// make_qkx2_quants, make_qkx3_quants, make_qp_quants). Internal linkage, see float16.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"
#include "rounding.h"

namespace quantmill {

// A block whose largest magnitude is below this counts as zero.
constexpr float negligible = 1e-15f;

// ---- x ~ scale * code, code in -levels .. levels - 1 ----

template <typename Floats>
struct SignedGrid {
    Floats scale;           // may be negative: the value of largest magnitude gets the code -levels
    Floats inverse;         // the codes of the search are nearest(inverse * x)
    MaskOf<Floats> is_zero;
};

// Codes as stored, code + levels; a zero block stores zeros.
template <typename Floats>
static inline Floats codes_of(const SignedGrid<Floats>& grid, const Floats& x, float levels) {
    const Floats stored = nearest_code(grid.inverse * x, -levels, levels - 1.0f) + levels;
    return select(grid.is_zero, Floats{}, stored);
}

// Tries 19 spacings around levels / max|x|; the winner has the largest sum(w x q)^2 / sum(w q q), the least squares
// criterion after the best scale for its codes is taken.
template <typename Floats, int n>
static inline SignedGrid<Floats> search_signed(float levels, const Floats (&x)[n], const Floats (&weights)[n]) {
    Floats largest{}, magnitude{};  // the first value of largest magnitude, with its sign
    for (int i = 0; i < n; ++i) {
        const Floats candidate = absolute(x[i]);
        const auto greater = candidate > magnitude;
        magnitude = select(greater, candidate, magnitude);
        largest = select(greater, x[i], largest);
    }

    Floats weighted[n];
    for (int i = 0; i < n; ++i) weighted[i] = weights[i] * x[i];

    Floats sum_xq, sum_qq;
    const auto project = [&](const Floats& inverse) {
        sum_xq = sum_qq = Floats{};
        for (int i = 0; i < n; ++i) {
            const Floats code = nearest_code(inverse * x[i], -levels, levels - 1.0f);
            sum_xq += weighted[i] * code;
            sum_qq += weights[i] * code * code;
        }
    };

    SignedGrid<Floats> grid;
    grid.is_zero = magnitude < negligible;
    grid.inverse = -levels / largest;
    project(grid.inverse);
    grid.scale = select(sum_qq != 0.0f, sum_xq / sum_qq, Floats{});
    Floats best = grid.scale * sum_xq;
    for (int step = -9; step <= 9; ++step) {
        if (step == 0) continue;
        const Floats inverse = -(levels + 0.1f * static_cast<float>(step)) / largest;
        project(inverse);
        const auto better = (sum_qq > 0.0f) & (sum_xq * sum_xq > best * sum_qq);
        const Floats scale = sum_xq / sum_qq;
        grid.scale = select(better, scale, grid.scale);
        grid.inverse = select(better, inverse, grid.inverse);
        best = select(better, scale * sum_xq, best);
    }
    grid.scale = select(grid.is_zero, Floats{}, grid.scale);
    return grid;
}

// ---- x ~ scale * code - minimum, code in 0 .. top, minimum >= 0 ----

template <typename Floats>
struct AffineGrid {
    Floats scale;
    Floats minimum;
    Floats inverse, origin;  // the codes of the search are nearest(inverse * (x - origin))
};

template <typename Floats>
static inline Floats codes_of(const AffineGrid<Floats>& grid, const Floats& x, float top) {
    return nearest_code(grid.inverse * (x - grid.origin), 0.0f, top);
}

// The spacings tried are (top + first + step * k) / range for k = 0..last.
struct AffineSteps {
    float top;
    float first, step;
    int last;
};

// For each spacing the codes are rounded, scale and minimum are fitted to them by weighted least squares, and kept if
// the weighted squared error falls. As in the reference, an accepted minimum is also the origin and the lower end of
// the range from which the next spacings are tried.
template <typename Floats, int n>
static inline AffineGrid<Floats> search_affine(const AffineSteps& steps, const Floats (&x)[n],
                                               const Floats (&weights)[n]) {
    const Floats zero{};
    Floats low = x[0], high = x[0];
    Floats sum_w = weights[0], sum_x = weights[0] * x[0];
    for (int i = 1; i < n; ++i) {
        low = select(x[i] < low, x[i], low);
        high = select(x[i] > high, x[i], high);
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    low = select(low > 0.0f, zero, low);
    const auto is_flat = high == low;

    Floats codes[n];
    const auto error_of = [&](const Floats& scale, const Floats& offset) {
        Floats error{};
        for (int i = 0; i < n; ++i) {
            const Floats difference = scale * codes[i] + offset - x[i];
            error += weights[i] * (difference * difference);
        }
        return error;
    };

    Floats inverse = steps.top / (high - low);
    for (int i = 0; i < n; ++i) codes[i] = nearest_code(inverse * (x[i] - low), 0.0f, steps.top);
    AffineGrid<Floats> grid{1.0f / inverse, low, inverse, low};
    Floats least_error = error_of(grid.scale, low);

    for (int k = 0; k <= steps.last; ++k) {
        inverse = (steps.first + steps.step * static_cast<float>(k) + steps.top) / (high - low);
        Floats sum_q{}, sum_qq{}, sum_xq{};
        for (int i = 0; i < n; ++i) {
            const Floats code = nearest_code(inverse * (x[i] - low), 0.0f, steps.top);
            const Floats weighted = weights[i] * code;
            codes[i] = code;
            sum_q += weighted;
            sum_qq += weighted * code;
            sum_xq += weighted * x[i];
        }
        const Floats determinant = sum_w * sum_qq - sum_q * sum_q;
        Floats scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        Floats offset = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
        const auto is_above = offset > 0.0f;
        scale = select(is_above, sum_xq / sum_qq, scale);
        offset = select(is_above, zero, offset);
        const Floats error = error_of(scale, offset);
        const auto better = (determinant > 0.0f) & (error < least_error) & ~is_flat;
        least_error = select(better, error, least_error);
        grid.scale = select(better, scale, grid.scale);
        grid.inverse = select(better, inverse, grid.inverse);
        grid.origin = select(better, low, grid.origin);
        low = select(better, offset, low);
    }
    grid.minimum = -low;
    grid.scale = select(is_flat, zero, grid.scale);
    grid.inverse = select(is_flat, zero, grid.inverse);
    grid.origin = select(is_flat, zero, grid.origin);
    return grid;
}

// ---- x ~ scale * code, x >= 0, code in 0 .. top: the scales (or minima) of the sub-blocks of a super-block ----

// Returns the scale; `codes` gets the codes. Nine spacings by weighted squared error, then up to five passes that move
// one code at a time while sum(w x q)^2 / sum(w q q) grows.
template <int n>
static inline float search_positive(int top, const float (&x)[n], const float (&weights)[n], uint8_t (&codes)[n]) {
    float largest = 0.0f;
    for (int i = 0; i < n; ++i) largest = std::max(largest, x[i]);
    if (largest < negligible) {
        std::fill(codes, codes + n, uint8_t{0});
        return 0.0f;
    }

    const auto error_of = [&](float inverse) {
        const float scale = 1.0f / inverse;
        float error = 0.0f;
        for (int i = 0; i < n; ++i) {
            const float code = static_cast<float>(std::min(top, nearest_int(inverse * x[i])));
            const float difference = x[i] - scale * code;
            error += weights[i] * difference * difference;
        }
        return error;
    };
    float inverse = static_cast<float>(top) / largest;
    float least_error = error_of(inverse);
    for (int step = -4; step <= 4; ++step) {
        if (step == 0) continue;
        const float candidate = (0.1f * static_cast<float>(step) + static_cast<float>(top)) / largest;
        const float error = error_of(candidate);
        if (error < least_error) {
            least_error = error;
            inverse = candidate;
        }
    }

    float sum_xq = 0.0f, sum_qq = 0.0f;
    for (int i = 0; i < n; ++i) {
        const int code = std::min(top, nearest_int(inverse * x[i]));
        codes[i] = static_cast<uint8_t>(code);
        sum_xq += weights[i] * x[i] * static_cast<float>(code);
        sum_qq += weights[i] * static_cast<float>(code) * static_cast<float>(code);
    }
    for (int pass = 0; pass < 5; ++pass) {
        bool moved = false;
        for (int i = 0; i < n; ++i) {
            const float w = weights[i], old_code = static_cast<float>(codes[i]);
            float xq = sum_xq - w * x[i] * old_code;
            float qq = sum_qq - w * old_code * old_code;
            if (!(xq > 0.0f && qq > 0.0f)) continue;
            const int code = std::min(top, nearest_int(x[i] * qq / xq));
            if (code == codes[i]) continue;
            const float new_code = static_cast<float>(code);
            xq += w * x[i] * new_code;
            qq += w * new_code * new_code;
            if (!(xq * xq * sum_qq > sum_xq * sum_xq * qq)) continue;
            codes[i] = static_cast<uint8_t>(code);
            sum_xq = xq;
            sum_qq = qq;
            moved = true;
        }
        if (!moved) break;
    }
    return sum_qq > 0.0f ? sum_xq / sum_qq : 0.0f;
}

}  // namespace quantmill
