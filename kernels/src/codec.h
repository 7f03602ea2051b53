// The table of formats: one row per format, one column per instruction set this build contains.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "isa.h"
#include "rows_of_blocks.h"
#include "source.h"

namespace quantmill {

// One format on one instruction set. A row of a matrix is a whole number of blocks.
struct Codec {
    const char* name;      // GGML's own spelling
    size_t block_values;   // weights that share a block
    size_t block_bytes;
    float largest;         // a value of greater magnitude cannot be stored, whatever its neighbours are

    void (*encode)(const RowsOfBlocks& rows, void* blocks);
    // Accepts any bytes.
    void (*decode)(const void* blocks, float* values, size_t n_blocks);
    // Index of the first block whose scale overflowed to infinity; n_blocks if there is none.
    size_t (*first_overflow)(const void* blocks, size_t n_blocks);
    const SourceReader& (*source)();  // how this instruction set reads the weights
};

// The codecs of one instruction set, all formats in the same order.
struct Column {
    Isa isa;
    std::span<const Codec> codecs;
};

// What this build contains, best first. The last one is scalar.
std::span<const Column> columns();

// The column in use: the best that the machine has, or the one QUANTMILL_ISA names. Throws std::runtime_error if that
// one is unknown, not in this build or not on this machine; the choice is made once.
const Column& column();

// nullptr for an unknown name.
const Codec* find(std::string_view name);

}  // namespace quantmill
