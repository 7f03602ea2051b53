#include "f16.h"

#include "../unit.h"
#include "../widen.h"

namespace quantmill {

template <>
void encode_f16<unit>(const RowsOfBlocks& rows, BlockF16* blocks) {
    narrow(rows.values, blocks_of(rows), &blocks->value);
}

template <>
void decode_f16<unit>(const BlockF16* blocks, float* values, size_t n_blocks) {
    widen(&blocks->value, n_blocks, values);
}

}  // namespace quantmill
