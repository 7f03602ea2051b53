// Two bits a value as Q2_K, Q3_K and TQ2_0 store them: byte 32 h + l holds the values 128 h + l, + 32, + 64, + 96, the
// first lowest. Internal linkage, see lanes.h.
#pragma once

#include <cstdint>

namespace quantmill {
namespace {

// The two low bits of each code.
inline void pack_two_bits(const uint8_t (&codes)[256], uint8_t (&packed)[64]) {
    for (int h = 0; h < 2; ++h) {
        const uint8_t* const c = codes + 128 * h;
        for (int l = 0; l < 32; ++l) {
            packed[32 * h + l] = static_cast<uint8_t>((c[l] & 3) | (c[l + 32] & 3) << 2 | (c[l + 64] & 3) << 4 |
                                                      (c[l + 96] & 3) << 6);
        }
    }
}

inline void unpack_two_bits(const uint8_t (&packed)[64], uint8_t (&codes)[256]) {
    for (int h = 0; h < 2; ++h) {
        for (int k = 0; k < 4; ++k) {
            for (int l = 0; l < 32; ++l) codes[128 * h + 32 * k + l] = packed[32 * h + l] >> 2 * k & 3;
        }
    }
}

}  // namespace
}  // namespace quantmill
