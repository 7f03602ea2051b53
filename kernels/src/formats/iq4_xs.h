// IQ4_XS: 256 values in 8 sub-blocks of 32; 4.25 bits per weight. x = d * (scale - 32) * t[code], t the sixteen values of
// code_books.h. Scales are 6 bits, d and scales are searched by weighted least squares; codes round to the nearest value
// for both as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockIQ4_XS {
    static constexpr size_t values = 256;
    static constexpr float largest = 127.0f * 32.0f * 65504.0f;

    Half d;                  // of the scales
    uint8_t high_scales[2];  // little endian: bits 2 j and 2 j + 1 are the high bits of scale j
    uint8_t low_scales[4];   // low four bits: scale 2 j in the low half of byte j, scale 2 j + 1 in the high half
    uint8_t codes[128];      // byte 16 s + j: value 32 s + j in the low half, value 32 s + j + 16 in the high half
};
static_assert(sizeof(BlockIQ4_XS) == 136);

inline bool is_finite(const BlockIQ4_XS& block) { return is_finite(block.d); }

template <Isa> void encode_iq4_xs(const RowsOfBlocks& rows, BlockIQ4_XS* blocks);
template <Isa> void decode_iq4_xs(const BlockIQ4_XS* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
