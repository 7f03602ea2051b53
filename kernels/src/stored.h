// Values of a checkpoint read in place, at any address. Plain loops over these vectorize; loops over structs of bytes do
// not. Internal linkage, see lanes.h.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/source.h"

namespace quantmill {
namespace {

// The bits of a value; those of its magnitude compare as integers, NaN above infinity above all others.
template <Source>
struct Stored;

template <>
struct Stored<Source::float32> {
    using Bits = int32_t;
    static constexpr Bits magnitude = 0x7FFFFFFF;
    static float value(int32_t bits) { return std::bit_cast<float>(bits); }
};

template <>
struct Stored<Source::bfloat16> {
    using Bits = int16_t;
    static constexpr Bits magnitude = 0x7FFF;
    static float value(int16_t bits) { return std::bit_cast<float>(static_cast<int32_t>(bits) << 16); }
};

template <>
struct Stored<Source::float16> {
    using Bits = int16_t;
    static constexpr Bits magnitude = 0x7FFF;
    // Subnormals: with the least normal exponent the fraction stands where it belongs, plus 2^-14. Inf and NaN keep the
    // largest exponent.
    static float value(int16_t stored) {
        const int32_t bits = stored, sign = bits & static_cast<int32_t>(0x80000000u);
        const int32_t normal = ((bits & 0x7FFF) << 13) + (112 << 23);
        const int32_t shifted = std::bit_cast<int32_t>(std::bit_cast<float>(normal + (1 << 23)) - 0x1p-14f);
        const int32_t finite = normal < 113 << 23 ? shifted : normal;
        return std::bit_cast<float>((normal < 143 << 23 ? finite : normal | 0x7F800000) | sign);
    }
};

template <Source source>
inline typename Stored<source>::Bits bits_at(const void* values, size_t i) {
    typename Stored<source>::Bits bits;
    std::memcpy(&bits, static_cast<const uint8_t*>(values) + i * sizeof bits, sizeof bits);
    return bits;
}

template <Source source>
inline float value_at(const void* values, size_t i) {
    return Stored<source>::value(bits_at<source>(values, i));
}

// The largest magnitude; infinite or no number if one of the values is.
template <Source source>
inline float largest_magnitude(const void* values, size_t n) {
    using Bits = typename Stored<source>::Bits;
    Bits largest = 0;
    for (size_t i = 0; i < n; ++i) {
        const Bits magnitude = static_cast<Bits>(bits_at<source>(values, i) & Stored<source>::magnitude);
        largest = magnitude > largest ? magnitude : largest;
    }
    return Stored<source>::value(largest);
}

inline float largest_magnitude(Source source, const void* values, size_t n) {
    switch (source) {
        case Source::float32: return largest_magnitude<Source::float32>(values, n);
        case Source::float16: return largest_magnitude<Source::float16>(values, n);
        case Source::bfloat16: return largest_magnitude<Source::bfloat16>(values, n);
    }
    return 0.0f;
}

template <Source source>
inline void widen(const void* values, size_t n, float* __restrict widened) {
    for (size_t i = 0; i < n; ++i) widened[i] = value_at<source>(values, i);
}

}  // namespace
}  // namespace quantmill
