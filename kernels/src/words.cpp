#include "words.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "dispatch.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t codes_per_range = 16384;  // rows of words that stay rows are handed to threads in ranges of about this
constexpr size_t rows_per_turn = 128;       // as many words of a column of turned words are one line of the cache
constexpr size_t rows_per_tile = 128;      // streams down the columns: sixteen words of 4-bit codes
constexpr size_t cols_per_tile = 64;       // a line of the cache is that many codes
constexpr size_t codes_per_piece = 256;   // of a row that is turned: its words and those of its neighbours stay in L1

const WordPacker& packer() {
    return on(isa_in_use(), []<Isa isa>() -> const WordPacker& { return word_packer<isa>(); });
}

// Codes and words as matrices, and what leads from one to the other.
template <typename CodeByte, typename WordByte>
struct Matrices {
    const WordLayout& layout;
    const WordPacker& packer;
    size_t rows, cols;
    CodeByte* codes;
    WordByte* words;

    int bits() const { return layout.stream.bits; }
    Tile<CodeByte> codes_at(size_t row, size_t col) const { return {codes + row * cols + col, cols}; }
    // The words of the stream or streams that begin with the code at (row, col).
    Tile<WordByte> words_at(size_t row, size_t col) const {
        const size_t streams = layout.down_columns ? cols : rows;
        const size_t length = words_per_stream(layout, rows, cols);
        const size_t stream = layout.down_columns ? col : row;
        const size_t word = words_of(layout.down_columns ? row : col, bits());
        const bool a_stream_a_row = layout.down_columns == layout.turned;
        return a_stream_a_row ? Tile<WordByte>{words + 4 * (stream * length + word), 4 * length}
                              : Tile<WordByte>{words + 4 * (word * streams + stream), 4 * streams};
    }
    bool as_stored() const { return layout.lowest == 0 && layout.shift == 0; }
    uint8_t mask() const { return static_cast<uint8_t>((1 << bits()) - 1); }
};

using Packing = Matrices<const uint8_t, uint8_t>;
using Unpacking = Matrices<uint8_t, const uint8_t>;

// A part of the matrix of codes: rows_per_tile x cols_per_tile, rows_per_turn x codes_per_piece or whole rows.
struct Piece {
    size_t row, col, rows, cols;
};

// A byte written may alias whatever is not a local: the loops over codes take their constants as arguments.
uint8_t largest_above(const uint8_t* codes, size_t n, uint8_t lowest) {
    uint8_t largest = 0;
    for (size_t i = 0; i < n; ++i) largest = std::max(largest, static_cast<uint8_t>(codes[i] - lowest));
    return largest;
}

// (code + before) modulo 2^bits, + after.
void shift_codes(const uint8_t* codes, size_t n, uint8_t before, uint8_t mask, uint8_t after, uint8_t* shifted) {
    for (size_t i = 0; i < n; ++i) {
        shifted[i] = static_cast<uint8_t>((static_cast<uint8_t>(codes[i] + before) & mask) + after);
    }
}

// The index of the first of `n` codes that does not fit; n if all do.
size_t first_misfit(const Packing& matrices, const uint8_t* codes, size_t n) {
    const auto lowest = static_cast<uint8_t>(matrices.layout.lowest);
    const uint8_t mask = matrices.mask();
    if (largest_above(codes, n, lowest) <= mask) return n;
    const auto misfits = [=](uint8_t code) { return static_cast<uint8_t>(code - lowest) > mask; };
    return static_cast<size_t>(std::find_if(codes, codes + n, misfits) - codes);
}

// Codes as the words hold them: where they stand, or in `scratch` where a constant is to be added.
Tile<const uint8_t> stored(const Packing& matrices, const Piece& piece, std::vector<uint8_t>& scratch) {
    const Tile<const uint8_t> codes = matrices.codes_at(piece.row, piece.col);
    if (matrices.as_stored()) return codes;
    scratch.resize(piece.rows * piece.cols);
    const auto added = static_cast<uint8_t>(matrices.layout.shift - matrices.layout.lowest);
    for (size_t row = 0; row < piece.rows; ++row) {
        shift_codes(codes.row(row), piece.cols, added, matrices.mask(), 0, scratch.data() + row * piece.cols);
    }
    return {scratch.data(), piece.cols};
}

void restore(const Unpacking& matrices, const Piece& piece) {
    if (matrices.as_stored()) return;
    const Tile<uint8_t> codes = matrices.codes_at(piece.row, piece.col);
    const auto before = static_cast<uint8_t>(-matrices.layout.shift);
    const auto after = static_cast<uint8_t>(matrices.layout.lowest);
    for (size_t row = 0; row < piece.rows; ++row) {
        shift_codes(codes.row(row), piece.cols, before, matrices.mask(), after, codes.row(row));
    }
}

