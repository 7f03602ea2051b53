#include "q4_0.h"

#include "../legacy_block.h"
#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Steps steps = {-1.5f, 0.5f, 5, 1};

void fill(BlockQ4_0& block, Half scale, const uint8_t (&codes)[32]) {
    block.scale = scale;
    pack_halves(codes, block.codes);
}

}  // namespace

template <>
void encode_q4_0<unit>(const RowsOfBlocks& rows, BlockQ4_0* blocks) {
    if (rows.imatrix) {
        encode_scaled<SignedIntegers<8>>(
            rows, steps, [&](size_t b, Half scale, const uint8_t (&codes)[32]) { fill(blocks[b], scale, codes); });
        return;
    }
    uint8_t codes[32];
    for (size_t b = 0; b < blocks_of(rows); ++b) {
        const Half scale = encode_range_signed(rows.values + 32 * b, 8.0f, codes);
        fill(blocks[b], scale, codes);
    }
}

template <>
void decode_q4_0<unit>(const BlockQ4_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        uint8_t codes[32];
        unpack_halves(blocks[b].codes, codes);
        const float scale = to_float(blocks[b].scale);
        for (int i = 0; i < 32; ++i) values[32 * b + i] = scale * static_cast<float>(codes[i] - 8);
    }
}

}  // namespace quantmill
