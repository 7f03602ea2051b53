// Q5_K: 256 values in 8 sub-blocks of 32; 5.5 bits per weight. x = d * scale * code - dmin * minimum. Scale and minimum
// of a sub-block are searched by weighted least squares (16 spacings, 37 with an importance matrix) and stored in 6
// bits each; codes round half to even for the scales as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"
#include "../six_bit_scales.h"

namespace quantmill {

struct BlockQ5_K {
    static constexpr size_t values = 256;
    static constexpr float largest = 31.0f * 63.0f * 65504.0f;

    Half d;                 // of the scales
    Half dmin;              // of the minima
    SixBitScales scales;    // scale and minimum of each sub-block
    uint8_t high_bits[32];  // bit j of byte l: the fifth bit of value 32 j + l
    uint8_t codes[128];     // byte 32 c + l: low bits of value 64 c + l (low half), of value 64 c + l + 32 (high)
};
static_assert(sizeof(BlockQ5_K) == 176);

inline bool is_finite(const BlockQ5_K& block) { return is_finite(block.d) && is_finite(block.dmin); }

template <Isa> void encode_q5_K(const RowsOfBlocks& rows, BlockQ5_K* blocks);
template <Isa> void decode_q5_K(const BlockQ5_K* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
