// Whole matrices through one codec: widening of the source, checks of each value, rows spread over threads.
#pragma once

#include <cstddef>
#include <optional>

#include "codec.h"

namespace quantmill {

enum class Refusal { not_finite, too_large, scale_overflow };

// Why encoding stopped: the first position in row-major order, whatever the number of threads.
struct Refused {
    Refusal reason;
    size_t row;
    size_t col;   // of the value, or of the first value of the block whose scale overflowed
    float value;  // the value there
};

// Encode `rows` x `cols` values (row-major, any alignment, cols a multiple of codec.block_values) into `packed`.
// `imatrix` is nullptr or `cols` floats. Each thread widens 4096 values at a time.
std::optional<Refused> encode_rows(const Codec& codec, Source source, const void* values, size_t rows, size_t cols,
                                   const float* imatrix, void* packed, size_t threads);

void decode_rows(const Codec& codec, const void* packed, size_t rows, size_t cols, float* values, size_t threads);

}  // namespace quantmill
