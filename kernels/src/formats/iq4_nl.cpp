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
    const auto pack = [&](size_t b, Half scale, const Codes32& codes) {
        blocks[b].scale = scale;
        pack_halves(codes, blocks[b].codes);
    };
    if (rows.imatrix) {
        encode_scaled<NonLinear, Importance<32>>(rows, steps, pack);
    } else {
        encode_scaled<NonLinear, EqualWeights>(rows, steps, pack);
    }
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
