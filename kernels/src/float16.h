// float16 and bfloat16 as stored, and their exact conversions. Internal linkage: these are compiled again, with other
// flags, in every instruction set's own units.
#pragma once

#include <bit>
#include <cstdint>

namespace quantmill {

static_assert(std::endian::native == std::endian::little, "blocks are read and written in place, little endian");

// IEEE binary16. Bytes, not uint16_t: a block may stand at any address of a mapped file.
struct Half {
    uint8_t bytes[2];
};

// The upper half of an IEEE binary32.
struct Bfloat {
    uint8_t bytes[2];
};

static inline uint16_t bits_of(Half half) { return std::bit_cast<uint16_t>(half); }
static inline uint16_t bits_of(Bfloat bfloat) { return std::bit_cast<uint16_t>(bfloat); }

static inline bool is_finite(Half half) { return (bits_of(half) & 0x7C00) != 0x7C00; }
static inline bool is_finite(Bfloat bfloat) { return (bits_of(bfloat) & 0x7F80) != 0x7F80; }

// A multiply by 2^112 moves the exponent from bias 15 to bias 127 and normalizes subnormals on the way; the
// largest exponent (inf, NaN) is put back by hand, NaN quiet as the instructions of x86 and AArch64 give it.
static inline float to_float(Half half) {
    const uint32_t bits = bits_of(half);
    const uint32_t sign = (bits & 0x8000u) << 16;
    const uint32_t magnitude = (bits & 0x7FFFu) << 13;
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p+112f;
    const uint32_t exponent = magnitude > 0x0F800000u ? 0x7FC00000u : magnitude == 0x0F800000u ? 0x7F800000u : 0u;
    return std::bit_cast<float>(sign | exponent | std::bit_cast<uint32_t>(scaled));
}

// Round to nearest even, as IEEE and GGML do: 65520 and above become infinity, 2^-25 and below zero.
// NaN becomes the quiet NaN 0x7E00 with the sign kept.
static inline Half to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t half;
    if (magnitude > 0x7F800000u) {
        half = 0x7E00u;
    } else if (magnitude >= 0x477FF000u) {  // 65520
        half = 0x7C00u;
    } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the FPU round at 2^-24, float16's last place
        const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        half = std::bit_cast<uint32_t>(shifted) - 0x3F000000u;
    } else {
        const uint32_t odd = (magnitude >> 13) & 1u;
        half = (magnitude - 0x38000000u + 0xFFFu + odd) >> 13;
    }
    return std::bit_cast<Half>(static_cast<uint16_t>(sign | half));
}

static inline float to_float(Bfloat bfloat) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits_of(bfloat)) << 16);
}

// Round to nearest even; NaN is kept quiet.
static inline Bfloat to_bfloat(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    return std::bit_cast<Bfloat>(static_cast<uint16_t>(nan ? quiet : rounded));
}

}  // namespace quantmill
