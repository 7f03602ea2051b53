#include "mxfp4.h"

#include <bit>

#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr float doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr float thresholds[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};

// 2^(exponent - 128), half the scale: subnormal for 0 and 1.
float half_scale(uint8_t exponent) {
    return std::bit_cast<float>(exponent < 2 ? 0x00200000u << exponent : uint32_t{exponent - 1u} << 23);
}

// floor(log2(absmax)) - 2 + 127, so that absmax becomes a code of 4 to 7.99 halves; at least 0.
uint8_t exponent_of(float absmax) {
    const uint32_t biased = std::bit_cast<uint32_t>(absmax) >> 23;
    return static_cast<uint8_t>(biased > 2 ? biased - 2 : 0);
}

}  // namespace

template <>
void encode_mxfp4<unit>(const RowsOfBlocks& rows, BlockMXFP4* blocks) {
    for (size_t b = 0; b < blocks_of(rows); ++b) {
        const float* const x = rows.values + 32 * b;
        blocks[b].exponent = exponent_of(range_of<32>(x).absmax());
        const float scale = half_scale(blocks[b].exponent);
        uint8_t codes[32];
        for (int i = 0; i < 32; i += lanes) {
            const Floats value = load(x + i), magnitude = absolute(value);
            Floats code{};
            for (const float limit : thresholds) code += select(magnitude > all(limit * scale), all(1.0f), Floats{});
            const Floats sign = select((value < Floats{}) & (code > Floats{}), all(8.0f), Floats{});
            store_bytes(code + sign, codes + i);
        }
        pack_halves(codes, blocks[b].codes);
    }
}

template <>
void decode_mxfp4<unit>(const BlockMXFP4* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        uint8_t codes[32];
        unpack_halves(blocks[b].codes, codes);
        const float scale = half_scale(blocks[b].exponent);
        for (int i = 0; i < 32; ++i) values[32 * b + i] = scale * doubled[codes[i]];
    }
}

}  // namespace quantmill
