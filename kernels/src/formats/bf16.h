// BF16: the upper half of an IEEE binary32; 16 bits per weight. Round to nearest even, subnormals kept.
#pragma once

#include <cstddef>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockBF16 {
    static constexpr size_t values = 1;
    static constexpr float largest = 0x1.fefffep+127f;  // the last float32 that does not round to infinity

    Bfloat value;
};
static_assert(sizeof(BlockBF16) == 2);

inline bool is_finite(const BlockBF16&) { return true; }  // no value up to `largest` becomes infinity

template <Isa> void encode_bf16(const RowsOfBlocks& rows, BlockBF16* blocks);
template <Isa> void decode_bf16(const BlockBF16* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
