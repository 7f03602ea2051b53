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
    encode_scaled<NonLinear>(rows, steps, [&](size_t b, Half scale, const uint8_t (&codes)[32]) {
        blocks[b].scale = scale;
        pack_halves(codes, blocks[b].codes);
    });
}

template <>
void decode_iq4_nl<unit>(const BlockIQ4_NL* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        uint8_t codes[32];
        unpack_halves(blocks[b].codes, codes);
        const float scale = to_float(blocks[b].scale);
        for (int i = 0; i < 32; ++i) values[32 * b + i] = scale * non_linear[codes[i]];
    }
}

}  // namespace quantmill
