// Q6_K: 256 values in 16 sub-blocks of 16; 6.5625 bits per weight. x = d * scale * (code - 32). The scale of a
// sub-block is searched (19 spacings, weights x^2 or the importance matrix) and stored in 8 bits; codes round half to
// even for the scales as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ6_K {
    static constexpr size_t values = 256;
    static constexpr float largest = 32.0f * 128.0f * 65504.0f;

    // In each half of the block (h = 0, 1; l = 0..31), with c the code of value 128 h + ...:
    uint8_t low_bits[128];  // byte 64 h + l: 4 low bits of c[l], c[l + 64]; byte 64 h + l + 32: of c[l + 32], c[l + 96]
    uint8_t high_bits[64];  // byte 32 h + l: 2 high bits of c[l], c[l + 32], c[l + 64], c[l + 96], the first lowest
    int8_t scales[16];      // of each sub-block
    Half d;                 // of the scales
};
static_assert(sizeof(BlockQ6_K) == 210);

inline bool is_finite(const BlockQ6_K& block) { return is_finite(block.d); }

template <Isa> void encode_q6_K(const RowsOfBlocks& rows, BlockQ6_K* blocks);
template <Isa> void decode_q6_K(const BlockQ6_K* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
