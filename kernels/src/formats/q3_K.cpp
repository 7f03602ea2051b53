#include "q3_K.h"

#include "../signed_super_block.h"
#include "../two_bits.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = SignedSuperBlock<SignedIntegers<4>, 16>;
constexpr SignedLimits limits = {32.0f, {{-1.0f, 1.0f, 2, 1}, 1}, {{-0.75f, 0.5f, 3, 1}, 1}};

void pack_scales(const int8_t (&scales)[16], uint8_t (&packed)[12]) {
    for (int j = 0; j < 8; ++j) {
        packed[j] = static_cast<uint8_t>(((scales[j] + 32) & 15) | ((scales[j + 8] + 32) & 15) << 4);
    }
    for (int j = 0; j < 4; ++j) {
        int high = 0;
        for (int k = 0; k < 4; ++k) high |= ((scales[j + 4 * k] + 32) >> 4) << 2 * k;
        packed[8 + j] = static_cast<uint8_t>(high);
    }
}

int scale_of(const uint8_t (&packed)[12], int j) {
    const int low = packed[j % 8] >> 4 * (j / 8) & 15;
    return (low | (packed[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32;
}

void decode_block(const BlockQ3_K& block, float* x) {
    const float d = to_float(block.d);
    uint8_t codes[256];
    unpack_two_bits(block.codes, codes);
    for (int i = 0; i < 256; ++i) {
        codes[i] = static_cast<uint8_t>(codes[i] | (block.high_bits[i % 32] >> i / 32 & 1) << 2);
    }
    for (int j = 0; j < 16; ++j) {
        const float spacing = d * static_cast<float>(scale_of(block.scales, j));
        for (int i = 16 * j; i < 16 * j + 16; ++i) x[i] = spacing * static_cast<float>(codes[i] - 4);
    }
}

}  // namespace

template <>
void encode_q3_K<unit>(const RowsOfBlocks& rows, BlockQ3_K* blocks) {
    encode_signed<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        pack_scales(super.scales, blocks[b].scales);
        pack_two_bits(super.codes, blocks[b].codes);
        for (int l = 0; l < 32; ++l) {
            int high = 0;
            for (int j = 0; j < 8; ++j) high |= (super.codes[32 * j + l] >> 2) << j;
            blocks[b].high_bits[l] = static_cast<uint8_t>(high);
        }
    });
}

template <>
void decode_q3_K<unit>(const BlockQ3_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
