#include "q3_K.h"

#include <cstring>

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

// Of all sixteen, 0 .. 63.
Bytes unpack_scales(const uint8_t (&packed)[12]) {
    uint64_t low;
    uint32_t high;
    std::memcpy(&low, packed, sizeof low);
    std::memcpy(&high, packed + 8, sizeof high);
    const auto lows = [&](int half) { return low >> 4 * half & 0x0F0F0F0F0F0F0F0Fu; };
    const auto highs = [&](int quarter) { return uint64_t{high >> 2 * quarter & 0x03030303u} << 4; };
    return bytes_of_eights(lows(0) | highs(0) | highs(1) << 32, lows(1) | highs(2) | highs(3) << 32);
}

void pack_high_bits(const uint8_t (&codes)[256], uint8_t (&packed)[32]) {
    for (int l = 0; l < 32; l += lanes) {
        Bytes bits{};
        for (int j = 0; j < 8; ++j) bits |= load_bytes(codes + 32 * j + l) >> 2 << j;
        store(bits, packed + l);
    }
}

void decode_block(const BlockQ3_K& block, float* x) {
    float spacing[16];
    store(to_float(block.d) * (floats_of(unpack_scales(block.scales)) - 32.0f), spacing);
    unrolled<16>([&](auto j) {
        const Bytes high = load_bytes(block.high_bits + j % 2 * lanes) >> j / 2 & 1;
        const Bytes code = two_bits_of(block.codes, j) | high << 2;
        store(spacing[j] * (floats_of(code) - 4.0f), x + 16 * j);
    });
}

}  // namespace

template <>
void encode_q3_K<unit>(const RowsOfBlocks& rows, BlockQ3_K* blocks) {
    encode_signed<Super>(rows, limits, [&](size_t b, const Super& super) {
        blocks[b].d = super.d;
        pack_scales(super.scales, blocks[b].scales);
        pack_two_bits(super.codes, blocks[b].codes);
        pack_high_bits(super.codes, blocks[b].high_bits);
    });
}

template <>
void decode_q3_K<unit>(const BlockQ3_K* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) decode_block(blocks[b], values + 256 * b);
}

}  // namespace quantmill
