#include "bitsandbytes.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <mutex>
#include <vector>

#include "bitsandbytes/code_book.h"
#include "bitsandbytes/int8_rows.h"
#include "dispatch.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t values_per_range = 1 << 16;  // what a thread takes at a time

size_t grain(size_t values_each) { return std::max<size_t>(1, values_per_range / std::max<size_t>(1, values_each)); }

const FourBits& four_bits_in_use() {
    return on(isa_in_use(), []<Isa isa>() -> const FourBits& { return four_bits<isa>(); });
}

const Int8Row& int8_row_in_use() {
    return on(isa_in_use(), []<Isa isa>() -> const Int8Row& { return int8_row<isa>(); });
}

const uint8_t* at(Source source, const void* values, size_t index) {
    return static_cast<const uint8_t*>(values) + index * size_of(source);
}

// Among the `n` values from `first` on, one of which is not finite.
NotFinite not_finite_in(Source source, const void* values, size_t first, size_t n) {
    const SourceReader& reader =
        on(isa_in_use(), []<Isa isa>() -> const SourceReader& { return source_reader<isa>(); });
    std::vector<float> widened(n);
    reader.widen(source, at(source, values, first), n, widened.data());
    const size_t i = reader.first_unstorable(widened.data(), n, FLT_MAX);
    return {first + i, widened[i]};
}

// Keeps the first of those that the threads find.
class First {
public:
    void keep(const NotFinite& found) {
        const std::lock_guard lock(guards_first);
        if (!first || found.index < first->index) first = found;
    }
    std::optional<NotFinite> get() const { return first; }

private:
    std::mutex guards_first;
    std::optional<NotFinite> first;
};

}  // namespace

std::span<const float, 16> quant_map(QuantType type) {
    return type == QuantType::nf4 ? nf4_book.values : fp4_book.values;
}

std::optional<NotFinite> encode_4bit_matrix(QuantType type, Source source, const void* values, size_t n,
                                            size_t block_size, uint8_t* packed, float* absmax, size_t threads) {
    const FourBits& kernels = four_bits_in_use();
    First first;
    for_rows((n + block_size - 1) / block_size, grain(block_size), threads, [&](size_t begin, size_t end) {
        const size_t index = begin * block_size, count = std::min(n, end * block_size) - index;
        const size_t done = begin + kernels.encode(type, source, at(source, values, index), count, block_size,
                                                   packed + index / 2, absmax + begin);
        if (done == end) return true;
        const size_t bad = done * block_size;
        first.keep(not_finite_in(source, values, bad, std::min(n - bad, block_size)));
        return false;
    });
    return first.get();
}

void decode_4bit_matrix(QuantType type, const uint8_t* packed, const float* absmax, size_t n, size_t block_size,
                        float* values, size_t threads) {
    const FourBits& kernels = four_bits_in_use();
    for_rows((n + block_size - 1) / block_size, grain(block_size), threads, [&](size_t begin, size_t end) {
        const size_t index = begin * block_size, count = std::min(n, end * block_size) - index;
        kernels.decode(type, packed + index / 2, absmax + begin, count, block_size, values + index);
        return true;
    });
}

std::optional<NotFinite> encode_int8_matrix(Source source, const void* values, size_t rows, size_t cols, int8_t* codes,
                                            float* absmax, size_t threads) {
    const Int8Row& kernels = int8_row_in_use();
    First first;
    for_rows(rows, grain(cols), threads, [&](size_t begin, size_t end) {
        for (size_t row = begin; row < end; ++row) {
            absmax[row] = kernels.encode(source, at(source, values, row * cols), cols, codes + row * cols);
            if (std::isfinite(absmax[row])) continue;
            first.keep(not_finite_in(source, values, row * cols, cols));
            return false;
        }
        return true;
    });
    return first.get();
}

void decode_int8_matrix(const int8_t* codes, const float* absmax, size_t rows, size_t cols, float* values,
                        size_t threads) {
    const Int8Row& kernels = int8_row_in_use();
    for_rows(rows, grain(cols), threads, [&](size_t begin, size_t end) {
        for (size_t row = begin; row < end; ++row) {
            kernels.decode(codes + row * cols, absmax[row], cols, values + row * cols);
        }
        return true;
    });
}

}  // namespace quantmill
