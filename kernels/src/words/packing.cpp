#include "words/packing.h"

#include <cstring>

#include "unit.h"

namespace quantmill {
namespace {

template <typename Value>
inline Value loaded(const uint8_t* bytes) {
    Value value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

template <typename Value>
inline void put(Value value, uint8_t* bytes) {
    std::memcpy(bytes, &value, sizeof value);
}

inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

// ---- along a row: eight codes are eight bytes of a register, or `bits` bytes of the stream ----

// The low `used` bits of each field of `width` bits.
constexpr uint64_t fields(int width, int used) {
    uint64_t mask = 0;
    for (int at = 0; at < 64; at += width) mask |= ((uint64_t{1} << used) - 1) << at;
    return mask;
}

// Neighbouring fields of `width` bits, of which `used` are filled, joined: the upper one moves down to the lower one.
template <int width, int used>
inline uint64_t joined(uint64_t x) {
    constexpr uint64_t low = fields(2 * width, used);
    return (x & low) | ((x >> (width - used)) & (low << used));
}

template <int width, int used>
inline uint64_t parted(uint64_t x) {
    constexpr uint64_t low = fields(2 * width, used);
    return (x & low) | ((x << (width - used)) & (low << width));
}

template <int bits>
inline uint64_t packed_eight(uint64_t codes) {
    return joined<32, 4 * bits>(joined<16, 2 * bits>(joined<8, bits>(codes)));
}

template <int bits>
inline uint64_t unpacked_eight(uint64_t stream) {
    return parted<8, bits>(parted<16, 2 * bits>(parted<32, 4 * bits>(stream)));
}

constexpr size_t eights_at_once = 64;

// Eight bytes at each step of `bits`, of which the next step overwrites what is too much; the last ones exactly.
template <int bits>
inline void put_eights(const uint64_t* eights, size_t n, uint8_t* stream) {
    size_t i = 0;
    if constexpr (bits == 1 || bits == 2 || bits == 4) {
        using Packed = decltype([] {
            if constexpr (bits == 1) return uint8_t{};
            else if constexpr (bits == 2) return uint16_t{};
            else return uint32_t{};
        }());
        for (; i < n; ++i) put(static_cast<Packed>(eights[i]), stream + i * bits);
    } else {
        for (; (n - i) * bits >= 8; ++i) put(eights[i], stream + i * bits);
        for (; i < n; ++i) std::memcpy(stream + i * bits, &eights[i], bits);
    }
}

template <int bits>
void pack_row_of(const uint8_t* codes, size_t n, uint8_t* words) {
    uint64_t eights[eights_at_once];
    const size_t whole = n / 8;
    for (size_t first = 0; first < whole; first += eights_at_once) {
        const size_t count = least(whole - first, eights_at_once);
        for (size_t i = 0; i < count; ++i) {
            eights[i] = packed_eight<bits>(loaded<uint64_t>(codes + 8 * (first + i)));
        }
        put_eights<bits>(eights, count, words + first * bits);
    }
    uint64_t rest = 0;
    for (size_t i = 8 * whole; i < n; ++i) rest |= uint64_t{codes[i]} << (bits * (i - 8 * whole));
    for (size_t i = whole * bits; i < 4 * words_of(n, bits); ++i, rest >>= 8) words[i] = static_cast<uint8_t>(rest);
}

template <int bits>
void unpack_row_of(const uint8_t* words, size_t n, uint8_t* codes) {
    const size_t whole = n / 8, row_bytes = 4 * words_of(n, bits);
    uint64_t eights[eights_at_once];
    for (size_t first = 0; first < whole; first += eights_at_once) {
        const size_t count = least(whole - first, eights_at_once);
        for (size_t i = 0; i < count; ++i) {
            const size_t at = (first + i) * bits;
            if (at + 8 <= row_bytes) {
                eights[i] = loaded<uint64_t>(words + at);
            } else {
                eights[i] = 0;
                std::memcpy(&eights[i], words + at, bits);
            }
        }
        for (size_t i = 0; i < count; ++i) put(unpacked_eight<bits>(eights[i]), codes + 8 * (first + i));
    }
    uint64_t rest = 0;
    std::memcpy(&rest, words + whole * bits, least(row_bytes - whole * bits, 8));
    for (size_t i = 8 * whole; i < n; ++i, rest >>= bits) codes[i] = static_cast<uint8_t>(rest & fields(64, bits));
}

#define QUANTMILL_FOR_BITS(function, ...)                                               \
    switch (bits) {                                                                     \
        case 1: return function<1>(__VA_ARGS__);                                        \
        case 2: return function<2>(__VA_ARGS__);                                        \
        case 3: return function<3>(__VA_ARGS__);                                        \
        case 4: return function<4>(__VA_ARGS__);                                        \
        case 5: return function<5>(__VA_ARGS__);                                        \
        case 6: return function<6>(__VA_ARGS__);                                        \
        case 7: return function<7>(__VA_ARGS__);                                        \
        default: return function<8>(__VA_ARGS__);                                       \
    }

void pack_row(int bits, const uint8_t* codes, size_t n, uint8_t* words) {
    QUANTMILL_FOR_BITS(pack_row_of, codes, n, words)
}

void unpack_row(int bits, const uint8_t* words, size_t n, uint8_t* codes) {
    QUANTMILL_FOR_BITS(unpack_row_of, words, n, codes)
}
#undef QUANTMILL_FOR_BITS

// ---- down the columns: sixteen columns side by side ----

constexpr size_t columns_at_once = 16;

// A code that has bits in a word: its first bit is bit `shift` there, of an earlier word if that is negative.
struct Part {
    size_t row;
    int shift;
};

// Those of word `word` among `rows` codes, at most 32.
inline size_t parts_of(const Stream& stream, size_t word, size_t rows, Part* parts) {
    size_t n = 0;
    for (size_t row = 0; row < rows; ++row) {
        const int shift = stream.places[row] * stream.bits - 32 * static_cast<int>(word);
        if (shift > -stream.bits && shift < 32) parts[n++] = {row, shift};
    }
    return n;
}

template <size_t most>
inline void pack_word(Tile<const uint8_t> codes, const Part* parts, size_t n_parts, size_t cols, uint8_t* words) {
    const size_t n = most == columns_at_once ? columns_at_once : cols;
    uint32_t sixteen[columns_at_once] = {};
    for (size_t p = 0; p < n_parts; ++p) {
        const uint8_t* const row = codes.row(parts[p].row);
        const int shift = parts[p].shift;
        if (shift >= 0) {
            for (size_t c = 0; c < n; ++c) sixteen[c] |= uint32_t{row[c]} << shift;
        } else {
            for (size_t c = 0; c < n; ++c) sixteen[c] |= uint32_t{row[c]} >> -shift;
        }
    }
    std::memcpy(words, sixteen, n * sizeof *sixteen);
}

void pack_columns(const Stream& stream, Tile<const uint8_t> codes, size_t rows, size_t cols, Tile<uint8_t> words) {
    for (size_t first = 0; first < rows; first += codes_per_turn) {
        const size_t n_rows = least(rows - first, codes_per_turn);
        for (size_t word = 0; word < words_of(n_rows, stream.bits); ++word) {
            Part parts[codes_per_turn];
            const size_t n_parts = parts_of(stream, word, n_rows, parts);
            uint8_t* const packed = words.row(first / codes_per_turn * size_t(stream.bits) + word);
            size_t c = 0;
            for (; c + columns_at_once <= cols; c += columns_at_once) {
                const Tile<const uint8_t> sixteen = {codes.row(first) + c, codes.stride};
                pack_word<columns_at_once>(sixteen, parts, n_parts, columns_at_once, packed + 4 * c);
            }
            pack_word<0>({codes.row(first) + c, codes.stride}, parts, n_parts, cols - c, packed + 4 * c);
        }
    }
}

// `low` and `high`: the word in which a code begins, and the next one, or the same where the code ends in it.
template <size_t most>
inline void unpack_code(const uint8_t* low, const uint8_t* high, int shift, uint32_t mask, size_t cols,
                        uint8_t* codes) {
    const size_t n = most == columns_at_once ? columns_at_once : cols;
    uint32_t lower[columns_at_once] = {}, upper[columns_at_once] = {};
    std::memcpy(lower, low, n * sizeof *lower);
    std::memcpy(upper, high, n * sizeof *upper);
    for (size_t c = 0; c < n; ++c) {
        codes[c] = static_cast<uint8_t>(((lower[c] >> shift) | ((upper[c] << 1) << (31 - shift))) & mask);
    }
}

void unpack_columns(const Stream& stream, Tile<const uint8_t> words, size_t rows, size_t cols, Tile<uint8_t> codes) {
    for (size_t row = 0; row < rows; ++row) {
        const int start = stream.places[row % codes_per_turn] * stream.bits, shift = start % 32;
        const size_t word = row / codes_per_turn * size_t(stream.bits) + size_t(start) / 32;
        const uint8_t* const low = words.row(word);
        const uint8_t* const high = shift + stream.bits > 32 ? words.row(word + 1) : low;
        const uint32_t mask = (1u << stream.bits) - 1;
        uint8_t* const unpacked = codes.row(row);
        size_t c = 0;
        for (; c + columns_at_once <= cols; c += columns_at_once) {
            unpack_code<columns_at_once>(low + 4 * c, high + 4 * c, shift, mask, columns_at_once, unpacked + c);
        }
        unpack_code<0>(low + 4 * c, high + 4 * c, shift, mask, cols - c, unpacked + c);
    }
}

// ---- rows to columns ----

using Four = uint32_t __attribute__((vector_size(16)));

inline void turn_four(Tile<const uint8_t> words, Tile<uint8_t> turned) {
    const Four a = loaded<Four>(words.row(0)), b = loaded<Four>(words.row(1));
    const Four c = loaded<Four>(words.row(2)), d = loaded<Four>(words.row(3));
    const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    put(Four(__builtin_shufflevector(ab, cd, 0, 1, 4, 5)), turned.row(0));
    put(Four(__builtin_shufflevector(ab, cd, 2, 3, 6, 7)), turned.row(1));
    put(Four(__builtin_shufflevector(ef, gh, 0, 1, 4, 5)), turned.row(2));
    put(Four(__builtin_shufflevector(ef, gh, 2, 3, 6, 7)), turned.row(3));
}

void turn(Tile<const uint8_t> words, size_t rows, size_t cols, Tile<uint8_t> turned) {
    const auto one_by_one = [&](size_t row, size_t col) {
        put(loaded<uint32_t>(words.row(row) + 4 * col), turned.row(col) + 4 * row);
    };
    const size_t whole_rows = rows / 4 * 4, whole_cols = cols / 4 * 4;
    for (size_t col = 0; col < whole_cols; col += 4) {
        for (size_t row = 0; row < whole_rows; row += 4) {
            turn_four({words.row(row) + 4 * col, words.stride}, {turned.row(col) + 4 * row, turned.stride});
        }
    }
    for (size_t row = 0; row < rows; ++row) {
        for (size_t col = row < whole_rows ? whole_cols : 0; col < cols; ++col) one_by_one(row, col);
    }
}

constexpr WordPacker packer = {pack_row, unpack_row, pack_columns, unpack_columns, turn};

}  // namespace

template <>
const WordPacker& word_packer<unit>() {
    return packer;
}

}  // namespace quantmill
