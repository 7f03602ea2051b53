#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "differences/span.h"
#include "dispatch.h"
#include "float16.h"
#include "laws.h"

namespace quantmill {
namespace {

const DifferenceKernels& differences_on(Isa isa) {
    return on(isa, []<Isa picked>() -> const DifferenceKernels& { return difference_kernels<picked>(); });
}

// As they stand in a checkpoint, one byte into a buffer of exactly their size.
std::vector<uint8_t> stored(const std::vector<float>& values, Source source) {
    std::vector<uint8_t> bytes(1 + values.size() * size_of(source));
    for (size_t i = 0; i < values.size(); ++i) {
        uint8_t* const to = bytes.data() + 1 + i * size_of(source);
        const Half half = to_half(values[i]);
        const Bfloat bfloat = to_bfloat(values[i]);
        switch (source) {
            case Source::float32: std::memcpy(to, &values[i], sizeof(float)); break;
            case Source::float16: std::memcpy(to, &half, sizeof half); break;
            case Source::bfloat16: std::memcpy(to, &bfloat, sizeof bfloat); break;
        }
    }
    return bytes;
}

bool same(const Differences& a, const Differences& b) {
    return a.squared_error == b.squared_error && a.squared_source == b.squared_source && a.product == b.product &&
           a.largest == b.largest && a.worst.start == b.worst.start && a.worst.squares == b.worst.squares &&
           a.worst.allowed == b.worst.allowed;
}

void test_spans(Isa isa, const std::string& law) {
    std::mt19937 random(41);
    for (const size_t n : {1, 15, 16, 17, 512, 513, 1100}) {
        std::vector<float> values = noise(random, n, 0.02f);
        for (const Source source : {Source::float32, Source::float16, Source::bfloat16}) {
            const std::vector<uint8_t> sources = stored(noise(random, n, 0.02f), source);
            for (const size_t block : {1, 7, 32, 600}) {
                const DifferenceBound bound = {block, 2 * block, 0.1, 0.01, 1e-3};
                const Differences found = differences_on(isa).span(values.data(), source, sources.data() + 1, n, bound);
                const Differences expected =
                    differences_on(Isa::scalar).span(values.data(), source, sources.data() + 1, n, bound);
                expect(same(found, expected), law + " finds the scalar differences");
            }
        }
        values[n / 2] = std::numeric_limits<float>::infinity();
        const std::vector<uint8_t> zeros(4 * n);
        const Differences found = differences_on(isa).span(values.data(), Source::float32, zeros.data(), n, {8, 8, 0, 0, 0});
        expect(found.not_finite == 1 && std::isnan(found.squared_error), law + " counts what is not finite");
    }
}

}  // namespace

void difference_laws() {
    for (const Isa isa : runnable_isas()) test_spans(isa, name(isa));
}

}  // namespace quantmill
