#include "q5_0.h"

#include "../legacy_block.h"
#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Steps steps = {-1.5f, 0.5f, 5, 1};

void fill(BlockQ5_0& block, Half scale, const Codes32& codes) {
    block.scale = scale;
    pack_halves(codes, block.codes);
    pack_fifth_bits(codes, block.high_bits);
}

}  // namespace

template <>
void encode_q5_0<unit>(const RowsOfBlocks& rows, BlockQ5_0* blocks) {
    const auto pack = [&](size_t b, Half scale, const Codes32& codes) { fill(blocks[b], scale, codes); };
    if (rows.imatrix) {
        encode_scaled<SignedIntegers<16>, Importance<32>>(rows, steps, pack);
    } else {
        encode_range_signed(rows, 16.0f, pack);
    }
}

template <>
void decode_q5_0<unit>(const BlockQ5_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        const Codes32 codes = with_fifth_bits(unpack_halves(blocks[b].codes), blocks[b].high_bits);
        store(scale * (floats_of(codes.first) - 16.0f), values + 32 * b);
        store(scale * (floats_of(codes.second) - 16.0f), values + 32 * b + lanes);
    }
}

}  // namespace quantmill
