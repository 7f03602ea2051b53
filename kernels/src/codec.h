// The table of GGML's formats, once per instruction set of this build.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "isa.h"
#include "rows_of_blocks.h"
#include "formats/source.h"

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

// All formats, in the same order on every instruction set of this build.
std::span<const Codec> codecs_of(Isa isa);

// Those of the instruction set in use.
std::span<const Codec> codecs();

// nullptr for an unknown name.
const Codec* find(std::string_view name);

}  // namespace quantmill
