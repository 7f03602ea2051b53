#include "q5_K.h"

#include "../affine_super_block.h"
#include "../four_bits.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = AffineSuperBlock<8>;
constexpr AffineLimits limits = {31.0f, 63.0f, {{-2.0f, 0.33f, 9, 1}, 1}, {{-2.0f, 0.25f, 12, 1}, 2}};

void pack_fifth_bits(const uint8_t (&codes)[256], uint8_t (&packed)[32]) {
    for (int l = 0; l < 32; l += lanes) {
        Bytes bits{};
        for (int j = 0; j < 8; ++j) bits |= load_bytes(codes + 32 * j + l) >> 4 << j;
        store(bits, packed + l);
    }
}

void decode_block(const BlockQ5_K& block, float* x) {
    const AffineScales scales = unpack(block.d, block.dmin, block.scales);
    unrolled<16>([&](auto j) {
        const Bytes fifth = load_bytes(block.high_bits + j % 2 * lanes) >> j / 2 & 1;
        const Floats code = floats_of(four_bits_of(block.codes, j) | fifth << 4);
        store(scales.spacing[j / 2] * code - scales.offset[j / 2], x + 16 * j);
    });
}

}  // namespace

template <>
void encode_q5_K<unit>(const RowsOfBlocks& rows, BlockQ5_K* blocks) {
    encode_affine<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        blocks[b].dmin = super.dmin;
        blocks[b].scales = pack(super.scales, super.minima);
        pack_four_bits(super.codes, blocks[b].codes);
        pack_fifth_bits(super.codes, blocks[b].high_bits);
    });
}

template <>
void decode_q5_K<unit>(const BlockQ5_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
