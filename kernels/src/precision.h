// Rounding to the dtype in which a reference computes: half to even, float16 overflows to infinity. The value is not NaN.
// Plain loops over these vectorize. Internal linkage, see lanes.h.
#pragma once

#include <bit>
#include <cstdint>

#include "formats/source.h"

namespace quantmill {
namespace {

// All but the uppermost bits of the mantissa dropped.
template <int dropped>
inline float without_last_bits(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), odd = bits >> dropped & 1;
    return std::bit_cast<float>((bits + (1u << (dropped - 1)) - 1 + odd) & (~0u << dropped));
}

template <Source precision>
inline float rounded(float value) {
    if constexpr (precision == Source::bfloat16) return without_last_bits<16>(value);
    if constexpr (precision == Source::float16) {
        const int32_t bits = std::bit_cast<int32_t>(value), sign = bits & static_cast<int32_t>(0x80000000u);
        const float magnitude = std::bit_cast<float>(bits & 0x7FFFFFFF);
        const float normal = without_last_bits<13>(magnitude);
        const float subnormal = (magnitude + 0.5f) - 0.5f;  // the last place of 0.5 is float16's last, 2^-24
        const float finite = magnitude < 0x1p-14f ? subnormal : normal;
        const int32_t stored = finite < 65536.0f ? std::bit_cast<int32_t>(finite) : 0x7F800000;
        return std::bit_cast<float>(stored | sign);
    }
    return value;
}

inline float rounded(Source precision, float value) {
    switch (precision) {
        case Source::float16: return rounded<Source::float16>(value);
        case Source::bfloat16: return rounded<Source::bfloat16>(value);
        case Source::float32: return value;
    }
    return value;
}

}  // namespace
}  // namespace quantmill
