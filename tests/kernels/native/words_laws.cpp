#include "words.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "laws.h"

namespace quantmill {
namespace {

using Bytes = std::vector<uint8_t>;

Stream stream_of(int bits, bool interleaved) {
    Stream stream = {bits, {}};
    for (uint8_t i = 0; i < codes_per_turn; ++i) {
        stream.places[i] = interleaved ? static_cast<uint8_t>(i / 8 * 8 + i % 8 / 2 + i % 2 * 4) : i;
    }
    return stream;
}

Bytes random_codes(std::mt19937& random, size_t n, int bits) {
    std::uniform_int_distribution<int> values(0, (1 << bits) - 1);
    Bytes codes(n);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(values(random));
    return codes;
}

// The bits of `codes` by the definition, one at a time.
Bytes words_by_definition(const Stream& stream, const Bytes& codes) {
    Bytes words(4 * words_of(codes.size(), stream.bits));
    for (size_t i = 0; i < codes.size(); ++i) {
        const size_t place = i / codes_per_turn * codes_per_turn + stream.places[i % codes_per_turn];
        for (size_t bit = 0; bit < size_t(stream.bits); ++bit) {
            const size_t at = place * size_t(stream.bits) + bit;
            words[at / 8] |= static_cast<uint8_t>((codes[i] >> bit & 1) << at % 8);
        }
    }
    return words;
}

void test_rows(const WordPacker& packer, const std::string& law) {
    std::mt19937 random(21);
    for (int bits = 1; bits <= 8; ++bits) {
        for (const size_t n : {1, 7, 8, 9, 31, 32, 33, 63, 511, 512, 520, 1041}) {
            const Bytes codes = random_codes(random, n, bits);
            Bytes words(4 * words_of(n, bits)), again(n);
            packer.pack_row(bits, codes.data(), n, words.data());
            expect(words == words_by_definition(stream_of(bits, false), codes), law + " packs rows");
            packer.unpack_row(bits, words.data(), n, again.data());
            expect(again == codes, law + " unpacks rows");
        }
    }
}

void test_columns(const WordPacker& packer, const Stream& stream, const std::string& law) {
    std::mt19937 random(22);
    for (const size_t rows : {1, 8, 31, 32, 40, 128, 130}) {
        if (stream.places[1] != 1 && rows % 8 != 0) continue;  // eight codes are interleaved, or none
        for (const size_t cols : {1, 15, 16, 17, 64}) {
            const Bytes codes = random_codes(random, rows * cols, stream.bits);
            Bytes words(4 * words_of(rows, stream.bits) * cols), again(rows * cols);
            packer.pack_columns(stream, {codes.data(), cols}, rows, cols, {words.data(), 4 * cols});
            Bytes last_column(rows);
            for (size_t row = 0; row < rows; ++row) last_column[row] = codes[row * cols + cols - 1];
            const Bytes expected = words_by_definition(stream, last_column);
            bool equal = true;
            for (size_t i = 0; i < expected.size(); ++i) {
                equal = equal && words[(i / 4 * cols + cols - 1) * 4 + i % 4] == expected[i];
            }
            expect(equal, law + " packs columns");
            packer.unpack_columns(stream, {words.data(), 4 * cols}, rows, cols, {again.data(), cols});
            expect(again == codes, law + " unpacks columns");
        }
    }
}

void test_turning(const WordPacker& packer, const std::string& law) {
    std::mt19937 random(23);
    for (const size_t rows : {1, 3, 4, 7, 16}) {
        for (const size_t cols : {1, 4, 6, 16}) {
            const Bytes words = random_codes(random, 1 + 4 * rows * cols, 8);  // from the second byte on
            Bytes turned(4 * rows * cols), again(4 * rows * cols);
            packer.turn({words.data() + 1, 4 * cols}, rows, cols, {turned.data(), 4 * rows});
            packer.turn({turned.data(), 4 * rows}, cols, rows, {again.data(), 4 * cols});
            const bool moved = std::equal(turned.end() - 4, turned.end(), words.end() - 4) &&
                               (rows == 1 || std::equal(turned.begin() + 4, turned.begin() + 8,
                                                        words.begin() + 1 + std::ptrdiff_t(4 * cols)));
            expect(moved && std::equal(again.begin(), again.end(), words.begin() + 1), law + " turns words");
        }
    }
}

void test_matrices(const WordLayout& layout, const std::string& law) {
    std::mt19937 random(24);
    for (const auto& [rows, cols] : {std::pair<size_t, size_t>{32, 32}, {136, 72}, {72, 1064}}) {
        Bytes codes = random_codes(random, rows * cols, layout.stream.bits);
        for (uint8_t& code : codes) code = static_cast<uint8_t>(code + layout.lowest);
        const size_t streams = layout.down_columns ? cols : rows;
        Bytes words(4 * streams * words_per_stream(layout, rows, cols)), alone(words.size()), again(codes.size());
        expect(!pack_words(layout, codes.data(), rows, cols, words.data(), 3), law + " packs");
        expect(!pack_words(layout, codes.data(), rows, cols, alone.data(), 1) && words == alone,
               law + " does not depend on threads");
        unpack_words(layout, words.data(), rows, cols, again.data(), 3);
        expect(again == codes, law + " unpacks");
        if (layout.stream.bits == 8) continue;
        codes[17 * cols + 3] = codes[20 * cols] = static_cast<uint8_t>(layout.lowest + (1 << layout.stream.bits));
        const auto refused = pack_words(layout, codes.data(), rows, cols, words.data(), 3);
        expect(refused && refused->row == 17 && refused->col == 3, law + " names the first bad position");
    }
}

}  // namespace

void words_laws() {
    for (const Isa isa : runnable_isas()) {
        const WordPacker& packer = on(isa, []<Isa one>() -> const WordPacker& { return word_packer<one>(); });
        const std::string law = std::string("words on ") + name(isa);
        test_rows(packer, law);
        for (int bits = 1; bits <= 8; ++bits) test_columns(packer, stream_of(bits, false), law);
        test_columns(packer, stream_of(4, true), law + " interleaved");
        test_turning(packer, law);
    }
    for (int bits = 1; bits <= 8; ++bits) {
        for (const bool down_columns : {false, true}) {
            for (const bool turned : {false, true}) {
                const std::string law = "words of " + std::to_string(bits) + " bits";
                test_matrices({stream_of(bits, false), down_columns, turned, 0, -1}, law);
                test_matrices({stream_of(bits, false), down_columns, turned, -(1 << (bits - 1)), 0}, law + ", signed");
            }
        }
    }
}

}  // namespace quantmill
