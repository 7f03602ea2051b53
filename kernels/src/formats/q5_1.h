// Q5_1: 32 values share a float16 scale and minimum; 6 bits per weight. x = scale * code + minimum. As Q4_1 with one
// more bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ5_1 {
    static constexpr size_t values = 32;
    static constexpr float largest = 65519.0f;

    Half scale;            // range / 31
    Half minimum;
    uint8_t high_bits[4];  // little endian: bit j is the fifth bit of value j
    uint8_t codes[16];     // low bits: value j in the low half of byte j, value j + 16 in the high half
};
static_assert(sizeof(BlockQ5_1) == 24);

inline bool is_finite(const BlockQ5_1& block) { return is_finite(block.scale) && is_finite(block.minimum); }

template <Isa> void encode_q5_1(const RowsOfBlocks& rows, BlockQ5_1* blocks);
template <Isa> void decode_q5_1(const BlockQ5_1* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
