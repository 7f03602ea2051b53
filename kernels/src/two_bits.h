// Two bits a value as Q2_K, Q3_K and TQ2_0 store them: byte 32 h + l holds the values 128 h + l, + 32, + 64, + 96, the
// first lowest. Internal linkage, see lanes.h.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace quantmill {
namespace {

// The two low bits of each code.
inline void pack_two_bits(const uint8_t (&codes)[256], uint8_t (&packed)[64]) {
    for (int first = 0; first < 64; first += lanes) {
        const uint8_t* const c = codes + first / 32 * 128 + first % 32;
        const auto bits = [&](int k) { return load_bytes(c + 32 * k) & 3; };
        store(bits(0) | bits(1) << 2 | bits(2) << 4 | bits(3) << 6, packed + first);
    }
}

// The codes 16 j .. 16 j + 15.
inline Bytes two_bits_of(const uint8_t (&packed)[64], int j) {
    return load_bytes(packed + j / 8 * 32 + j % 2 * lanes) >> j % 8 / 2 * 2 & 3;
}

}  // namespace
}  // namespace quantmill
