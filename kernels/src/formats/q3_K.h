// Q3_K: 256 values in 16 sub-blocks of 16; 3.4375 bits per weight. x = d * (scale - 32) * (code - 4). Scales are 6 bits;
// d and scales are searched by weighted least squares; codes round half to even for both as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ3_K {
    static constexpr size_t values = 256;
    static constexpr float largest = 4.0f * 32.0f * 65504.0f;

    uint8_t high_bits[32];  // bit j of byte l: the third bit of value 32 j + l
    uint8_t codes[64];      // byte 32 h + l: low bits of values 128 h + l, + 32, + 64, + 96, two each, the first lowest
    uint8_t scales[12];     // low four bits of scale j: low half of byte j (j < 8), high half of byte j - 8; the high two
                            // bits: byte 8 + j % 4 at bit 2 (j / 4)
    Half d;                 // of the scales
};
static_assert(sizeof(BlockQ3_K) == 110);

inline bool is_finite(const BlockQ3_K& block) { return is_finite(block.d); }

template <Isa> void encode_q3_K(const RowsOfBlocks& rows, BlockQ3_K* blocks);
template <Isa> void decode_q3_K(const BlockQ3_K* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
