#include "mxfp4.h"

#include <bit>

#include "../range_block.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr Bytes doubled = {0, 1, 2, 3, 4, 6, 8, 12, 0, 255, 254, 253, 252, 250, 248, 244};  // two's complement
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

Bytes codes_of(const float* x, float scale) {
    const Floats value = load(x), magnitude = absolute(value);
    Floats code{};
    for (const float limit : thresholds) code += select(magnitude > all(limit * scale), all(1.0f), Floats{});
    const Floats sign = select((value < Floats{}) & (code > Floats{}), all(8.0f), Floats{});
    return bytes_of(code + sign);
}

}  // namespace

template <>
void encode_mxfp4<unit>(const RowsOfBlocks& rows, BlockMXFP4* blocks) {
    for_batches<32>(rows, [&](const BlockBatch& batch) {
        float absmax[lanes];
        store(ranges_of<32>(batch).absmax(), absmax);
        for (size_t lane = 0; lane < batch.count; ++lane) {
            BlockMXFP4& block = blocks[batch.first + lane];
            block.exponent = exponent_of(absmax[lane]);
            const float scale = half_scale(block.exponent);
            const float* const x = batch.values[lane];
            pack_halves({codes_of(x, scale), codes_of(x + lanes, scale)}, block.codes);
        }
    });
}

template <>
void decode_mxfp4<unit>(const BlockMXFP4* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = half_scale(blocks[b].exponent);
        const Codes32 codes = unpack_halves(blocks[b].codes);
        store(scale * floats_of_signed(entries_of(doubled, codes.first)), values + 32 * b);
        store(scale * floats_of_signed(entries_of(doubled, codes.second)), values + 32 * b + lanes);
    }
}

}  // namespace quantmill
