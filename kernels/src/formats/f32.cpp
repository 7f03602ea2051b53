#include "f32.h"

#include <cstring>

#include "../unit.h"

namespace quantmill {

template <>
void encode_f32<unit>(const RowsOfBlocks& rows, BlockF32* blocks) {
    if (blocks_of(rows) > 0) std::memcpy(blocks, rows.values, blocks_of(rows) * sizeof(BlockF32));
}

template <>
void decode_f32<unit>(const BlockF32* blocks, float* values, size_t n_blocks) {
    if (n_blocks > 0) std::memcpy(values, blocks, n_blocks * sizeof(BlockF32));
}

}  // namespace quantmill
