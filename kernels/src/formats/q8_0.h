// Q8_0: 32 values share one float16 scale; 8.5 bits per weight. x = scale * code.
// Codes round half away from zero, with the inverse of the scale before it is rounded to float16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockQ8_0 {
    static constexpr size_t values = 32;
    static constexpr float largest = 127.0f * 65519.0f;  // absmax / 127 must fit float16

    Half scale;        // absmax / 127
    int8_t codes[32];  // -127..127
};
static_assert(sizeof(BlockQ8_0) == 34);

inline bool is_finite(const BlockQ8_0& block) { return is_finite(block.scale); }

template <Isa> void encode_q8_0(const RowsOfBlocks& rows, BlockQ8_0* blocks);
template <Isa> void decode_q8_0(const BlockQ8_0* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
