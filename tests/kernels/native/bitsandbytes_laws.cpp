#include "bitsandbytes.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bitsandbytes/int8_rows.h"
#include "dispatch.h"
#include "laws.h"
#include "nested_absmax.h"

namespace quantmill {
namespace {

using Bytes = std::vector<uint8_t>;
using FloatVector = std::vector<float>;

constexpr Source sources[] = {Source::float32, Source::float16, Source::bfloat16};

const FourBits& four_bits_on(Isa isa) {
    return on(isa, []<Isa one>() -> const FourBits& { return four_bits<one>(); });
}
const Int8Row& int8_row_on(Isa isa) {
    return on(isa, []<Isa one>() -> const Int8Row& { return int8_row<one>(); });
}

// Finite values one byte into the buffer: they may stand at any address.
Bytes stored(std::mt19937& random, Source source, size_t n) {
    Bytes bytes(1 + n * size_of(source));
    std::uniform_int_distribution<int> any(0, 255);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(any(random));
    // Away from the largest exponent, and near 1, so that blocks have values of one magnitude.
    for (size_t i = 0; i < n; ++i) {
        uint8_t& highest = bytes[(i + 1) * size_of(source)];
        highest = static_cast<uint8_t>((highest & 0x80) | (source == Source::float16 ? 0x38 : 0x3F));
    }
    return bytes;
}

size_t blocks_of(size_t n, size_t block_size) { return (n + block_size - 1) / block_size; }

void test_four_bits(const FourBits& kernels, const FourBits& scalar, const std::string& law) {
    std::mt19937 random(31);
    for (const size_t block_size : {32, 64, 4096}) {
        for (const size_t n : {1, 2, 31, 33, 64, 95, 4096, 4131, 12289}) {
            for (const Source source : sources) {
                const Bytes values = stored(random, source, n);
                for (const QuantType type : {QuantType::nf4, QuantType::fp4}) {
                    const size_t blocks = blocks_of(n, block_size);
                    Bytes packed((n + 1) / 2), expected(packed.size());
                    FloatVector absmax(blocks), expected_absmax(blocks), decoded(n), expected_decoded(n);
                    const size_t done = kernels.encode(type, source, values.data() + 1, n, block_size, packed.data(),
                                                       absmax.data());
                    scalar.encode(type, source, values.data() + 1, n, block_size, expected.data(),
                                  expected_absmax.data());
                    const bool equal = packed == expected && absmax == expected_absmax;
                    expect(done == blocks && equal, law + " encodes as scalar does");
                    kernels.decode(type, packed.data(), absmax.data(), n, block_size, decoded.data());
                    scalar.decode(type, packed.data(), absmax.data(), n, block_size, expected_decoded.data());
                    expect(decoded == expected_decoded, law + " decodes as scalar does");
                }
            }
        }
    }
}

// All float32 of magnitude at most 1, in steps: the place of each among the bounds.
void test_places(const FourBits& kernels, const FourBits& scalar, const std::string& law) {
    for (const QuantType type : {QuantType::nf4, QuantType::fp4}) {
        FloatVector values;
        for (uint32_t bits = 0; bits <= 0x3F800000u; bits += 9973) {
            values.push_back(std::bit_cast<float>(bits));
            values.push_back(-values.back());
            if (values.size() % 64 == 62) values.insert(values.end(), {1.0f, -1.0f});
        }
        values.resize(values.size() / 64 * 64);
        const size_t n = values.size();
        Bytes packed(n / 2), expected(n / 2);
        FloatVector absmax(n / 64);
        kernels.encode(type, Source::float32, values.data(), n, 64, packed.data(), absmax.data());
        scalar.encode(type, Source::float32, values.data(), n, 64, expected.data(), absmax.data());
        expect(packed == expected, law + " places every value as scalar does");
    }
}

void test_int8_rows(const Int8Row& kernels, const Int8Row& scalar, const std::string& law) {
    std::mt19937 random(32);
    for (const size_t n : {1, 15, 16, 17, 64, 100, 1029}) {
        for (const Source source : sources) {
            const Bytes values = stored(random, source, n);
            std::vector<int8_t> codes(n), expected(n);
            const float absmax = kernels.encode(source, values.data() + 1, n, codes.data());
            const bool same_absmax = absmax == scalar.encode(source, values.data() + 1, n, expected.data());
            expect(same_absmax && codes == expected, law + " encodes rows as scalar does");
            FloatVector decoded(n), expected_decoded(n);
            kernels.decode(codes.data(), absmax, n, decoded.data());
            scalar.decode(codes.data(), absmax, n, expected_decoded.data());
            expect(decoded == expected_decoded, law + " decodes rows as scalar does");
        }
    }
    for (const float value : {0.0f, 1e-45f, 1e-38f, 3.7e-37f, 3.8e-37f, 1e38f}) {
        const FloatVector row(37, value);
        std::vector<int8_t> codes(37, 1);
        kernels.encode(Source::float32, row.data(), row.size(), codes.data());
        expect(codes[0] == (value > 3.75e-37f ? 127 : 0) && codes[36] == codes[0], law + " has codes for any absmax");
    }
}

void test_what_is_not_finite(const FourBits& kernels, const Int8Row& rows, const std::string& law) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        for (const size_t at : {0, 70, 163, 195}) {
            FloatVector values(196, 1.0f), absmax(4);
            values[at] = bad;
            Bytes packed(98);
            const size_t done = kernels.encode(QuantType::nf4, Source::float32, values.data(), values.size(), 64,
                                               packed.data(), absmax.data());
            expect(done == at / 64, law + " stops at the block that is not finite");
            std::vector<int8_t> codes(196);
            const float largest = rows.encode(Source::float32, values.data(), values.size(), codes.data());
            expect(!std::isfinite(largest), law + " finds the row that is not finite");
        }
    }
}

