// How hqq packs codes: across the rows of the grouped matrix. A packed row holds rows i, i + s, i + 2 s, ... of the
// codes, s being the number of packed rows; the first one stands in the highest bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace quantmill {

struct RowPacking {
    const char* name;  // hqq's
    int bits;
    size_t parts;  // codes in a word
    bool padded;   // rows of zeros complete the last part; else the rows are a multiple of `parts`
    size_t word_bytes;
};

constexpr RowPacking row_packings[] = {
    {"8bit_u8", 8, 1, false, 1},
    {"4bit_u8", 4, 2, false, 1},
    {"3bit_32", 3, 10, true, 4},  // two bits of the int32 stay 0
    {"2bit_u8", 2, 4, false, 1},
    {"1bit_u8", 1, 8, false, 1},
};

// (rows, cols) codes and the rows that hold them.
struct PackedRows {
    const RowPacking* packing;
    size_t rows, cols, packed_rows;
};

constexpr PackedRows packed_rows_of(const RowPacking& packing, size_t rows, size_t cols) {
    return {&packing, rows, cols, (rows + packing.parts - 1) / packing.parts};
}

struct RowPacker {
    // Packed rows [first, last). False if a code does not fit its bits.
    bool (*pack)(const PackedRows& shape, const uint8_t* codes, size_t first, size_t last, uint8_t* packed);
    void (*unpack)(const PackedRows& shape, const uint8_t* packed, size_t first, size_t last, uint8_t* codes);
};

template <Isa> const RowPacker& row_packer();

}  // namespace quantmill
