// Four bits a value as Q4_K and Q5_K store them. Internal linkage, see lanes.h.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace quantmill {
namespace {

// The low four bits: value 64 c + l in the low half of byte 32 c + l, value 64 c + l + 32 in the high half.
inline void pack_four_bits(const uint8_t (&codes)[256], uint8_t (&packed)[128]) {
    for (int first = 0; first < 128; first += lanes) {
        const uint8_t* const c = codes + first / 32 * 64 + first % 32;
        store((load_bytes(c) & 15) | load_bytes(c + 32) << 4, packed + first);
    }
}

// The codes 16 j .. 16 j + 15.
inline Bytes four_bits_of(const uint8_t (&packed)[128], int j) {
    return load_bytes(packed + j / 4 * 32 + j % 2 * lanes) >> j % 4 / 2 * 4 & 15;
}

}  // namespace
}  // namespace quantmill
