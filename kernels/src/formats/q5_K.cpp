#include "q5_K.h"

#include "../affine_super_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = AffineSuperBlock<8>;
constexpr AffineLimits limits = {31.0f, 63.0f, {{-1.0f, 0.25f, 8, 1}, 1}, {{-2.0f, 0.25f, 12, 1}, 2}};

void pack_codes(const uint8_t (&codes)[256], BlockQ5_K& block) {
    for (int l = 0; l < 32; ++l) {
        int high = 0;
        for (int j = 0; j < 8; ++j) high |= (codes[32 * j + l] >> 4) << j;
        block.high_bits[l] = static_cast<uint8_t>(high);
    }
    for (int c = 0; c < 4; ++c) {
        for (int l = 0; l < 32; ++l) {
            const int first = codes[64 * c + l] & 15, second = codes[64 * c + l + 32] & 15;
            block.codes[32 * c + l] = static_cast<uint8_t>(first | second << 4);
        }
    }
}

void decode_block(const BlockQ5_K& block, float* x) {
    const AffineScales scales = unpack(block.d, block.dmin, block.scales);
    for (int j = 0; j < 8; ++j) {
        const uint8_t* const low = block.codes + 32 * (j / 2);
        const int shift = 4 * (j % 2);
        const float spacing = scales.spacing[j], offset = scales.offset[j];
        for (int l = 0; l < 32; ++l) {
            const int code = ((low[l] >> shift) & 15) | ((block.high_bits[l] >> j) & 1) << 4;
            x[32 * j + l] = spacing * static_cast<float>(code) - offset;
        }
    }
}

}  // namespace

template <>
void encode_q5_K<unit>(const RowsOfBlocks& rows, BlockQ5_K* blocks) {
    encode_affine<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        blocks[b].dmin = super.dmin;
        blocks[b].scales = pack(super.scales, super.minima);
        pack_codes(super.codes, blocks[b]);
    });
}

template <>
void decode_q5_K<unit>(const BlockQ5_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
