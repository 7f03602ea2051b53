// Codes of 1 to 8 bits in 32-bit words, and back. 32 codes fill `bits` words: a little-endian stream of bits in which
// one code may begin in one word and end in the next.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace quantmill {

constexpr size_t codes_per_turn = 32;  // after as many codes a stream is at the start of a word again

// In which order the codes of a stream stand in it: code i at bits places[i] * bits and above.
struct Stream {
    int bits;
    std::array<uint8_t, codes_per_turn> places;
};

// A matrix as it stands in memory, at any address: `stride` bytes from one row to the next.
template <typename Byte>
struct Tile {
    Byte* bytes;
    size_t stride;

    Byte* row(size_t index) const { return bytes + index * stride; }
};

constexpr size_t words_of(size_t codes, int bits) { return (codes * size_t(bits) + 31) / 32; }

// How one instruction set does it. Codes are bytes below 2^bits; bits of the last word that no code fills are zero, and
// not read by what unpacks.
struct WordPacker {
    // `n` codes, in their own order, to words_of(n, bits) words.
    void (*pack_row)(int bits, const uint8_t* codes, size_t n, uint8_t* words);
    void (*unpack_row)(int bits, const uint8_t* words, size_t n, uint8_t* codes);
    // Each column is a stream: codes (rows, cols) to words (words_of(rows, bits), cols).
    void (*pack_columns)(const Stream& stream, Tile<const uint8_t> codes, size_t rows, size_t cols,
                         Tile<uint8_t> words);
    void (*unpack_columns)(const Stream& stream, Tile<const uint8_t> words, size_t rows, size_t cols,
                           Tile<uint8_t> codes);
    // Words (rows, cols) to words (cols, rows).
    void (*turn)(Tile<const uint8_t> words, size_t rows, size_t cols, Tile<uint8_t> turned);
};

template <Isa> const WordPacker& word_packer();

}  // namespace quantmill
