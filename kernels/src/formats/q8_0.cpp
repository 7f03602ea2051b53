#include "q8_0.h"

#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

// The nearest whole number, halves away from zero. The remainder decides, which is exact.
Floats round_half_away(const Floats& value) {
    const Floats even = nearest(value), rest = value - even;
    const Floats up = select((value > Floats{}) & (rest > all(0.49999997f)), all(1.0f), Floats{});
    const Floats down = select((value < Floats{}) & (rest < all(-0.49999997f)), all(1.0f), Floats{});
    return even + up - down;
}

}  // namespace

template <>
void encode_q8_0<unit>(const RowsOfBlocks& rows, BlockQ8_0* blocks) {
    for (size_t b = 0; b < blocks_of(rows); ++b) {
        const float* const x = rows.values + 32 * b;
        const float scale = range_of<32>(x).absmax() / 127.0f;
        const Rounding rounding(scale, 0.0f);
        blocks[b].scale = to_half(scale);
        for (int i = 0; i < 32; i += lanes) {
            store_signed_bytes(round_half_away(load(x + i) * rounding.inverse), blocks[b].codes + i);
        }
    }
}

template <>
void decode_q8_0<unit>(const BlockQ8_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        for (int i = 0; i < 32; ++i) values[32 * b + i] = scale * static_cast<float>(blocks[b].codes[i]);
    }
}

}  // namespace quantmill
