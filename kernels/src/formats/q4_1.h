// Q4_1: 32 values share a float16 scale and minimum; 5 bits per weight. x = scale * code + minimum. The codes span the
// block's range and round half up, with the inverse of the scale before it is rounded to float16. With an importance
// matrix both are searched and the codes round for both as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ4_1 {
    static constexpr size_t values = 32;
    static constexpr float largest = 65519.0f;

    Half scale;    // range / 15
    Half minimum;
    uint8_t codes[16];  // value j in the low half of byte j, value j + 16 in the high half
};
static_assert(sizeof(BlockQ4_1) == 20);

inline bool is_finite(const BlockQ4_1& block) { return is_finite(block.scale) && is_finite(block.minimum); }

template <Isa> void encode_q4_1(const RowsOfBlocks& rows, BlockQ4_1* blocks);
template <Isa> void decode_q4_1(const BlockQ4_1* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
