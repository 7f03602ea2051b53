#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "float16.h"
#include "fp8.h"
#include "int8_affine.h"
#include "laws.h"
#include "microscaling.h"
#include "small_floats/fp8_tile.h"

namespace quantmill {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr Source sources[] = {Source::float32, Source::float16, Source::bfloat16};

const Fp8Kernels& fp8_on(Isa isa) {
    return on(isa, []<Isa picked>() -> const Fp8Kernels& { return fp8_kernels<picked>(); });
}
const MicroscaledKernels& microscaled_on(Isa isa) {
    return on(isa, []<Isa picked>() -> const MicroscaledKernels& { return microscaled_kernels<picked>(); });
}
const Int8Kernels& int8_on(Isa isa) {
    return on(isa, []<Isa picked>() -> const Int8Kernels& { return int8_kernels<picked>(); });
}

// Finite values as they stand in a checkpoint, one byte into the buffer: they may have any address.
Bytes stored(const std::vector<float>& values, Source source) {
    Bytes bytes(1 + values.size() * size_of(source));
    for (size_t i = 0; i < values.size(); ++i) {
        uint8_t* const to = bytes.data() + 1 + i * size_of(source);
        const Half half = to_half(std::fmax(-6e4f, std::fmin(6e4f, values[i])));
        const Bfloat bfloat = to_bfloat(std::fmax(-3e38f, std::fmin(3e38f, values[i])));
        switch (source) {
            case Source::float32: std::memcpy(to, &values[i], sizeof(float)); break;
            case Source::float16: std::memcpy(to, &half, sizeof half); break;
            case Source::bfloat16: std::memcpy(to, &bfloat, sizeof bfloat); break;
        }
    }
    return bytes;
}

// Values of many magnitudes, flat and zero ones, and ones at the ends of float32.
std::vector<std::vector<float>> rows_of(std::mt19937& random, size_t n) {
    std::vector<std::vector<float>> rows;
    for (const float magnitude : {1e-44f, 1e-38f, 1e-8f, 1e-3f, 0.02f, 1.0f, 448.0f, 1e30f}) {
        rows.push_back(noise(random, n, magnitude));
        for (float& value : rows.back()) value = std::fmax(-FLT_MAX, std::fmin(FLT_MAX, value));
    }
    for (const float value : {0.0f, -0.0f, 1.0f, -0.25f, FLT_MIN, FLT_MAX, -FLT_MAX}) {
        rows.push_back(std::vector<float>(n, value));
    }
    return rows;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void test_fp8(Isa isa, const std::string& law) {
    std::mt19937 random(31);
    const Fp8Kernels& ours = fp8_on(isa);
    const Fp8Kernels& scalar = fp8_on(Isa::scalar);
    for (const size_t n : {1, 15, 16, 17, 64, 131}) {
        for (const std::vector<float>& row : rows_of(random, n)) {
            for (const Source source : sources) {
                const Bytes values = stored(row, source);
                const WeightTile tile = {source, values.data() + 1, 1, n, n};
                expect(ours.absmax(tile) == scalar.absmax(tile), law + " finds the scalar absmax");
                for (const float scale : {1e-40f, 0.0007f, 1.0f, 1e36f}) {
                    Bytes codes(n), expected(n);
                    ours.encode(tile, scale, source, codes.data());
                    scalar.encode(tile, scale, source, expected.data());
                    expect(codes == expected, law + " encodes FP8 in the weights' dtype as scalar does");
                    ours.encode(tile, scale, Source::float32, codes.data());
                    scalar.encode(tile, scale, Source::float32, expected.data());
                    expect(codes == expected, law + " encodes FP8 as scalar does");
                }
            }
        }
    }
}

// Every stored 16-bit value, those that are not finite too, leaves the defined language alone.
void test_every_16_bit_value(Isa isa, const std::string& law) {
    std::vector<uint16_t> every(65536);
    for (size_t i = 0; i < every.size(); ++i) every[i] = static_cast<uint16_t>(i);
    for (const Source source : {Source::float16, Source::bfloat16}) {
        const WeightTile tile = {source, every.data(), 1, every.size(), every.size()};
        expect(!std::isfinite(fp8_on(isa).absmax(tile)), law + " sees what is not finite");
    }
}

void test_groups(Isa isa, const std::string& law) {
    std::mt19937 random(32);
    const MicroscaledKernels& ours = microscaled_on(isa);
    const MicroscaledKernels& scalar = microscaled_on(Isa::scalar);
    for (const size_t n : {32, 96, 1024, 1056}) {
        for (const std::vector<float>& row : rows_of(random, n)) {
            for (const Source source : sources) {
                const Bytes values = stored(row, source);
                Bytes codes(n / 2), expected(n / 2), wide(n), expected_wide(n);
                Bytes scales(n / 16), expected_scales(n / 16), exponents(n / 32), expected_exponents(n / 32);
                for (const float global_scale : {1e-35f, 448.0f, 1e36f}) {
                    ours.encode_nvfp4(source, values.data() + 1, n, global_scale, codes.data(), scales.data());
                    scalar.encode_nvfp4(source, values.data() + 1, n, global_scale, expected.data(),
                                        expected_scales.data());
                    expect(codes == expected && scales == expected_scales, law + " encodes NVFP4 as scalar does");
                }
                ours.encode_mxfp4(source, values.data() + 1, n, codes.data(), exponents.data());
                scalar.encode_mxfp4(source, values.data() + 1, n, expected.data(), expected_exponents.data());
                expect(codes == expected && exponents == expected_exponents, law + " encodes MXFP4 as scalar does");
                ours.encode_mxfp8(source, values.data() + 1, n, wide.data(), exponents.data());
                scalar.encode_mxfp8(source, values.data() + 1, n, expected_wide.data(), expected_exponents.data());
                expect(wide == expected_wide && exponents == expected_exponents, law + " encodes MXFP8 as scalar does");
            }
        }
    }
}

Bytes anything(std::mt19937& random, size_t n) {
    std::uniform_int_distribution<int> bytes(0, 255);
    Bytes random_bytes(n);
    for (uint8_t& byte : random_bytes) byte = static_cast<uint8_t>(bytes(random));
    return random_bytes;
}

// NaN has many bit patterns; which one is not part of a format.
std::vector<float> without_nan(std::vector<float> values) {
    for (float& value : values) value = std::isnan(value) ? 1.5f : value;
    return values;
}

void test_decoding_of_any_bytes(Isa isa, const std::string& law) {
    std::mt19937 random(33);
    const MicroscaledKernels& ours = microscaled_on(isa);
    const MicroscaledKernels& scalar = microscaled_on(Isa::scalar);
    for (const size_t n : {32, 96, 1024, 1120}) {
        const Bytes codes = anything(random, n), scales = anything(random, n / 16);
        std::vector<float> values(n), expected(n);
        const auto agree = [&](const char* what) {
            expect(same(without_nan(values), without_nan(expected)), law + " decodes any " + what + " as scalar does");
        };
        fp8_on(isa).decode(codes.data(), n, 0.3f, values.data());
        fp8_on(Isa::scalar).decode(codes.data(), n, 0.3f, expected.data());
        agree("FP8");
        ours.decode_nvfp4(codes.data(), scales.data(), 3e3f, n, values.data());
        scalar.decode_nvfp4(codes.data(), scales.data(), 3e3f, n, expected.data());
        agree("NVFP4");
        ours.decode_mxfp4(codes.data(), scales.data(), n, values.data());
        scalar.decode_mxfp4(codes.data(), scales.data(), n, expected.data());
        agree("MXFP4");
        ours.decode_mxfp8(codes.data(), scales.data(), n, values.data());
        scalar.decode_mxfp8(codes.data(), scales.data(), n, expected.data());
        agree("MXFP8");
    }
}

void test_int8(Isa isa, const std::string& law) {
    std::mt19937 random(34);
    const Int8Kernels& ours = int8_on(isa);
    const Int8Kernels& scalar = int8_on(Isa::scalar);
    for (const size_t n : {1, 15, 16, 17, 64, 131}) {
        for (const std::vector<float>& row : rows_of(random, n)) {
            for (const Source source : sources) {
                const Bytes values = stored(row, source);
                const OrderedRange range = ours.range(source, values.data() + 1, n);
                const OrderedRange expected_range = scalar.range(source, values.data() + 1, n);
                const bool equal = range.low == expected_range.low && range.high == expected_range.high;
                expect(equal, law + " finds the scalar range");
            }
        }
        const Bytes values = stored(noise(random, n, 10.0f), Source::float32), any = anything(random, n);
        const std::vector<AffineScale> each(n, AffineScale{0.25f, -3.0f});
        for (const bool is_signed : {false, true}) {
            Bytes codes(n), expected(n);
            ours.encode_each(Source::float32, values.data() + 1, n, each.data(), is_signed, codes.data());
            scalar.encode(Source::float32, values.data() + 1, n, each[0], is_signed, expected.data());
            expect(codes == expected, law + " encodes int8 as scalar does");
            std::vector<float> floats(n), expected_floats(n);
            ours.decode_each(any.data(), n, each.data(), is_signed, floats.data());
            scalar.decode(any.data(), n, each[0], is_signed, expected_floats.data());
            expect(same(floats, expected_floats), law + " decodes int8 as scalar does");
        }
    }
}

void test_matrices() {
    std::mt19937 random(35);
    const size_t rows = 150, cols = 160;
    std::vector<float> values = noise(random, rows * cols, 0.02f);
    const Weights weights = {Source::float32, values.data(), rows, cols};
    for (const Fp8Strategy strategy : {Fp8Strategy::tensor, Fp8Strategy::channel, Fp8Strategy::block}) {
        const Fp8Grid grid = fp8_grid(strategy, rows, cols);
        std::vector<float> scales(grid.scale_rows * grid.scale_cols), alone(scales.size()), decoded(rows * cols);
        Bytes codes(rows * cols), expected(rows * cols);
        encode_fp8(weights, strategy, Source::bfloat16, false, scales.data(), codes.data(), 4);
        encode_fp8(weights, strategy, Source::bfloat16, false, alone.data(), expected.data(), 1);
        expect(codes == expected && same(scales, alone), "FP8 does not depend on threads");
        decode_fp8(codes.data(), scales.data(), strategy, rows, cols, decoded.data(), 4);
    }
    for (const AffineAxis axis : {AffineAxis::tensor, AffineAxis::rows, AffineAxis::columns}) {
        std::vector<AffineScale> scales(affine_scales(axis, rows, cols)), alone(scales.size());
        Bytes codes(rows * cols), expected(rows * cols);
        encode_int8_affine(weights, axis, {false, true, false}, codes.data(), scales.data(), 4);
        encode_int8_affine(weights, axis, {false, true, false}, expected.data(), alone.data(), 1);
        expect(codes == expected, "INT8 does not depend on threads");
        std::vector<float> decoded(rows * cols);
        decode_int8_affine(codes.data(), scales.data(), axis, true, rows, cols, decoded.data(), 4);
    }
    Bytes codes(rows * cols / 2), scales(rows * cols / 16);
    std::vector<float> decoded(rows * cols);
    expect(!encode_nvfp4(weights, 448.0f, codes.data(), scales.data(), 4), "NVFP4 takes finite values");
    decode_nvfp4(codes.data(), scales.data(), 448.0f, rows, cols, decoded.data(), 4);

    values[77 * cols + 3] = std::numeric_limits<float>::quiet_NaN();
    values[90 * cols] = std::numeric_limits<float>::infinity();
    const auto refused = encode_nvfp4(weights, 448.0f, codes.data(), scales.data(), 4);
    expect(refused && refused->row == 77 && refused->col == 3, "NVFP4 names the first bad position");
    expect(std::isnan(absmax(weights, 1)), "the largest magnitude is no number where a value is none");
}

}  // namespace

void small_float_laws() {
    for (const Isa isa : runnable_isas()) {
        const std::string law = name(isa);
        test_fp8(isa, law);
        test_every_16_bit_value(isa, law);
        test_groups(isa, law);
        test_decoding_of_any_bytes(isa, law);
        test_int8(isa, law);
    }
    test_matrices();
}

}  // namespace quantmill
