#include "q5_1.h"

#include "../legacy_block.h"
#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Steps steps = {-1.0f, 0.25f, 8, 1};

void fill(BlockQ5_1& block, Half scale, Half minimum, const Codes32& codes) {
    block.scale = scale;
    block.minimum = minimum;
    pack_halves(codes, block.codes);
    pack_fifth_bits(codes, block.high_bits);
}

}  // namespace

template <>
void encode_q5_1<unit>(const RowsOfBlocks& rows, BlockQ5_1* blocks) {
    const auto pack = [&](size_t b, Half scale, Half minimum, const Codes32& codes) {
        fill(blocks[b], scale, minimum, codes);
    };
    if (rows.imatrix) {
        encode_scaled_and_shifted(rows, 31.0f, steps, pack);
    } else {
        encode_range_shifted(rows, 31.0f, pack);
    }
}

template <>
void decode_q5_1<unit>(const BlockQ5_1* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale), minimum = to_float(blocks[b].minimum);
        const Codes32 codes = with_fifth_bits(unpack_halves(blocks[b].codes), blocks[b].high_bits);
        store(scale * floats_of(codes.first) + minimum, values + 32 * b);
        store(scale * floats_of(codes.second) + minimum, values + 32 * b + lanes);
    }
}

}  // namespace quantmill
