#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t values_per_range = 16384;  // rows are handed to threads in ranges of about this many values
constexpr size_t values_per_piece = 4096;   // whole blocks of every format that stay in the level 1 cache

size_t grain(size_t cols) { return std::max<size_t>(1, values_per_range / std::max<size_t>(1, cols)); }

// Whole rows, or a part of one.
struct Piece {
    size_t row, rows, col, cols;

    size_t values() const { return rows * cols; }
};

// As float32: in place if they are that already, else in `widened`.
const float* as_floats(const Codec& codec, Source source, const void* values, size_t n, float* widened) {
    const bool in_place = source == Source::float32 && reinterpret_cast<uintptr_t>(values) % alignof(float) == 0;
    if (in_place) return static_cast<const float*>(values);
    codec.source().widen(source, values, n, widened);
    return widened;
}

// Encodes the blocks before the first value that cannot be stored, even if there is one: a scale may overflow in one of
// them, and the first position is the one to name.
std::optional<Refused> encode_piece(const Codec& codec, const Piece& piece, const float* values, const float* imatrix,
                                    uint8_t* blocks) {
    const size_t bad = codec.source().first_unstorable(values, piece.values(), codec.largest);
    const size_t whole_rows = bad / piece.cols, blocks_per_row = piece.cols / codec.block_values;
    codec.encode({values, imatrix, whole_rows, blocks_per_row}, blocks);
    if (whole_rows < piece.rows) {
        codec.encode({values + whole_rows * piece.cols, imatrix, 1, bad % piece.cols / codec.block_values},
                     blocks + whole_rows * blocks_per_row * codec.block_bytes);
    }
    const size_t good_blocks = bad / codec.block_values, overflow = codec.first_overflow(blocks, good_blocks);
    const auto refused = [&](Refusal reason, size_t at) {
        return Refused{reason, piece.row + at / piece.cols, piece.col + at % piece.cols, values[at]};
    };
    if (overflow < good_blocks) return refused(Refusal::scale_overflow, overflow * codec.block_values);
    if (bad == piece.values()) return std::nullopt;
    return refused(std::isfinite(values[bad]) ? Refusal::too_large : Refusal::not_finite, bad);
}

}  // namespace

std::optional<Refused> encode_rows(const Codec& codec, Source source, const void* values, size_t rows, size_t cols,
                                   const float* imatrix, void* packed, size_t threads) {
    if (cols == 0) return std::nullopt;
    const size_t rows_at_once = std::max<size_t>(1, values_per_piece / cols);
    const size_t cols_at_once = std::min(values_per_piece, cols);
    const auto encode = [&](const Piece& piece) {
        const size_t first = piece.row * cols + piece.col;
        float widened[values_per_piece];
        const void* const stored = static_cast<const uint8_t*>(values) + first * size_of(source);
        const float* const floats = as_floats(codec, source, stored, piece.values(), widened);
        return encode_piece(codec, piece, floats, imatrix ? imatrix + piece.col : nullptr,
                            static_cast<uint8_t*>(packed) + first / codec.block_values * codec.block_bytes);
    };
    const auto encode_range = [&](size_t begin, size_t end) -> std::optional<Refused> {
        for (size_t row = begin; row < end; row += rows_at_once) {
            for (size_t col = 0; col < cols; col += cols_at_once) {
                const Piece piece{row, std::min(rows_at_once, end - row), col, std::min(cols_at_once, cols - col)};
                if (const auto refused = encode(piece)) return refused;
            }
        }
        return std::nullopt;
    };

    std::mutex guards_first;
    std::optional<Refused> first;
    for_rows(rows, grain(cols), threads, [&](size_t begin, size_t end) {
        const auto refused = encode_range(begin, end);
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
