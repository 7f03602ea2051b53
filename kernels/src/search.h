// Searches for the scale (and offset) of sixteen blocks at once, by weighted least squares. A candidate's error is taken
// from its accumulated sums, so that a candidate costs one pass over the values. Internal linkage, see lanes.h.
#pragma once

#include <limits>

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

struct Effort {
    Steps steps;
    int passes;  // of the refinement of a super-block
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
    Floats scale = (sums.w * sums.tq - sums.t * sums.q) / determinant;
    Floats offset = (sums.qq * sums.t - sums.q * sums.tq) / determinant;
    if constexpr (sign == Offset::not_positive) {
        const Mask is_above = offset + low > Floats{};
        scale = select(is_above, (sums.tq + low * sums.q) / sums.qq, scale);
        offset = select(is_above, -low, offset);
    }
    const Floats gain = scale * (2.0f * sums.tq - scale * sums.qq) +
                        offset * (2.0f * (sums.t - scale * sums.q) - offset * sums.w);
    // Below that the determinant is rounding noise: all codes are equal.
    const Mask spread = determinant > 1e-5f * (sums.w * sums.qq);
    const Mask better = spread & (scale > Floats{}) & (gain > best.gain);
    best.fit.scale = select(better, scale, best.fit.scale);
    best.fit.offset = select(better, offset, best.fit.offset);
    best.gain = select(better, gain, best.gain);
}

template <Offset sign, int n>
inline AffineFit search_affine(float top, const Steps& steps, const Floats (&x)[n], const Floats (&weights)[n]) {
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
    const auto sum_over = [&](const auto& code_of) {
        sums.q = sums.qq = sums.tq = Floats{};
        for (int i = 0; i < n; ++i) {
            const Floats code = code_of(t[i]);
            const Floats wq = weights[i] * code;
            sums.q += wq;
            sums.qq += wq * code;
            sums.tq += weighted[i] * code;
        }
    };

    const Floats range = high - low;
    AffineBest best{{range / top, Floats{}}, all(-std::numeric_limits<float>::infinity())};
    const Floats highest = all(top);
    for (int k = 0; k <= steps.last; ++k) {
        const Floats inverse = (top + steps.first + steps.step * static_cast<float>(k)) / range;
        sum_over([&](const Floats& value) { return nearest(smaller(value * inverse, highest)); });
        keep_better<sign>(sums, low, best);
    }
    for (int round = 0; round < steps.rounds; ++round) {
        const Floats inverse = 1.0f / best.fit.scale;
        const Floats offset = best.fit.offset;
        sum_over([&](const Floats& value) { return nearest_code((value - offset) * inverse, 0.0f, top); });
        keep_better<sign>(sums, low, best);
    }
    best.fit.offset += low;
    return best.fit;
}

// ---- x ~ scale * value of the code ----

// The scale may be negative: the first candidates give the value of largest magnitude the least of the code book.
template <typename Book, int n>
inline Floats search_signed(const Steps& steps, const Floats (&x)[n], const Floats (&weights)[n]) {
    Floats low{}, high{}, weighted[n];
    for (int i = 0; i < n; ++i) {
        low = smaller(x[i], low);
        high = larger(x[i], high);
        weighted[i] = weights[i] * x[i];
    }
    const Floats largest = select(high > -low, high, low);
    Floats best_scale = largest / Book::least, best_gain = all(-std::numeric_limits<float>::infinity());
    const auto try_inverse = [&](const Floats& inverse) {
        Floats xq{}, qq{};
        for (int i = 0; i < n; ++i) {
            const Floats entry = Book::entry(x[i] * inverse);
            xq += weighted[i] * entry;
            qq += weights[i] * entry * entry;
        }
        const Floats scale = xq / qq, gain = scale * xq;
        const Mask better = (qq > Floats{}) & (gain > best_gain);
        best_scale = select(better, scale, best_scale);
        best_gain = select(better, gain, best_gain);
    };
    for (int k = 0; k <= steps.last; ++k) {
        try_inverse((Book::least - steps.first - steps.step * static_cast<float>(k)) / largest);
    }
    for (int round = 0; round < steps.rounds; ++round) try_inverse(1.0f / best_scale);
    return best_scale;
}

// ---- groups of lanes: the sub-blocks of one super-block ----

struct LaneSums {
    double of_lane[lanes];  // of the whole group, in each of its lanes
};

template <int group>
inline LaneSums sums_of_groups(const Floats& values) {
    float each[lanes];
    store(values, each);
    LaneSums sums;
    for (int first = 0; first < lanes; first += group) {
        double sum = 0.0;
        for (int lane = first; lane < first + group; ++lane) sum += each[lane];
        for (int lane = first; lane < first + group; ++lane) sums.of_lane[lane] = sum;
    }
    return sums;
}

// The largest positive value of a group, in each of its lanes; 0 if there is none.
template <int group>
inline Floats largest_of_groups(const Floats& values) {
    float each[lanes];
    store(values, each);
    for (int first = 0; first < lanes; first += group) {
        float largest = 0.0f;
        for (int lane = first; lane < first + group; ++lane) largest = each[lane] > largest ? each[lane] : largest;
        for (int lane = first; lane < first + group; ++lane) each[lane] = largest;
    }
    return load(each);
}

template <int group>
inline Mask falls_in_groups(const Floats& old_error, const Floats& error) {
    const LaneSums before = sums_of_groups<group>(old_error), after = sums_of_groups<group>(error);
    float falls[lanes];
    for (int lane = 0; lane < lanes; ++lane) falls[lane] = after.of_lane[lane] < before.of_lane[lane] ? 1.0f : 0.0f;
    return load(falls) > Floats{};
}

// The sub-blocks of the super-blocks [first, first + count), and their weights: the importance, or 1. The lanes above
// repeat the first super-block.
template <int group, int n>
inline void turn_sub_blocks(const RowsOfBlocks& rows, size_t first, size_t count, Floats (&x)[n], Floats (&weights)[n]) {
    const float* values[lanes];
    const float* imatrix[lanes];
    for (int lane = 0; lane < lanes; ++lane) {
        const size_t b = first + static_cast<size_t>(lane / group) % count;
        values[lane] = rows.values + 256 * b + n * (lane % group);
        imatrix[lane] = rows.imatrix ? imatrix_of(rows, b, 256) + n * (lane % group) : nullptr;
    }
    turn(values, x);
    if (rows.imatrix) {
        turn(imatrix, weights);
    } else {
        for (Floats& weight : weights) weight = all(1.0f);
    }
}

}  // namespace
}  // namespace quantmill