class Scratch {
   public:
    Tile<uint8_t> words(size_t rows, size_t cols) {
        words_.resize(4 * rows * cols);
        return {words_.data(), 4 * cols};
    }
    std::vector<uint8_t>& codes() { return codes_; }

   private:
    std::vector<uint8_t> words_, codes_;
};

Tile<const uint8_t> reading(Tile<uint8_t> tile) { return {tile.bytes, tile.stride}; }

// The words of a piece before they are turned.
struct WordsOfPiece {
    size_t rows, cols;

    WordsOfPiece(const WordLayout& layout, const Piece& piece)
        : rows(layout.down_columns ? words_of(piece.rows, layout.stream.bits) : piece.rows),
          cols(layout.down_columns ? piece.cols : words_of(piece.cols, layout.stream.bits)) {}
};

void pack_piece(const Packing& matrices, const Piece& piece, Scratch& scratch) {
    const WordLayout& layout = matrices.layout;
    const WordPacker& packer = matrices.packer;
    const WordsOfPiece words(layout, piece);
    const Tile<const uint8_t> codes = stored(matrices, piece, scratch.codes());
    const Tile<uint8_t> target = matrices.words_at(piece.row, piece.col);
    const Tile<uint8_t> packed = layout.turned ? scratch.words(words.rows, words.cols) : target;
    if (layout.down_columns) {
        packer.pack_columns(layout.stream, codes, piece.rows, piece.cols, packed);
    } else {
        for (size_t row = 0; row < piece.rows; ++row) {
            packer.pack_row(layout.stream.bits, codes.row(row), piece.cols, packed.row(row));
        }
    }
    if (layout.turned) packer.turn(reading(packed), words.rows, words.cols, target);
}

void unpack_piece(const Unpacking& matrices, const Piece& piece, Scratch& scratch) {
    const WordLayout& layout = matrices.layout;
    const WordPacker& packer = matrices.packer;
    const WordsOfPiece words(layout, piece);
    const Tile<uint8_t> codes = matrices.codes_at(piece.row, piece.col);
    Tile<const uint8_t> packed = matrices.words_at(piece.row, piece.col);
    if (layout.turned) {
        const Tile<uint8_t> straight = scratch.words(words.rows, words.cols);
        packer.turn(packed, words.cols, words.rows, straight);
        packed = reading(straight);
    }
    if (layout.down_columns) {
        packer.unpack_columns(layout.stream, packed, piece.rows, piece.cols, codes);
    } else {
        for (size_t row = 0; row < piece.rows; ++row) {
            packer.unpack_row(layout.stream.bits, packed.row(row), piece.cols, codes.row(row));
        }
    }
    restore(matrices, piece);
}

// Rows that one thread takes at once.
size_t grain(const WordLayout& layout, size_t cols) {
    if (layout.down_columns) return rows_per_tile;
    return layout.turned ? rows_per_turn : std::max<size_t>(1, codes_per_range / cols);
}

template <typename Work>
void for_pieces(const WordLayout& layout, size_t begin, size_t end, size_t cols, const Work& work) {
    const size_t width = layout.down_columns ? cols_per_tile : layout.turned ? codes_per_piece : cols;
    for (size_t col = 0; col < cols; col += width) {
        work(Piece{begin, col, end - begin, std::min(width, cols - col)});
    }
}

}  // namespace

std::optional<RefusedCode> pack_words(const WordLayout& layout, const uint8_t* codes, size_t rows, size_t cols,
                                      uint8_t* words, size_t threads) {
    if (rows == 0 || cols == 0) return std::nullopt;
    const Packing matrices = {layout, packer(), rows, cols, codes, words};
    std::mutex guards_first;
    std::optional<RefusedCode> first;
    for_rows(rows, grain(layout, cols), threads, [&](size_t begin, size_t end) {
        const size_t n = (end - begin) * cols, misfit = first_misfit(matrices, codes + begin * cols, n);
        if (misfit < n) {
            const std::lock_guard lock(guards_first);
            const RefusedCode refused = {begin + misfit / cols, misfit % cols};
            if (!first || refused.row < first->row) first = refused;
            return false;
        }
        Scratch scratch;
        for_pieces(layout, begin, end, cols, [&](const Piece& piece) { pack_piece(matrices, piece, scratch); });
        return true;
    });
    return first;
}

void unpack_words(const WordLayout& layout, const uint8_t* words, size_t rows, size_t cols, uint8_t* codes,
                  size_t threads) {
    if (rows == 0 || cols == 0) return;
    const Unpacking matrices = {layout, packer(), rows, cols, codes, words};
    for_rows(rows, grain(layout, cols), threads, [&](size_t begin, size_t end) {
        Scratch scratch;
        for_pieces(layout, begin, end, cols, [&](const Piece& piece) { unpack_piece(matrices, piece, scratch); });
        return true;
    });
}

}  // namespace quantmill
