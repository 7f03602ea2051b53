#include "q2_K.h"

#include "../affine_super_block.h"
#include "../two_bits.h"
#include "../unit.h"

namespace quantmill {
namespace {

using Super = AffineSuperBlock<16>;
constexpr AffineLimits limits = {3.0f, 15.0f, {{-1.0f, 0.4f, 5, 1}, 1}, {{-1.0f, 0.125f, 16, 1}, 2}};

void decode_block(const BlockQ2_K& block, float* x) {
    const Bytes scales = load_bytes(block.scales);
    float spacing[16], offset[16];
    store(to_float(block.d) * floats_of(scales & 15), spacing);
    store(to_float(block.dmin) * floats_of(scales >> 4), offset);
    unrolled<16>([&](auto j) {
        store(spacing[j] * floats_of(two_bits_of(block.codes, j)) - offset[j], x + 16 * j);
    });
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
