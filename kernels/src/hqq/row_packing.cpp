#include "hqq/row_packing.h"

#include <cstring>

#include "unit.h"

namespace quantmill {
namespace {

int shift_of(const RowPacking& packing, size_t part) {
    return packing.bits * static_cast<int>(packing.parts - 1 - part);
}

// Packed rows may stand at any address.
template <typename Word>
void add_codes(const uint8_t* codes, size_t n, int shift, uint8_t* packed) {
    for (size_t i = 0; i < n; ++i) {
        Word word;
        std::memcpy(&word, packed + i * sizeof word, sizeof word);
        word = static_cast<Word>(word | static_cast<Word>(codes[i]) << shift);
        std::memcpy(packed + i * sizeof word, &word, sizeof word);
    }
}

template <typename Word>
void take_codes(const uint8_t* packed, size_t n, int shift, unsigned mask, uint8_t* codes) {
    for (size_t i = 0; i < n; ++i) {
        Word word;
        std::memcpy(&word, packed + i * sizeof word, sizeof word);
        codes[i] = static_cast<uint8_t>((word >> shift) & mask);
    }
}

bool fit(const uint8_t* codes, size_t n, int bits) {
    uint8_t seen = 0;
    for (size_t i = 0; i < n; ++i) seen |= codes[i];
    return seen >> bits == 0;
}

// Rows that follow each other are one run, so narrow matrices cost no more than wide ones. Calls
// `move(first word, first code, n, shift)` for pieces of runs that stay in the level 1 cache, part after part.
template <typename Move>
void for_pieces(const PackedRows& shape, size_t first, size_t last, const Move& move) {
    constexpr size_t piece = 4096;
    const RowPacking& packing = *shape.packing;
    const size_t run = shape.packed_rows * shape.cols, n_codes = shape.rows * shape.cols, end = last * shape.cols;
    for (size_t begin = first * shape.cols; begin < end; begin += piece) {
        const size_t wanted = end - begin < piece ? end - begin : piece;
        for (size_t part = 0; part < packing.parts && part * run + begin < n_codes; ++part) {
            const size_t code = part * run + begin, left = n_codes - code;
            move(begin, code, wanted < left ? wanted : left, shift_of(packing, part));
        }
    }
}

bool pack(const PackedRows& shape, const uint8_t* codes, size_t first, size_t last, uint8_t* packed) {
    const RowPacking& packing = *shape.packing;
    const auto add = packing.word_bytes == 1 ? add_codes<uint8_t> : add_codes<uint32_t>;
    std::memset(packed + first * shape.cols * packing.word_bytes, 0, (last - first) * shape.cols * packing.word_bytes);
    bool all_fit = true;
    for_pieces(shape, first, last, [&](size_t word, size_t code, size_t n, int shift) {
        all_fit &= fit(codes + code, n, packing.bits);
        add(codes + code, n, shift, packed + word * packing.word_bytes);
    });
    return all_fit;
}

void unpack(const PackedRows& shape, const uint8_t* packed, size_t first, size_t last, uint8_t* codes) {
    const RowPacking& packing = *shape.packing;
    const auto take = packing.word_bytes == 1 ? take_codes<uint8_t> : take_codes<uint32_t>;
    const unsigned mask = (1u << packing.bits) - 1;
    for_pieces(shape, first, last, [&](size_t word, size_t code, size_t n, int shift) {
        take(packed + word * packing.word_bytes, n, shift, mask, codes + code);
    });
}

constexpr RowPacker table = {pack, unpack};

}  // namespace

template <>
const RowPacker& row_packer<unit>() {
    return table;
}

}  // namespace quantmill
