// F32: IEEE binary32 as it is; 32 bits per weight. Nothing is rounded.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../isa.h"
#include "../rows_of_blocks.h"

namespace quantmill {

struct BlockF32 {
    static constexpr size_t values = 1;
    static constexpr float largest = FLT_MAX;

    uint8_t value[4];  // little endian
};
static_assert(sizeof(BlockF32) == 4);

inline bool is_finite(const BlockF32&) { return true; }

template <Isa> void encode_f32(const RowsOfBlocks& rows, BlockF32* blocks);
template <Isa> void decode_f32(const BlockF32* blocks, float* values, size_t n_blocks);

}  // namespace quantmill
