// Whole matrices in hqq's layout: groups and rows spread over threads, and what is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "hqq/half_quadratic.h"
#include "hqq/row_packing.h"

namespace quantmill {

// The first value, in row-major order, that is not finite or above largest_hqq_value().
struct HqqRefused {
    size_t index;
    float value;
};

// Fills `result`, with any number of threads with the same bits; it is incomplete where a value is refused. A thread
// holds sixteen groups widened.
std::optional<HqqRefused> solve_hqq(const HqqGroups& groups, const HqqSettings& settings, const HqqResult& result,
                                    size_t threads);

// (lines, length) codes to values: one scale and zero per line for axis 1, one per column for axis 0.
void decode_hqq(const HqqStored& stored, int axis, size_t lines, size_t length, float* values, size_t threads);

// The packing of that name, nullptr if there is none.
const RowPacking* find_row_packing(std::string_view name);

// The index of the first code that does not fit its bits.
std::optional<size_t> pack_rows(const PackedRows& shape, const uint8_t* codes, uint8_t* packed, size_t threads);

void unpack_rows(const PackedRows& shape, const uint8_t* packed, uint8_t* codes, size_t threads);

}  // namespace quantmill
