// A matrix of weights as it stands in a checkpoint, and parts of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "formats/source.h"

namespace quantmill {

struct Weights {
    Source source;
    const void* values;  // row-major, any address
    size_t rows, cols;
};

// Rows and columns of a matrix.
struct WeightTile {
    Source source;
    const void* values;
    size_t rows, cols;
    size_t stride;  // values from one row to the next
};

static inline const void* at(const Weights& weights, size_t row, size_t col) {
    return static_cast<const uint8_t*>(weights.values) + (row * weights.cols + col) * size_of(weights.source);
}

static inline WeightTile tile_of(const Weights& weights, size_t row, size_t col, size_t rows, size_t cols) {
    return {weights.source, at(weights, row, col), rows, cols, weights.cols};
}

struct RefusedWeight {
    size_t row, col;
    float value;
};

// The first value, in row-major order, that is infinite or no number.
std::optional<RefusedWeight> first_not_finite(const Weights& weights);

// Rows are handed to threads in ranges of about 16384 values.
size_t rows_per_range(size_t cols);

}  // namespace quantmill
