// Q5_0: 32 values share one float16 scale; 5.5 bits per weight. x = scale * (code - 16). As Q4_0 with one more bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ5_0 {
    static constexpr size_t values = 32;
    static constexpr float largest = 16.0f * 65519.0f;

    Half scale;            // value of largest magnitude / -16
    uint8_t high_bits[4];  // little endian: bit j is the fifth bit of value j
    uint8_t codes[16];     // low bits: value j in the low half of byte j, value j + 16 in the high half
};
static_assert(sizeof(BlockQ5_0) == 22);

inline bool is_finite(const BlockQ5_0& block) { return is_finite(block.scale); }

template <Isa> void encode_q5_0(const RowsOfBlocks& rows, BlockQ5_0* blocks);
template <Isa> void decode_q5_0(const BlockQ5_0* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
