#include "q4_K.h"

#include "../affine_super_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = AffineSuperBlock<8>;
constexpr AffineLimits limits = {15.0f, 63.0f, {{-2.0f, 0.33f, 9, 1}, 2}, {{-3.0f, 0.25f, 16, 1}, 4}};

void pack_codes(const uint8_t (&codes)[256], uint8_t (&packed)[128]) {
    for (int c = 0; c < 4; ++c) {
        for (int l = 0; l < 32; ++l) {
            packed[32 * c + l] = static_cast<uint8_t>(codes[64 * c + l] | codes[64 * c + l + 32] << 4);
        }
    }
}

void decode_block(const BlockQ4_K& block, float* x) {
    const AffineScales scales = unpack(block.d, block.dmin, block.scales);
    for (int j = 0; j < 8; ++j) {
        const uint8_t* const codes = block.codes + 32 * (j / 2);
        const int shift = 4 * (j % 2);
        const float spacing = scales.spacing[j], offset = scales.offset[j];
        for (int l = 0; l < 32; ++l) x[32 * j + l] = spacing * static_cast<float>((codes[l] >> shift) & 15) - offset;
    }
}

}  // namespace

template <>
void encode_q4_K<unit>(const RowsOfBlocks& rows, BlockQ4_K* blocks) {
    encode_affine<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        blocks[b].dmin = super.dmin;
        blocks[b].scales = pack(super.scales, super.minima);
        pack_codes(super.codes, blocks[b].codes);
    });
}

template <>
void decode_q4_K<unit>(const BlockQ4_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
