#include "bf16.h"

#include "../unit.h"
#include "../widen.h"

namespace quantmill {

template <>
void encode_bf16<unit>(const RowsOfBlocks& rows, BlockBF16* blocks) {
    narrow(rows.values, blocks_of(rows), &blocks->value);
}

template <>
void decode_bf16<unit>(const BlockBF16* blocks, float* values, size_t n_blocks) {
    widen(&blocks->value, n_blocks, values);
}

}  // namespace quantmill
