#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t values_per_range = 16384;  // rows are handed to threads in ranges of about this many values

size_t grain(size_t cols) { return std::max<size_t>(1, values_per_range / std::max<size_t>(1, cols)); }

// As float32: in place if they are that already, else in `widened`.
const float* as_floats(const Codec& codec, Source source, const void* values, size_t n, float* widened) {
    const bool in_place = source == Source::float32 && reinterpret_cast<uintptr_t>(values) % alignof(float) == 0;
    if (in_place) return static_cast<const float*>(values);
    codec.source().widen(source, values, n, widened);
    return widened;
}

// Encodes the rows from `row` on that stand in `values`. The rows before the first value that cannot be stored are
// encoded even so: a scale may overflow in one of them, and the first position is the one to name.
std::optional<Refused> encode_range(const Codec& codec, const RowsOfBlocks& range, size_t row, void* blocks) {
    const size_t cols = range.blocks_per_row * codec.block_values;
    const size_t bad = codec.source().first_unstorable(range.values, range.rows * cols, codec.largest);
    RowsOfBlocks good = range;
    if (cols > 0) good.rows = bad / cols;
    codec.encode(good, blocks);
    const size_t overflow = codec.first_overflow(blocks, good.rows * range.blocks_per_row);
    if (overflow < good.rows * range.blocks_per_row) {
        const size_t first = overflow * codec.block_values;
        return Refused{Refusal::scale_overflow, row + first / cols, first % cols, range.values[first]};
    }
    if (good.rows == range.rows) return std::nullopt;
    const Refusal reason = std::isfinite(range.values[bad]) ? Refusal::too_large : Refusal::not_finite;
    return Refused{reason, row + bad / cols, bad % cols, range.values[bad]};
}

}  // namespace

std::optional<Refused> encode_rows(const Codec& codec, Source source, const void* values, size_t rows, size_t cols,
                                   const float* imatrix, void* packed, size_t threads) {
    const size_t blocks_per_row = cols / codec.block_values, row_bytes = blocks_per_row * codec.block_bytes;
    std::mutex guards_first;
    std::optional<Refused> first;
    for_rows(rows, grain(cols), threads, [&](size_t begin, size_t end) {
        const size_t n = (end - begin) * cols;
        const auto widened = std::make_unique_for_overwrite<float[]>(n);
        const void* const stored = static_cast<const uint8_t*>(values) + begin * cols * size_of(source);
        const float* const floats = as_floats(codec, source, stored, n, widened.get());
        const auto refused = encode_range(codec, {floats, imatrix, end - begin, blocks_per_row}, begin,
                                          static_cast<uint8_t*>(packed) + begin * row_bytes);
        if (!refused) return true;
        const std::lock_guard lock(guards_first);
        if (!first || refused->row < first->row) first = refused;
        return false;
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
