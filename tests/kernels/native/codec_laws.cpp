#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "codec.h"
#include "laws.h"
#include "rows.h"

namespace quantmill {
namespace {

// Rows that make a scale zero, subnormal, negative, flat or barely finite.
std::vector<std::vector<float>> rows_of(std::mt19937& random, size_t n, float largest) {
    std::vector<std::vector<float>> rows;
    for (const float magnitude : {1e-44f, 1e-38f, 1e-20f, 1e-15f, 1e-8f, 1e-4f, 0.02f, 1.0f, 1e3f}) {
        rows.push_back(noise(random, n, magnitude));
    }
    const float small = std::fmin(largest, 1e30f);
    for (const float value : {0.0f, -0.0f, 1.0f, -1.0f, 0.1f, -7e-6f, 1e-42f, FLT_MIN, small, -small, small / 3}) {
        rows.push_back(std::vector<float>(n, value));
    }
    rows.push_back(noise(random, n, 0.01f));
    rows.back()[n / 2] = small;
    rows.push_back(noise(random, n, 0.01f));
    rows.back()[0] = -small;
    rows.push_back(std::vector<float>(n));
    for (size_t i = 0; i < n; ++i) rows.back()[i] = -1.0f - 1e-6f * static_cast<float>(i % 7);
    for (std::vector<float>& row : rows) {
        for (float& value : row) value = std::fmax(-largest, std::fmin(largest, value));
    }
    return rows;
}

std::vector<std::vector<float>> imatrices_of(std::mt19937& random, size_t n) {
    std::vector<std::vector<float>> imatrices = {std::vector<float>(n, 0.0f), std::vector<float>(n, 1.0f),
                                                 std::vector<float>(n, 1e-30f), std::vector<float>(n, 1e37f)};
    imatrices.push_back(noise(random, n, 1.0f));
    for (float& weight : imatrices.back()) weight *= weight;
    return imatrices;
}

// Blocks begin one byte into the buffer: they may stand at any address.
std::vector<uint8_t> encode(const Codec& codec, const std::vector<float>& row, const float* imatrix) {
    const size_t n_blocks = row.size() / codec.block_values;
    std::vector<uint8_t> packed(1 + n_blocks * codec.block_bytes);
    codec.encode({row.data(), imatrix, 1, n_blocks}, packed.data() + 1);
    return packed;
}

std::vector<float> decode(const Codec& codec, const std::vector<uint8_t>& packed) {
    const size_t n_blocks = (packed.size() - 1) / codec.block_bytes;
    std::vector<float> values(n_blocks * codec.block_values);
    codec.decode(packed.data() + 1, values.data(), n_blocks);
    return values;
}

// One format on every instruction set.
struct Format {
    const Codec& scalar;
    std::vector<std::pair<const Codec*, std::string>> others;

