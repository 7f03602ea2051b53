// Float to integer as GGML's reference does it, with every input defined. Internal linkage, see float16.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace quantmill {

// Round half to even for |value| < 2^22 by adding 1.5 * 2^23, which pushes the fraction out of the mantissa. Larger
// values, inf and NaN give some integer in [-2^22, 2^22), the same one as GGML's: degenerate blocks must not differ.
static inline int nearest_int(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value + 12582912.0f);
    return static_cast<int>(bits & 0x007FFFFFu) - 0x00400000;
}

// C truncation, with x86's answer where C has none: what does not fit an int is INT_MIN, whose low byte is 0.
static inline int truncate(float value) {
    return std::fabs(value) < 2147483648.0f ? static_cast<int>(value) : INT32_MIN;
}

// Round half away from zero (C's roundf). Below 2^23 the sum of |value| and one half would round up for the largest
// float below one half, so the half is decided on the exact remainder.
static inline float round_half_away(float value) {
    const float magnitude = std::fabs(value);
    if (!(magnitude < 8388608.0f)) return value;
    const float whole = static_cast<float>(static_cast<int>(magnitude));
    const float rounded = magnitude - whole >= 0.5f ? whole + 1.0f : whole;
    return std::copysign(rounded, value);
}

}  // namespace quantmill
