#include "hqq.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "laws.h"

namespace quantmill {
namespace {

const HalfQuadratic& solver_of(Isa isa) {
    return on(isa, []<Isa unit>() -> const HalfQuadratic& { return half_quadratic<unit>(); });
}

const RowPacker& packer_of(Isa isa) {
    return on(isa, []<Isa unit>() -> const RowPacker& { return row_packer<unit>(); });
}

struct Solved {
    bool solved;
    std::vector<uint8_t> codes;
    std::vector<float> scale, zero;
    bool operator==(const Solved&) const = default;
};

// With buffers of exactly the stated sizes.
Solved solve(const HalfQuadratic& solver, const HqqGroups& groups, const HqqSettings& settings) {
    std::vector<HqqLine> lines(groups.size);
    std::vector<float> widened(16 * groups.size);
    Solved result{false, std::vector<uint8_t>(groups.count * groups.size), std::vector<float>(groups.count),
                  std::vector<float>(groups.count)};
    result.solved = solver.solve(groups, settings, 0, groups.count, {lines.data(), widened.data()},
                                 {result.codes.data(), result.scale.data(), result.zero.data()});
    return result;
}

// Groups whose range is nothing, subnormal, far from zero, or as large as can be.
std::vector<float> values_of(std::mt19937& random, size_t count, size_t size) {
    std::vector<float> values;
    const float magnitudes[] = {0.02f, 1e-44f, 1e-38f, 1e-20f, 1e-4f, 1.0f, 1e3f};
    for (size_t group = 0; group < count; ++group) {
        std::vector<float> group_values = noise(random, size, magnitudes[group % std::size(magnitudes)]);
        if (group % 9 == 4) group_values.assign(size, -7e-3f);
        if (group % 9 == 5) group_values.assign(size, 0.0f);
        if (group % 9 == 6) group_values.back() = -3e4f;
        if (group % 9 == 7) {
            for (float& value : group_values) value = 1.0f + 1e-6f * value;
        }
        for (float& value : group_values) value = std::fmin(std::fmax(value, -32752.0f), 32752.0f);
        values.insert(values.end(), group_values.begin(), group_values.end());
    }
    return values;
}

void test_solving(Isa isa) {
    std::mt19937 random(31);
    const std::string law = std::string("hqq on ") + name(isa);
    for (const size_t size : {1, 8, 24, 600}) {
        for (const size_t count : {1, 16, 19}) {
            const std::vector<float> values = values_of(random, count, size);
            for (const int axis : {0, 1}) {
                const HqqGroups groups{Source::float32, values.data(), count, size, axis};
                for (const int nbits : {1, 4, 8}) {
                    for (const Source dtype : {Source::float32, Source::float16, Source::bfloat16}) {
                        const HqqSettings settings{nbits, 0.7f, 10.0f, 1.01f, 5, nbits == 4, dtype};
                        const Solved solved = solve(solver_of(isa), groups, settings);
                        expect(solved.solved, law + " takes finite values");
                        expect(solved == solve(solver_of(Isa::scalar), groups, settings), law + " solves as scalar does");
                        bool finite = true;
                        for (const float scale : solved.scale) finite &= std::isfinite(scale) && scale > 0.0f;
                        for (const float zero : solved.zero) finite &= std::isfinite(zero);
                        expect(finite, law + " gives finite scales and zeros");
                    }
                }
            }
        }
    }
}

void test_16_bit_sources_at_any_address(Isa isa) {
    const std::vector<uint8_t> halves(2 * 40 * 17 + 1, 0x11);
    for (const Source source : {Source::float16, Source::bfloat16}) {
        for (const int axis : {0, 1}) {
            const HqqGroups groups{source, halves.data() + 1, 17, 40, axis};
            const Solved solved = solve(solver_of(isa), groups, {3, 0.7f, 10.0f, 1.01f, 20, false, Source::float32});
            expect(solved.solved, std::string("hqq reads 16-bit sources at any address on ") + name(isa));
        }
    }
}

void test_packing(Isa isa) {
    std::mt19937 random(32);
    const RowPacker& packer = packer_of(isa);
    for (const RowPacking& packing : row_packings) {
        const std::string law = std::string(packing.name) + " on " + name(isa);
        std::uniform_int_distribution<int> any(0, (1 << packing.bits) - 1);
        for (const size_t cols : {1, 16, 71}) {
            const size_t rows = packing.padded ? 3 * packing.parts - 4 : 3 * packing.parts;
            const PackedRows shape = packed_rows_of(packing, rows, cols);
            std::vector<uint8_t> codes(rows * cols), packed(shape.packed_rows * cols * packing.word_bytes), again(codes);
            for (uint8_t& code : codes) code = static_cast<uint8_t>(any(random));
            expect(packer.pack(shape, codes.data(), 0, shape.packed_rows, packed.data()), law + " packs codes that fit");
            packer.unpack(shape, packed.data(), 0, shape.packed_rows, again.data());
            expect(again == codes, law + " unpacks what it packed");
            for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
            packer.unpack(shape, packed.data(), 0, shape.packed_rows, again.data());
            bool fit = true;
            for (const uint8_t code : again) fit &= code >> packing.bits == 0;
            expect(fit, law + " unpacks any bits to codes");
        }
    }
}

void test_matrices() {
    std::mt19937 random(33);
    const size_t count = 500, size = 64;
    std::vector<float> values = noise(random, count * size, 0.02f);
    for (const int axis : {0, 1}) {
        const HqqGroups groups{Source::float32, values.data(), count, size, axis};
        const HqqSettings settings{4, 0.7f, 10.0f, 1.01f, 20, false, Source::float16};
        Solved by_four = solve(solver_of(isa_in_use()), groups, settings), alone = by_four;
        by_four.codes.assign(count * size, 0);
        const HqqResult result{by_four.codes.data(), by_four.scale.data(), by_four.zero.data()};
        expect(!solve_hqq(groups, settings, result, 4) && by_four == alone, "hqq does not depend on threads");
        std::vector<float> decoded(count * size);
        const HqqStored stored{alone.codes.data(), alone.scale.data(), alone.zero.data()};
        decode_hqq(stored, axis, axis == 1 ? count : size, axis == 1 ? size : count, decoded.data(), 3);
        bool near = true;
        for (size_t i = 0; i < values.size(); ++i) near &= std::fabs(decoded[i] - values[i]) < 0.5f;
        expect(near, "hqq decodes to values near the source");
    }
    values[7777] = std::numeric_limits<float>::quiet_NaN();
    values[20000] = std::numeric_limits<float>::infinity();
    for (const int axis : {0, 1}) {
        std::vector<uint8_t> codes(count * size);
        std::vector<float> scale(count), zero(count);
        const auto refused = solve_hqq({Source::float32, values.data(), count, size, axis},
                                       {4, 0.7f, 10.0f, 1.01f, 20, false, Source::float32},
                                       {codes.data(), scale.data(), zero.data()}, 4);
        expect(refused && refused->index == 7777, "hqq names the first bad position");
    }
}

}  // namespace

void hqq_laws() {
    for (const Isa isa : runnable_isas()) {
        test_solving(isa);
        test_16_bit_sources_at_any_address(isa);
        test_packing(isa);
    }
    test_matrices();
}

}  // namespace quantmill
