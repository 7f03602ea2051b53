// Floats of a few bits without infinities: E4M3 (OCP 8-bit floating point, the variant with one NaN, torch's
// float8_e4m3fn) and E2M1 (OCP microscaling FP4). Internal linkage, see lanes.h; plain loops over these vectorize.
#pragma once

#include <bit>
#include <cstdint>

namespace quantmill {
namespace {

struct E4M3 {
    static constexpr int mantissa_bits = 3, bias = 7;
    static constexpr float largest = 448.0f;
};

struct E2M1 {  // 0, 0.5, 1, 1.5, 2, 3, 4, 6
    static constexpr int mantissa_bits = 1, bias = 1;
    static constexpr float largest = 6.0f;
};

// The code nearest to |value|, of two the even one; the largest one for all above it. `value` is no NaN. The part above
// the least normal value is rounded among the normal values and the part below among the subnormal ones; one of the two
// is the least normal value itself. So there is nothing to select, which compilers vectorize best.
template <typename Format>
inline int32_t magnitude_code(float value) {
    constexpr int dropped = 23 - Format::mantissa_bits;
    constexpr int32_t least_normal = (128 - Format::bias) << 23;
    constexpr int32_t largest = std::bit_cast<int32_t>(Format::largest);
    constexpr int32_t rebias = (127 - Format::bias) << Format::mantissa_bits;
    // Its last place is that of the subnormals, so adding it rounds them.
    constexpr int32_t shifter = (127 + dropped + 1 - Format::bias) << 23;
    constexpr int32_t code_of_least_normal = 1 << Format::mantissa_bits;

    const int32_t bits = std::bit_cast<int32_t>(value) & 0x7FFFFFFF;
    const int32_t clamped = bits < largest ? bits : largest;
    const int32_t above = clamped > least_normal ? clamped : least_normal;
    const int32_t below = bits < least_normal ? bits : least_normal;
    const int32_t normal = (above + ((1 << (dropped - 1)) - 1) + (above >> dropped & 1)) >> dropped;
    const int32_t subnormal = std::bit_cast<int32_t>(std::bit_cast<float>(below) + std::bit_cast<float>(shifter));
    return normal + subnormal - (rebias + shifter + code_of_least_normal);
}

// The value of a code without its sign.
template <typename Format>
inline float magnitude_of(int32_t code) {
    constexpr int dropped = 23 - Format::mantissa_bits;
    constexpr int32_t rebias = (127 - Format::bias) << 23;
    constexpr int32_t least_normal = (128 - Format::bias) << 23;

    const int32_t bits = (code << dropped) + rebias;
    const float subnormal = std::bit_cast<float>(bits + (1 << 23)) - std::bit_cast<float>(least_normal);
    return bits < least_normal ? subnormal : std::bit_cast<float>(bits);
}

// The sign is kept, that of zero too.
inline uint8_t to_e4m3(float value) {
    return static_cast<uint8_t>((std::bit_cast<uint32_t>(value) >> 24 & 0x80) | magnitude_code<E4M3>(value));
}

inline float from_e4m3(uint8_t code) {
    const int32_t nan = (code & 0x7F) == 0x7F ? 0x7FC00000 : 0;
    const int32_t magnitude = std::bit_cast<int32_t>(magnitude_of<E4M3>(code & 0x7F)) | nan;
    return std::bit_cast<float>(magnitude | static_cast<int32_t>((code & 0x80u) << 24));
}

// A negative value keeps its sign when it rounds to zero; negative zero has none.
inline uint8_t to_e2m1(float value) {
    return static_cast<uint8_t>(magnitude_code<E2M1>(value) | (value < 0.0f ? 8 : 0));
}

inline float from_e2m1(uint8_t code) {
    const float magnitude = magnitude_of<E2M1>(code & 7);
    return std::bit_cast<float>(std::bit_cast<int32_t>(magnitude) | static_cast<int32_t>((code & 8u) << 28));
}

}  // namespace
}  // namespace quantmill
