// TQ2_0: 256 values share one float16 scale; 2.0625 bits per weight. x = scale * (code - 1), code 0, 1, 2. Codes round
// half away from zero, with the inverse of the scale before it is rounded to float16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockTQ2_0 {
    static constexpr size_t values = 256;
    static constexpr float largest = 65519.0f;

    uint8_t codes[64];  // byte 32 h + m: values 128 h + m + 32 k at bits 2 k, k = 0 .. 3
    Half scale;         // absmax
};
static_assert(sizeof(BlockTQ2_0) == 66);

inline bool is_finite(const BlockTQ2_0& block) { return is_finite(block.scale); }

template <Isa> void encode_tq2_0(const RowsOfBlocks& rows, BlockTQ2_0* blocks);
template <Isa> void decode_tq2_0(const BlockTQ2_0* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
