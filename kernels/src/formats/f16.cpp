#include "f16.h"

#include "../unit.h"

namespace quantmill {

template <>
void encode_f16<unit>(const RowsOfBlocks& rows, BlockF16* blocks) {
    for (size_t b = 0; b < blocks_of(rows); ++b) blocks[b].value = to_half(rows.values[b]);
}

template <>
void decode_f16<unit>(const BlockF16* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) values[b] = to_float(blocks[b].value);
}

}  // namespace quantmill
