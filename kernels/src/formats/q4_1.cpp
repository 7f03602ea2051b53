#include "q4_1.h"

#include "../legacy_block.h"
#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Steps steps = {-1.0f, 0.25f, 8, 1};

void fill(BlockQ4_1& block, Half scale, Half minimum, const uint8_t (&codes)[32]) {
    block.scale = scale;
    block.minimum = minimum;
    pack_halves(codes, block.codes);
}

}  // namespace

template <>
void encode_q4_1<unit>(const RowsOfBlocks& rows, BlockQ4_1* blocks) {
    if (rows.imatrix) {
        encode_scaled_and_shifted(rows, 15.0f, steps,
                                  [&](size_t b, Half scale, Half minimum, const uint8_t (&codes)[32]) {
                                      fill(blocks[b], scale, minimum, codes);
                                  });
        return;
    }
    uint8_t codes[32];
    for (size_t b = 0; b < blocks_of(rows); ++b) {
        const ScaleAndMinimum stored = encode_range_shifted(rows.values + 32 * b, 15.0f, codes);
        fill(blocks[b], stored.scale, stored.minimum, codes);
    }
}

template <>
void decode_q4_1<unit>(const BlockQ4_1* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        uint8_t codes[32];
        unpack_halves(blocks[b].codes, codes);
        const float scale = to_float(blocks[b].scale), minimum = to_float(blocks[b].minimum);
        for (int i = 0; i < 32; ++i) values[32 * b + i] = scale * static_cast<float>(codes[i]) + minimum;
    }
}

}  // namespace quantmill
