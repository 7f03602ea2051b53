#include "q4_0.h"

#include "../legacy_block.h"
#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Steps steps = {-1.5f, 0.5f, 5, 1};

void fill(BlockQ4_0& block, Half scale, const Codes32& codes) {
    block.scale = scale;
    pack_halves(codes, block.codes);
}

}  // namespace

template <>
void encode_q4_0<unit>(const RowsOfBlocks& rows, BlockQ4_0* blocks) {
    const auto pack = [&](size_t b, Half scale, const Codes32& codes) { fill(blocks[b], scale, codes); };
    if (rows.imatrix) {
        encode_scaled<SignedIntegers<8>, Importance<32>>(rows, steps, pack);
    } else {
        encode_range_signed(rows, 8.0f, pack);
    }
}

template <>
void decode_q4_0<unit>(const BlockQ4_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        const Codes32 codes = unpack_halves(blocks[b].codes);
        store(scale * (floats_of(codes.first) - 8.0f), values + 32 * b);
        store(scale * (floats_of(codes.second) - 8.0f), values + 32 * b + lanes);
    }
}

}  // namespace quantmill
