// What the formats with one scale per 32 values share when nothing is searched: the range of a block gives the scale.
// Internal linkage, see lanes.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "float16.h"
#include "lanes.h"

namespace quantmill {
namespace {

struct Range {
    float low, high;

    float absmax() const { return std::fabs(high > -low ? high : low); }  // zero is positive
};

template <int n>
inline Range range_of(const float* x) {
    Floats low = load(x), high = low;
    for (int i = lanes; i < n; i += lanes) {
        low = smaller(load(x + i), low);
        high = larger(load(x + i), high);
    }
    return {-largest_lane(-low), largest_lane(high)};
}

// The value of largest magnitude with its sign; of two opposite ones the first.
template <int n>
inline float largest_of(const float* x) {
    const Range range = range_of<n>(x);
    if (range.high != -range.low) return range.high > -range.low ? range.high : range.low;
    for (int i = 0; i < n; ++i) {
        if (std::fabs(x[i]) == range.high) return x[i];
    }
    return range.high;
}

// The inverse of a scale by which codes are rounded. A block so small that it overflows gets the code 0 everywhere.
struct Rounding {
    float inverse, bias;

    Rounding(float scale, float half_up) : inverse(inverse_of(scale)), bias(half_up) {
        if (std::isinf(inverse)) inverse = bias = 0.0f;
    }
};

// x = scale * (code - levels), code 0 .. 2 levels - 1.
inline Half encode_range_signed(const float* x, float levels, uint8_t (&codes)[32]) {
    const float largest = largest_of<32>(x);
    const float scale = std::fabs(largest) > 0.0f ? largest / -levels : -0.0f;
    const Rounding rounding(scale, levels + 0.5f);
    for (int i = 0; i < 32; i += lanes) {
        const Floats scaled = load(x + i) * rounding.inverse + rounding.bias;
        store_bytes(smaller(scaled, all(2.0f * levels - 1.0f)), codes + i);
    }
    return to_half(scale);
}

struct ScaleAndMinimum {
    Half scale, minimum;
};

// x = scale * code + minimum, code 0 .. top.
inline ScaleAndMinimum encode_range_shifted(const float* x, float top, uint8_t (&codes)[32]) {
    Range range = range_of<32>(x);
    for (int i = 0; range.low == 0.0f && i < 32; ++i) {  // zero keeps the sign of the first one
        if (x[i] != 0.0f) continue;
        range.low = x[i];
        break;
    }
    const float scale = (range.high - range.low + 0.0f) / top;  // never -0
    const Rounding rounding(scale, 0.5f);
    for (int i = 0; i < 32; i += lanes) {
        const Floats scaled = (load(x + i) - range.low) * rounding.inverse + rounding.bias;
        store_bytes(smaller(scaled, all(top)), codes + i);
    }
    return {to_half(scale), to_half(range.low)};
}

// Value j in the low half of byte j, value j + 16 in the high half.
inline void pack_halves(const uint8_t (&codes)[32], uint8_t (&packed)[16]) {
    for (int j = 0; j < 16; ++j) packed[j] = static_cast<uint8_t>((codes[j] & 15) | codes[j + 16] << 4);
}

// Bit j of the four bytes: the fifth bit of value j. The product moves the bit of byte k to bit 56 + k.
inline void pack_fifth_bits(const uint8_t (&codes)[32], uint8_t (&packed)[4]) {
    for (int byte = 0; byte < 4; ++byte) {
        uint64_t eight;
        std::memcpy(&eight, codes + 8 * byte, sizeof eight);
        packed[byte] = static_cast<uint8_t>((eight >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56);
    }
}

inline void unpack_halves(const uint8_t (&packed)[16], uint8_t (&codes)[32]) {
    for (int j = 0; j < 16; ++j) codes[j] = packed[j] & 15;
    for (int j = 0; j < 16; ++j) codes[j + 16] = packed[j] >> 4;
}

inline void unpack_fifth_bits(const uint8_t (&packed)[4], uint8_t (&codes)[32]) {
    for (int j = 0; j < 32; ++j) codes[j] = static_cast<uint8_t>(codes[j] | (packed[j / 8] >> j % 8 & 1) << 4);
}

}  // namespace
}  // namespace quantmill
