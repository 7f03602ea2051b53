// F16: IEEE binary16; 16 bits per weight. Round to nearest even, subnormals kept.
#pragma once

#include <cstddef>

#include "../float16.h"
#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockF16 {
    static constexpr size_t values = 1;
    static constexpr float largest = 0x1.ffdffep+15f;  // the last float32 that rounds to 65504 and not to infinity

    Half value;
};
static_assert(sizeof(BlockF16) == 2);

inline bool is_finite(const BlockF16&) { return true; }  // no value up to `largest` becomes infinity

template <Isa> void encode_f16(const RowsOfBlocks& rows, BlockF16* blocks);
template <Isa> void decode_f16(const BlockF16* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
