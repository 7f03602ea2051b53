// Q2_K: 256 values in 16 sub-blocks of 16; 2.625 bits per weight. x = d * scale * code - dmin * minimum. Scales and
// minima are 4 bits; d, dmin, scales and minima are searched by weighted least squares; codes round half to even for all
// of them as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ2_K {
    static constexpr size_t values = 256;
    static constexpr float largest = 3.0f * 15.0f * 65504.0f;

    uint8_t scales[16];  // scale of sub-block j in the low half of byte j, its minimum in the high half
    uint8_t codes[64];   // byte 32 h + l: values 128 h + l, + 32, + 64, + 96, two bits each, the first lowest
    Half d;              // of the scales
    Half dmin;           // of the minima
};
static_assert(sizeof(BlockQ2_K) == 84);

inline bool is_finite(const BlockQ2_K& block) { return is_finite(block.d) && is_finite(block.dmin); }

template <Isa> void encode_q2_K(const RowsOfBlocks& rows, BlockQ2_K* blocks);
template <Isa> void decode_q2_K(const BlockQ2_K* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
