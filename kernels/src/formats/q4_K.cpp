#include "q4_K.h"

#include "../affine_super_block.h"
#include "../four_bits.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = AffineSuperBlock<8>;
constexpr AffineLimits limits = {15.0f, 63.0f, {{-2.0f, 0.33f, 9, 1}, 2}, {{-3.0f, 0.25f, 16, 1}, 4}};

void decode_block(const BlockQ4_K& block, float* x) {
    const AffineScales scales = unpack(block.d, block.dmin, block.scales);
    unrolled<16>([&](auto j) {
        const Floats code = floats_of(four_bits_of(block.codes, j));
        store(scales.spacing[j / 2] * code - scales.offset[j / 2], x + 16 * j);
    });
}

}  // namespace

template <>
void encode_q4_K<unit>(const RowsOfBlocks& rows, BlockQ4_K* blocks) {
    encode_affine<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        blocks[b].dmin = super.dmin;
        blocks[b].scales = pack(super.scales, super.minima);
        pack_four_bits(super.codes, blocks[b].codes);
    });
}

template <>
void decode_q4_K<unit>(const BlockQ4_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
