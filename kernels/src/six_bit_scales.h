// Eight 6-bit scales and eight 6-bit minima in 12 bytes, as Q4_K and Q5_K store them. s0..s7 scales, m0..m7 minima, the
// bits of a byte from high to low:
//
//   byte 0..3    | s4..s7 bits 5-4 | s0..s3 bits 5-0 |
//   byte 4..7    | m4..m7 bits 5-4 | m0..m3 bits 5-0 |
//   byte 8..11   | m4..m7 bits 3-0 | s4..s7 bits 3-0 |
//
// Internal linkage, see float16.h.
#pragma once

#include <cstdint>

#include "float16.h"

namespace quantmill {

struct SixBitScales {
    uint8_t bytes[12];
};

static inline SixBitScales pack(const uint8_t (&scales)[8], const uint8_t (&minima)[8]) {
    SixBitScales packed;
    for (int j = 0; j < 4; ++j) {
        const int scale = scales[j + 4], minimum = minima[j + 4];
        packed.bytes[j] = static_cast<uint8_t>(scales[j] | (scale >> 4) << 6);
        packed.bytes[j + 4] = static_cast<uint8_t>(minima[j] | (minimum >> 4) << 6);
        packed.bytes[j + 8] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
    }
    return packed;
}

static inline void unpack(const SixBitScales& packed, uint8_t (&scales)[8], uint8_t (&minima)[8]) {
    for (int j = 0; j < 4; ++j) {
        const int low = packed.bytes[j], middle = packed.bytes[j + 4], high = packed.bytes[j + 8];
        scales[j] = static_cast<uint8_t>(low & 63);
        minima[j] = static_cast<uint8_t>(middle & 63);
        scales[j + 4] = static_cast<uint8_t>((high & 15) | (low >> 6) << 4);
        minima[j + 4] = static_cast<uint8_t>((high >> 4) | (middle >> 6) << 4);
    }
}

// Value = spacing[j] * code - offset[j] for sub-block j.
struct AffineScales {
    float spacing[8], offset[8];
};

static inline AffineScales unpack(Half d, Half dmin, const SixBitScales& packed) {
    uint8_t scales[8], minima[8];
    unpack(packed, scales, minima);
    AffineScales unpacked;
    for (int j = 0; j < 8; ++j) {
        unpacked.spacing[j] = to_float(d) * static_cast<float>(scales[j]);
        unpacked.offset[j] = to_float(dmin) * static_cast<float>(minima[j]);
    }
    return unpacked;
}

}  // namespace quantmill
