// Searches for the scale (and offset) of sixteen blocks at once, by weighted least squares. A candidate's error is taken
// from its accumulated sums, so that a candidate costs one pass over the values. Internal linkage, see lanes.h.
#pragma once

#include <limits>
#include <type_traits>

#include "lanes.h"
#include "rows_of_blocks.h"

namespace quantmill {
namespace {

// The spacings tried are (top + first + step * k) / range for k = 0 .. last; then `rounds` times the codes are rounded
// again for the best fit so far and fitted again.
struct Steps {
    float first, step;
    int last;
    int rounds;
};

// A value that is less than half a code beyond the last one rounds back to it, whatever the inverse was rounded to.
constexpr float rounds_back = 0.49f;

struct Effort {
    Steps steps;
    int passes;  // of the refinement of a super-block
};

// ---- what the values weigh ----

// All equal. A compiler leaves the products with 1 out.
struct EqualWeights {
    Floats operator[](int) const { return all(1.0f); }
};

// Those of the importance matrix.
template <int n>
struct Importance {
    Floats of_lanes[n];

    const Floats& operator[](int i) const { return of_lanes[i]; }
};

// ---- x ~ scale * code + offset, code in 0 .. top, scale >= 0 ----

enum class Offset { not_positive, free };

struct AffineFit {
    Floats scale, offset;
};

// Sums over the values of a block with codes q: w, w t, w q, w q q, w t q, where t = x - low.
struct AffineSums {
    Floats w, t, q, qq, tq;
};

struct AffineBest {
    AffineFit fit;  // of t
    Floats gain;    // sum(w t t) - error
};

// Fits scale and offset to the codes that gave `sums` and keeps them where the error falls.
template <Offset sign>
inline void keep_better(const AffineSums& sums, const Floats& low, AffineBest& best) {
    const Floats determinant = sums.w * sums.qq - sums.q * sums.q;
    const Floats offset_numerator = sums.qq * sums.t - sums.q * sums.tq;
    Floats numerator = sums.w * sums.tq - sums.t * sums.q, denominator = determinant;
    const Mask is_above = offset_numerator + low * determinant > Floats{};
    if constexpr (sign == Offset::not_positive) {
        numerator = select(is_above, sums.tq + low * sums.q, numerator);
        denominator = select(is_above, sums.qq, denominator);
    }
    const Floats inverse = 1.0f / denominator, scale = numerator * inverse;
    Floats offset = offset_numerator * inverse;
    if constexpr (sign == Offset::not_positive) offset = select(is_above, -low, offset);
    const Floats gain = scale * (2.0f * sums.tq - scale * sums.qq) +
                        offset * (2.0f * (sums.t - scale * sums.q) - offset * sums.w);
    // Below that the determinant is rounding noise: all codes are equal.
    const Mask spread = determinant > 1e-5f * (sums.w * sums.qq);
    const Mask better = spread & (scale > Floats{}) & (gain > best.gain);
    best.fit.scale = select(better, scale, best.fit.scale);
    best.fit.offset = select(better, offset, best.fit.offset);
    best.gain = select(better, gain, best.gain);
}

template <Offset sign, typename Weights, int n>
inline AffineFit search_affine(float top, const Steps& steps, const Floats (&x)[n], const Weights& weights) {
    Floats low = sign == Offset::free ? x[0] : smaller(x[0], Floats{}), high = x[0];
    for (int i = 1; i < n; ++i) {
        low = smaller(x[i], low);
        high = larger(x[i], high);
    }
    Floats t[n], weighted[n];
    AffineSums sums{};
    for (int i = 0; i < n; ++i) {
        t[i] = x[i] - low;
        weighted[i] = weights[i] * t[i];
        sums.w += weights[i];
        sums.t += weighted[i];
    }
    const auto try_codes = [&](const auto& code_of, AffineBest& best) {
        Floats q{}, qq{}, tq{};
        for (int i = 0; i < n; ++i) {
            const Floats code = code_of(t[i]), wq = weights[i] * code;
            q += wq;
            qq += wq * code;
            tq += (std::is_same_v<Weights, EqualWeights> ? t[i] : weighted[i]) * code;
        }
        keep_better<sign>({sums.w, sums.t, q, qq, tq}, low, best);
    };

    const Floats range = high - low, inverse_range = 1.0f / range, highest = all(top);
    AffineBest best{{range / top, Floats{}}, all(-std::numeric_limits<float>::infinity())};
    for (int k = 0; k <= steps.last; ++k) {
        const float beyond = steps.first + steps.step * static_cast<float>(k);
        const Floats inverse = (top + beyond) * inverse_range;
        if (beyond < rounds_back) {
            try_codes([&](const Floats& value) { return nearest(value * inverse); }, best);
        } else {
            try_codes([&](const Floats& value) { return nearest(smaller(value * inverse, highest)); }, best);
        }
    }
    for (int round = 0; round < steps.rounds; ++round) {
        const Floats inverse = 1.0f / best.fit.scale, offset = best.fit.offset;
        try_codes([&](const Floats& value) { return nearest_code((value - offset) * inverse, 0.0f, top); }, best);
    }
    best.fit.offset += low;
    return best.fit;
}

// ---- x ~ scale * value of the code ----

// The scale may be negative: the first candidates give the value of largest magnitude the least of the code book.
template <typename Book, typename Weights, int n>
inline Floats search_signed(const Steps& steps, const Floats (&x)[n], const Weights& weights) {
    Floats low{}, high{}, weighted[n];
    for (int i = 0; i < n; ++i) {
        low = smaller(x[i], low);
        high = larger(x[i], high);
        weighted[i] = weights[i] * x[i];
    }
    const Floats largest = select(high > -low, high, low);
    Floats best_scale = largest / Book::least, best_gain = all(-std::numeric_limits<float>::infinity());
    const auto try_entries = [&](const auto& entry_of) {
        Floats xq{}, qq{};
        for (int i = 0; i < n; ++i) {
            const Floats entry = entry_of(x[i]);
            xq += (std::is_same_v<Weights, EqualWeights> ? x[i] : weighted[i]) * entry;
            qq += weights[i] * entry * entry;
        }
        const Floats scale = xq / qq, gain = scale * xq;
        const Mask better = (qq > Floats{}) & (gain > best_gain);
        best_scale = select(better, scale, best_scale);
        best_gain = select(better, gain, best_gain);
    };
    const Floats inverse_largest = 1.0f / largest;
    for (int k = 0; k <= steps.last; ++k) {
        const float beyond = steps.first + steps.step * static_cast<float>(k);
        const Floats inverse = (Book::least - beyond) * inverse_largest;
        if (beyond < rounds_back - 1.0f) {
            try_entries([&](const Floats& value) { return Book::entry_inside(value * inverse); });
        } else {
            try_entries([&](const Floats& value) { return Book::entry(value * inverse); });
        }
    }
    for (int round = 0; round < steps.rounds; ++round) {
        const Floats inverse = 1.0f / best_scale;
        try_entries([&](const Floats& value) { return Book::entry(value * inverse); });
    }
    return best_scale;
}

// ---- the sub-blocks of super-blocks ----

// The sub-blocks of the super-blocks [first, first + count). The lanes above repeat the first super-block.
template <int group, int n>
inline void turn_sub_blocks(const RowsOfBlocks& rows, size_t first, size_t count, Floats (&x)[n]) {
    const float* values[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        const size_t b = first + static_cast<size_t>(lane / group) % count;
        values[lane] = rows.values + 256 * b + n * (lane % group);
    }
    turn(values, x);
}

template <int group>
inline void turn_weights(const RowsOfBlocks&, size_t, size_t, EqualWeights&) {}

template <int group, int n>
inline void turn_weights(const RowsOfBlocks& rows, size_t first, size_t count, Importance<n>& weights) {
    const float* imatrix[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        const size_t b = first + static_cast<size_t>(lane / group) % count;
        imatrix[lane] = imatrix_of(rows, b, 256) + n * (lane % group);
    }
    turn(imatrix, weights.of_lanes);
}

}  // namespace
}  // namespace quantmill
