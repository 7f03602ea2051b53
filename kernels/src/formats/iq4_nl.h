// IQ4_NL: 32 values share one float16 scale; 4.5 bits per weight. x = scale * t[code], t the sixteen values of
// code_books.h. The scale is searched by weighted least squares and may be negative; codes round to the nearest value for
// the scale as stored, ties to the lower one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockIQ4_NL {
    static constexpr size_t values = 32;
    static constexpr float largest = 127.0f * 65504.0f;

    Half scale;
    uint8_t codes[16];  // value j in the low half of byte j, value j + 16 in the high half
};
static_assert(sizeof(BlockIQ4_NL) == 18);

inline bool is_finite(const BlockIQ4_NL& block) { return is_finite(block.scale); }

template <Isa> void encode_iq4_nl(const RowsOfBlocks& rows, BlockIQ4_NL* blocks);
template <Isa> void decode_iq4_nl(const BlockIQ4_NL* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
