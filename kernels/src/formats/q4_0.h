// Q4_0: 32 values share one float16 scale; 4.5 bits per weight. x = scale * (code - 8). The first value of largest
// magnitude gets the code 0, so the scale may be negative. Codes round half up, with the inverse of the scale before it
// is rounded to float16. With an importance matrix the scale is searched and the codes round for the scale as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ4_0 {
    static constexpr size_t values = 32;
    static constexpr float largest = 8.0f * 65519.0f;

    Half scale;         // value of largest magnitude / -8
    uint8_t codes[16];  // value j in the low half of byte j, value j + 16 in the high half
};
static_assert(sizeof(BlockQ4_0) == 18);

inline bool is_finite(const BlockQ4_0& block) { return is_finite(block.scale); }

template <Isa> void encode_q4_0(const RowsOfBlocks& rows, BlockQ4_0* blocks);
template <Isa> void decode_q4_0(const BlockQ4_0* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