    explicit Format(size_t number) : scalar(codecs_of(Isa::scalar)[number]) {
        for (const Isa isa : runnable_isas()) {
            if (isa == Isa::scalar) continue;
            others.emplace_back(&codecs_of(isa)[number], std::string(scalar.name) + " on " + name(isa));
        }
    }
};

void agree(const Format& format, const std::vector<float>& row, const float* imatrix) {
    const std::vector<uint8_t> packed = encode(format.scalar, row, imatrix);
    const std::vector<float> expected = decode(format.scalar, packed);
    for (const auto& [codec, law] : format.others) {
        expect(encode(*codec, row, imatrix) == packed, law + " encodes as scalar does");
        const std::vector<float> values = decode(*codec, packed);
        const bool equal = std::memcmp(values.data(), expected.data(), values.size() * sizeof(float)) == 0;
        expect(equal, law + " decodes as scalar does");
    }
}

void test_encoding(const Format& format) {
    std::mt19937 random(11);
    const size_t block = format.scalar.block_values;
    for (const size_t n : {block, 512 + block}) {  // sixteen lanes full, and one more
        const auto imatrices = imatrices_of(random, n);
        for (const std::vector<float>& row : rows_of(random, n, format.scalar.largest)) {
            agree(format, row, nullptr);
            for (const std::vector<float>& imatrix : imatrices) agree(format, row, imatrix.data());
        }
    }
}

// Neighbours 76 orders of magnitude apart, subnormals among them.
std::vector<float> any_bits(std::mt19937& random, size_t n, float largest) {
    std::vector<float> row(n);
    for (float& value : row) {
        do value = std::bit_cast<float>(static_cast<uint32_t>(random()));
        while (!(std::fabs(value) <= largest));
    }
    return row;
}

void test_encoding_of_any_values(const Format& format) {
    std::mt19937 random(14);
    for (int round = 0; round < 20; ++round) {
        const std::vector<float> row = any_bits(random, 512, format.scalar.largest);
        std::vector<float> imatrix = any_bits(random, row.size(), FLT_MAX);
        for (float& weight : imatrix) weight = std::fabs(weight);
        agree(format, row, nullptr);
        agree(format, row, imatrix.data());
    }
}

void test_decoding_of_any_bytes(const Format& format) {
    std::mt19937 random(12);
    std::uniform_int_distribution<int> bytes(0, 255);
    for (int round = 0; round < 50; ++round) {
        std::vector<uint8_t> packed(1 + format.scalar.block_bytes * static_cast<size_t>(1 + round % 5));
        for (uint8_t& byte : packed) byte = static_cast<uint8_t>(bytes(random));
        const std::vector<float> expected = decode(format.scalar, packed);
        for (const auto& [codec, law] : format.others) {
            const bool equal = std::ranges::equal(decode(*codec, packed), expected, [](float one, float other) {
                return one == other || (std::isnan(one) && std::isnan(other));
            });
            expect(equal, law + " decodes any bytes as scalar does");
        }
    }
}

void test_rows(const Codec& codec) {
    std::mt19937 random(13);
    const size_t rows = 100, cols = 256, row_bytes = cols / codec.block_values * codec.block_bytes;
    std::vector<float> values = noise(random, rows * cols, 0.02f);
    std::vector<uint8_t> packed(rows * row_bytes), alone(rows * row_bytes);
    const auto by_four = encode_rows(codec, Source::float32, values.data(), rows, cols, nullptr, packed.data(), 4);
    const auto by_one = encode_rows(codec, Source::float32, values.data(), rows, cols, nullptr, alone.data(), 1);
    expect(!by_four && !by_one && packed == alone, std::string(codec.name) + " does not depend on threads");
    std::vector<float> decoded(rows * cols);
    decode_rows(codec, packed.data(), rows, cols, decoded.data(), 4);

    for (const Source source : {Source::float16, Source::bfloat16}) {
        std::vector<uint8_t> halves(rows * cols * 2 + 1, 0x11);
        const auto refused = encode_rows(codec, source, halves.data() + 1, rows, cols, nullptr, packed.data(), 3);
        expect(!refused, std::string(codec.name) + " reads 16-bit sources at any address");
    }

    values[77 * cols + 3] = std::numeric_limits<float>::quiet_NaN();
    values[90 * cols] = std::numeric_limits<float>::infinity();
    const auto refused = encode_rows(codec, Source::float32, values.data(), rows, cols, nullptr, packed.data(), 4);
    const bool named = refused && refused->row == 77 && refused->col == 3;
    expect(named, std::string(codec.name) + " names the first bad position");
}

}  // namespace

void codec_laws() {
    for (size_t number = 0; number < codecs_of(Isa::scalar).size(); ++number) {
        const Format format(number);
        test_encoding(format);
        test_encoding_of_any_values(format);
        test_decoding_of_any_bytes(format);
        for (const auto& [codec, law] : format.others) test_rows(*codec);
        test_rows(format.scalar);
    }
}

}  // namespace quantmill
