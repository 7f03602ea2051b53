// MXFP4: 32 values share one power of two; 4.25 bits per weight. x = 2^(exponent - 128) * v[code], v twice the values of
// E2M1: 0, 1, 2, 3, 4, 6, 8, 12, and the same negative. The exponent is floor(log2(absmax)) - 2 + 127, at least 0; codes
// round to the nearest value, ties to the smaller magnitude; zero is the code 0.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockMXFP4 {
    static constexpr size_t values = 32;
    static constexpr float largest = FLT_MAX;

    uint8_t exponent;
    uint8_t codes[16];  // value j in the low half of byte j, value j + 16 in the high half
};
static_assert(sizeof(BlockMXFP4) == 17);

inline bool is_finite(const BlockMXFP4&) { return true; }

template <Isa> void encode_mxfp4(const RowsOfBlocks& rows, BlockMXFP4* blocks);
template <Isa> void decode_mxfp4(const BlockMXFP4* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
