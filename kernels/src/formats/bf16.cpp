#include "bf16.h"

#include "../unit.h"

namespace quantmill {

template <>
void encode_bf16<unit>(const RowsOfBlocks& rows, BlockBF16* blocks) {
    for (size_t b = 0; b < blocks_of(rows); ++b) blocks[b].value = to_bfloat(rows.values[b]);
}

template <>
void decode_bf16<unit>(const BlockBF16* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) values[b] = to_float(blocks[b].value);
}

}  // namespace quantmill