void test_matrices() {
    std::mt19937 random(33);
    const size_t rows = 300, cols = 701, n = rows * cols;
    FloatVector values = noise(random, n, 0.02f), absmax(blocks_of(n, 64)), alone(absmax.size()), decoded(n), again(n);
    Bytes packed((n + 1) / 2), packed_alone(packed.size());
    const auto encoded = [&](Bytes& bytes, FloatVector& scales, size_t threads) {
        return encode_4bit_matrix(QuantType::nf4, Source::float32, values.data(), n, 64, bytes.data(), scales.data(),
                                  threads);
    };
    const bool stored_all = !encoded(packed, absmax, 4) && !encoded(packed_alone, alone, 1);
    expect(stored_all && packed == packed_alone && absmax == alone, "4-bit blocks do not depend on threads");
    decode_4bit_matrix(QuantType::nf4, packed.data(), absmax.data(), n, 64, decoded.data(), 4);
    decode_4bit_matrix(QuantType::nf4, packed.data(), absmax.data(), n, 64, again.data(), 1);
    expect(decoded == again, "values of 4-bit blocks do not depend on threads");

    std::vector<int8_t> codes(n);
    FloatVector row_absmax(rows);
    expect(!encode_int8_matrix(Source::float32, values.data(), rows, cols, codes.data(), row_absmax.data(), 4),
           "int8 rows are encoded");
    decode_int8_matrix(codes.data(), row_absmax.data(), rows, cols, decoded.data(), 4);
    bool close = true;
    for (size_t i = 0; i < n; ++i) close &= std::fabs(decoded[i] - values[i]) <= row_absmax[i / cols] / 253.9f;
    expect(close, "int8 rows are within half a step");

    values[77 * cols + 3] = values[77 * cols + 5] = std::numeric_limits<float>::quiet_NaN();
    values[90 * cols] = std::numeric_limits<float>::infinity();
    const auto found = encoded(packed, absmax, 4);
    expect(found && found->index == 77 * cols + 3, "4-bit blocks name the first bad position");
    const auto in_rows = encode_int8_matrix(Source::float32, values.data(), rows, cols, codes.data(),
                                            row_absmax.data(), 4);
    expect(in_rows && in_rows->index == 77 * cols + 3, "int8 rows name the first bad position");
}

void test_nested_absmax() {
    std::mt19937 random(34);
    for (const size_t n : {1, 7, 8, 63, 256, 257, 5000}) {
        for (const float magnitude : {0.0f, 1e-44f, 1e-38f, 0.05f, 1e33f}) {
            FloatVector absmax = noise(random, n, magnitude), nested(blocks_of(n, 256)), read(n);
            double sum = 0.0;
            for (float& value : absmax) sum += value = std::fabs(value);
            const float mean = mean_of(absmax.data(), n);
            expect(std::fabs(mean - sum / double(n)) <= 1e-5 * sum / double(n) + 1e-44, "the mean is the mean");
            Bytes codes(n);
            encode_nested(absmax.data(), n, 256, mean, codes.data(), nested.data());
            decode_nested(codes.data(), nested.data(), n, 256, mean, read.data());
            bool close = true;
            for (size_t i = 0; i < n; ++i) {
                close &= std::fabs(read[i] - absmax[i]) <= nested[i / 256] * 0.0072f + mean * 1e-6f + 1e-40f;
            }
            expect(close || magnitude < 1e-38f, "absmax come back within half a step");
        }
    }
}

}  // namespace

void bitsandbytes_laws() {
    for (const Isa isa : runnable_isas()) {
        const std::string law = std::string("bitsandbytes on ") + name(isa);
        test_four_bits(four_bits_on(isa), four_bits_on(Isa::scalar), law);
        test_places(four_bits_on(isa), four_bits_on(Isa::scalar), law);
        test_int8_rows(int8_row_on(isa), int8_row_on(Isa::scalar), law);
        test_what_is_not_finite(four_bits_on(isa), int8_row_on(isa), law);
    }
    test_matrices();
    test_nested_absmax();
}

}  // namespace quantmill
