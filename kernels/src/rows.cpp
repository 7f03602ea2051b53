#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "float16.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t values_per_range = 16384;  // rows are handed to threads in ranges of about this many values

size_t grain(size_t cols) { return std::max<size_t>(1, values_per_range / std::max<size_t>(1, cols)); }

template <typename Stored>
void widen_as(const void* row, size_t cols, float* widened) {
    const Stored* const stored = static_cast<const Stored*>(row);
    for (size_t i = 0; i < cols; ++i) widened[i] = to_float(stored[i]);
}

// The row as float32: in place if it is that already, else in `widened`.
const float* as_floats(Source source, const void* row, size_t cols, float* widened) {
    switch (source) {
        case Source::float32:
            if (reinterpret_cast<uintptr_t>(row) % alignof(float) == 0) return static_cast<const float*>(row);
            std::memcpy(widened, row, cols * sizeof(float));
            break;
        case Source::float16: widen_as<Half>(row, cols, widened); break;
        case Source::bfloat16: widen_as<Bfloat>(row, cols, widened); break;
    }
    return widened;
}

// Index of the first value that is not finite or whose magnitude is above `largest`; cols if there is none.
size_t first_unstorable(const float* row, size_t cols, float largest) {
    constexpr size_t stride = 64;  // a branch per stride, not per value, lets the compiler vectorize the comparison
    for (size_t first = 0; first < cols; first += stride) {
        const size_t last = std::min(cols, first + stride);
        int bad = 0;
        for (size_t i = first; i < last; ++i) bad |= !(std::fabs(row[i]) <= largest);  // NaN compares false
        if (bad == 0) continue;
        for (size_t i = first; i < last; ++i) {
            if (!(std::fabs(row[i]) <= largest)) return i;
        }
    }
    return cols;
}

std::optional<Refused> encode_row(const Codec& codec, const float* values, size_t row, size_t cols,
                                  const float* imatrix, void* blocks) {
    const size_t bad = first_unstorable(values, cols, codec.largest);
    if (bad < cols) {
        const Refusal reason = std::isfinite(values[bad]) ? Refusal::too_large : Refusal::not_finite;
        return Refused{reason, row, bad, values[bad]};
    }
    const size_t n_blocks = cols / codec.block_values;
    codec.encode(values, imatrix, blocks, n_blocks);
    const size_t overflow = codec.first_overflow(blocks, n_blocks);
    if (overflow == n_blocks) return std::nullopt;
    const size_t col = overflow * codec.block_values;
    return Refused{Refusal::scale_overflow, row, col, values[col]};
}

}  // namespace

std::optional<Refused> encode_rows(const Codec& codec, Source source, const void* values, size_t rows, size_t cols,
                                   const float* imatrix, void* packed, size_t threads) {
    const size_t row_bytes = cols / codec.block_values * codec.block_bytes;
    std::optional<Refused> first;
    std::mutex guards_first;
    for_rows(rows, grain(cols), threads, [&](size_t begin, size_t end) {
        const auto widened = std::make_unique_for_overwrite<float[]>(cols);
        for (size_t row = begin; row < end; ++row) {
            const void* const source_row = static_cast<const uint8_t*>(values) + row * cols * size_of(source);
            const float* const floats = as_floats(source, source_row, cols, widened.get());
            const auto refused =
                encode_row(codec, floats, row, cols, imatrix, static_cast<uint8_t*>(packed) + row * row_bytes);
            if (!refused) continue;
            const std::lock_guard lock(guards_first);
            if (!first || refused->row < first->row) first = refused;
            return false;
        }
        return true;
    });
    return first;
}

void decode_rows(const Codec& codec, const void* packed, size_t rows, size_t cols, float* values, size_t threads) {
    const size_t n_blocks = cols / codec.block_values;
    const size_t row_bytes = n_blocks * codec.block_bytes;
    for_rows(rows, grain(cols), threads, [&](size_t begin, size_t end) {
        const uint8_t* const blocks = static_cast<const uint8_t*>(packed) + begin * row_bytes;
        codec.decode(blocks, values + begin * cols, (end - begin) * n_blocks);
        return true;
    });
}

}  // namespace quantmill
