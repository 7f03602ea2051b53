#include "iq4_nl.h"

#include "../legacy_block.h"
#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Steps steps = {-40.0f, 4.0f, 15, 1};

}  // namespace

template <>
void encode_iq4_nl<unit>(const RowsOfBlocks& rows, BlockIQ4_NL* blocks) {
    encode_scaled<NonLinear>(rows, steps, [&](size_t b, Half scale, const Codes32& codes) {
        blocks[b].scale = scale;
        pack_halves(codes, blocks[b].codes);
    });
}

template <>
void decode_iq4_nl<unit>(const BlockIQ4_NL* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        const Codes32 codes = unpack_halves(blocks[b].codes);
        store(scale * NonLinear::values(codes.first), values + 32 * b);
        store(scale * NonLinear::values(codes.second), values + 32 * b + lanes);
    }
}

}  // namespace quantmill
