// The values that a code can stand for, before the scale. Each code book offers `entry`, the nearest of its values on
// lanes, `code`, the integer that is stored for it, and `least`, its value of largest magnitude. NaN counts as `least`.
// `entry_inside` is `entry` for a magnitude of at most 0.51 less than that of `least`.
// Internal linkage, see lanes.h.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace quantmill {
namespace {

// -levels .. levels - 1; a tie goes to the even value. The stored code is the value + levels.
template <int levels>
struct SignedIntegers {
    static constexpr float least = -static_cast<float>(levels);

    static Floats entry(const Floats& value) { return nearest_code(value, least, -least - 1.0f); }
    static Floats entry_inside(const Floats& value) { return nearest(value); }
    static Floats code(const Floats& value) { return entry(value) - least; }
};

constexpr float non_linear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Halfway between the values k and k + 1.
constexpr float threshold(int k) { return 0.5f * (non_linear[k] + non_linear[k + 1]); }

#if defined(__AVX512F__)
// At most one threshold lies in the bucket [8 j - 4, 8 j + 4], j = -16 .. 15. Indexed by the five low bits of j.
struct Buckets {
    float limit[32], below[32], above[32], code_below[32];

    constexpr Buckets() : limit(), below(), above(), code_below() {
        for (int j = -16; j < 16; ++j) {
            int k = 0;
            while (k < 14 && threshold(k) < static_cast<float>(8 * j - 4)) ++k;
            limit[j & 31] = threshold(k);
            below[j & 31] = non_linear[k];
            above[j & 31] = non_linear[k + 1];
            code_below[j & 31] = static_cast<float>(k);
        }
    }
};
constexpr Buckets buckets;
#elif defined(__AVX2__)
// Thresholds and values for a search by halves, in the order in which each step finds them.
struct Halves {
    float second[8], third[8], fourth[8], even[8], odd[8];

    constexpr Halves() : second(), third(), fourth(), even(), odd() {
        for (int k = 0; k < 8; ++k) {
            if (k < 2) second[k] = threshold(8 * k + 3);
            if (k < 4) third[k] = threshold(4 * k + 1);
            fourth[k] = threshold(2 * k);
            even[k] = non_linear[2 * k];
            odd[k] = non_linear[2 * k + 1];
        }
    }
};
constexpr Halves halves;
#endif

// The sixteen values of IQ4_NL and IQ4_XS; a tie goes to the lower one.
struct NonLinear {
    static constexpr float least = non_linear[0];

    static Floats values(const Bytes& codes) {
        Bytes table;  // two's complement
        for (int k = 0; k < 16; ++k) table[k] = static_cast<uint8_t>(static_cast<int8_t>(non_linear[k]));
        return floats_of_signed(entries_of(table, codes));
    }
    static Floats entry_inside(const Floats& value) { return entry(value); }

#if defined(__AVX512F__)
    static Floats entry(const Floats& value) {
        const Floats inside = smaller(larger(value, all(least)), all(non_linear[15]));
        const Floats above = look_up(buckets.above, inside), below = look_up(buckets.below, inside);
        return select(inside > look_up(buckets.limit, inside), above, below);
    }
    static Floats code(const Floats& value) {
        const Floats inside = smaller(larger(value, all(least)), all(non_linear[15]));
        const Floats below = look_up(buckets.code_below, inside);
        return select(inside > look_up(buckets.limit, inside), below + 1.0f, below);
    }
    static Floats look_up(const float (&table)[32], const Floats& inside) {
        const __m512i j = _mm512_castps_si512(inside * 0.125f + rounder);
        return _mm512_permutex2var_ps(_mm512_loadu_ps(table), j, _mm512_loadu_ps(table + 16));
    }
#elif defined(__AVX2__)
    using Pairs = MaskOf<Floats8>;  // which two neighbours of the table, 0 .. 7

    static Floats entry(const Floats& value) { return {entry(value.low), entry(value.high)}; }
    static Floats code(const Floats& value) { return {code(value.low), code(value.high)}; }

    static Floats8 entry(const Floats8& value) {
        const Pairs pair = pair_of(value);
        return value > look_up(halves.fourth, pair) ? look_up(halves.odd, pair) : look_up(halves.even, pair);
    }
    static Floats8 code(const Floats8& value) {
        const Pairs pair = pair_of(value);
        const Floats8 even = __builtin_convertvector(pair + pair, Floats8);
        return value > look_up(halves.fourth, pair) ? even + 1.0f : even;
    }
    static Pairs pair_of(const Floats8& value) {
        Pairs pair = -(value > threshold(7));
        pair = pair + pair - (value > look_up(halves.second, pair));
        return pair + pair - (value > look_up(halves.third, pair));
    }
    static Floats8 look_up(const float (&table)[8], const Pairs& pair) {
        return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), reinterpret_cast<__m256i>(pair));
    }
#else
    static Floats entry(const Floats& value) {
        Floats reached = all(least);
        for (int k = 0; k < 15; ++k) reached = select(value > all(threshold(k)), all(non_linear[k + 1]), reached);
        return reached;
    }
    static Floats code(const Floats& value) {
        Floats code{};
        for (int k = 0; k < 15; ++k) code += select(value > all(threshold(k)), all(1.0f), Floats{});
        return code;
    }
#endif
};

}  // namespace
}  // namespace quantmill
