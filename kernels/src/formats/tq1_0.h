// TQ1_0: 256 values share one float16 scale; 1.6875 bits per weight. x = scale * (code - 1), code 0, 1, 2. Five base-3
// digits make a byte, the first most significant: byte = ceil(number * 256 / 243). Codes round half away from zero, with
// the inverse of the scale before it is rounded to float16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockTQ1_0 {
    static constexpr size_t values = 256;
    static constexpr float largest = 65519.0f;

    uint8_t codes[48];  // bytes m < 32: values m + 32 k; bytes 32 + m, m < 16: values 160 + m + 16 k; k = 0 .. 4
    uint8_t rest[4];    // byte m: values 240 + m + 4 k, k = 0 .. 3, and a fifth digit 0
    Half scale;         // absmax
};
static_assert(sizeof(BlockTQ1_0) == 54);

inline bool is_finite(const BlockTQ1_0& block) { return is_finite(block.scale); }

template <Isa> void encode_tq1_0(const RowsOfBlocks& rows, BlockTQ1_0* blocks);
template <Isa> void decode_tq1_0(const BlockTQ1_0* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
