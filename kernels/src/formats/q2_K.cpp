#include "q2_K.h"

#include "../affine_super_block.h"
#include "../two_bits.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = AffineSuperBlock<16>;
constexpr AffineLimits limits = {3.0f, 15.0f, {{-1.0f, 0.4f, 5, 1}, 1}, {{-1.0f, 0.125f, 16, 1}, 2}};

void decode_block(const BlockQ2_K& block, float* x) {
    const float d = to_float(block.d), dmin = to_float(block.dmin);
    uint8_t codes[256];
    unpack_two_bits(block.codes, codes);
    for (int j = 0; j < 16; ++j) {
        const float spacing = d * static_cast<float>(block.scales[j] & 15);
        const float offset = dmin * static_cast<float>(block.scales[j] >> 4);
        for (int i = 16 * j; i < 16 * j + 16; ++i) x[i] = spacing * static_cast<float>(codes[i]) - offset;
    }
}

}  // namespace

template <>
void encode_q2_K<unit>(const RowsOfBlocks& rows, BlockQ2_K* blocks) {
    encode_affine<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        blocks[b].dmin = super.dmin;
        for (int j = 0; j < 16; ++j) {
            blocks[b].scales[j] = static_cast<uint8_t>(super.scales[j] | super.minima[j] << 4);
        }
        pack_two_bits(super.codes, blocks[b].codes);
    });
}

template <>
void decode_q2_K<unit>(const BlockQ2_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
