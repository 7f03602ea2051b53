// Matrices of small codes packed in 32-bit words, in the layouts of the formats that checkpoints use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "words/packing.h"

namespace quantmill {

// How a matrix of codes (rows, cols), one byte each, becomes a matrix of words.
struct WordLayout {
    Stream stream;
    bool down_columns;  // each column is a stream of bits; otherwise each row is
    bool turned;        // the matrix of words is transposed
    int lowest;         // codes are `lowest` to `lowest` + 2^bits - 1; below zero they are int8
    int shift;          // stored is code - lowest + shift, modulo 2^bits
};

constexpr size_t words_per_stream(const WordLayout& layout, size_t rows, size_t cols) {
    return words_of(layout.down_columns ? rows : cols, layout.stream.bits);
}

// A code that the bits of the layout cannot hold, the first in row-major order.
struct RefusedCode {
    size_t row;
    size_t col;
};

// `codes` is rows x cols bytes, `words` as many streams of words_per_stream words, both at any address.
std::optional<RefusedCode> pack_words(const WordLayout& layout, const uint8_t* codes, size_t rows, size_t cols,
                                      uint8_t* words, size_t threads);

// Accepts any words.
void unpack_words(const WordLayout& layout, const uint8_t* words, size_t rows, size_t cols, uint8_t* codes,
                  size_t threads);

}  // namespace quantmill
