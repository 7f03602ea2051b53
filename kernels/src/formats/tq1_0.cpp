#include "tq1_0.h"

#include "../ternary.h"
#include "../unit.h"

namespace quantmill {
namespace {

constexpr uint8_t powers[5] = {1, 3, 9, 27, 81};

// `digits` base-3 digits, `apart` values apart, to one byte for each of `apart` places.
template <int digits, int apart>
void pack(const uint8_t* codes, uint8_t* packed) {
    for (int m = 0; m < apart; ++m) {
        unsigned number = 0;
        for (int k = 0; k < digits; ++k) number += codes[m + apart * k] * powers[4 - k];
        packed[m] = static_cast<uint8_t>((number * 256 + 242) / 243);
    }
}

// The digits of sixteen bytes, 16 or 32 values apart: a byte is the fraction 0.digits of 256, so that three times it runs
// over into the next digit.
template <int digits, int apart>
void unpack(const uint8_t* packed, float scale, float* values) {
    for (int m = 0; m < apart; m += lanes) {
        Bytes rest = load_bytes(packed + m);
        for (int k = 0; k < digits; ++k) {
            const Bytes digit = reinterpret_cast<Bytes>((rest > 85) + (rest > 170));  // 0, -1 or -2
            store(scale * floats_of_signed(-1 - digit), values + apart * k + m);
            rest = rest + rest + rest;
        }
    }
}

void unpack_rest(const uint8_t (&packed)[4], float scale, float* values) {
    for (int k = 0; k < 4; ++k) {
        for (int m = 0; m < 4; ++m) {
            const uint8_t shifted = static_cast<uint8_t>(packed[m] * powers[k]);  // the digits before it run over
            values[4 * k + m] = scale * static_cast<float>((shifted * 3 >> 8) - 1);
        }
    }
}

}  // namespace

template <>
void encode_tq1_0<unit>(const RowsOfBlocks& rows, BlockTQ1_0* blocks) {
    encode_ternary(rows, [&](size_t b, Half scale, const uint8_t (&codes)[256]) {
        blocks[b].scale = scale;
        pack<5, 32>(codes, blocks[b].codes);
        pack<5, 16>(codes + 160, blocks[b].codes + 32);
        pack<4, 4>(codes + 240, blocks[b].rest);
    });
}

template <>
void decode_tq1_0<unit>(const BlockTQ1_0* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) {
        const float scale = to_float(blocks[b].scale);
        unpack<5, 32>(blocks[b].codes, scale, values + 256 * b);
        unpack<5, 16>(blocks[b].codes + 32, scale, values + 256 * b + 160);
        unpack_rest(blocks[b].rest, scale, values + 256 * b + 240);
    }
}

}  // namespace quantmill
