#include "tq2_0.h"

#include "../ternary.h"
#include "../two_bits.h"
#include "../unit.h"

namespace quantmill {

template <>
void encode_tq2_0<unit>(const RowsOfBlocks& rows, BlockTQ2_0* blocks) {
    encode_ternary(rows, [&](size_t b, Half scale, const uint8_t (&codes)[256]) {
        blocks[b].scale = scale;
        pack_two_bits(codes, blocks[b].codes);
    });
}

template <>
void decode_tq2_0<unit>(const BlockTQ2_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        unrolled<16>([&](auto j) {
            store(scale * (floats_of(two_bits_of(blocks[b].codes, j)) - 1.0f), values + 256 * b + 16 * j);
        });
    }
}

}  // namespace quantmill
