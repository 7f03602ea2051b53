#include "bitsandbytes/four_bits.h"

#include <cstring>

#include "bitsandbytes/code_book.h"
#include "bitsandbytes/pairs.h"
#include "bitsandbytes/stored.h"
#include "unit.h"

namespace quantmill {
namespace {

constexpr float least_absmax = 1e-38f;

// Asks for the source a page ahead of its use: what is not in a cache takes 1.6 times as long if the machine is left to
// find out by itself.
template <typename Stored>
void ask_ahead(const Stored* values) {
    constexpr size_t page = 4096, line = 64;
    for (size_t i = 0; i < pair_values * sizeof(Stored); i += line) {
        __builtin_prefetch(reinterpret_cast<const uint8_t*>(values) + page + i);
    }
}

float at_least(float value, float least) { return value < least ? least : value; }

template <const CodeBook& book, typename Stored>
void encode_pairs(const Stored* values, float factor, uint8_t* bytes) {
    const Pairs pairs = pairs_of(values);
    store_codes<book>(places<book>(pairs.even * factor), places<book>(pairs.odd * factor), bytes);
}

// The last block, when it is shorter. What is missing to a whole byte counts as zero.
template <const CodeBook& book, typename Stored>
void encode_rest(const Stored* values, size_t n, float absmax, uint8_t* packed) {
    for (size_t i = 0; i < n; i += pair_values) {
        const size_t taken = n - i < pair_values ? n - i : pair_values;
        Single scaled[pair_values] = {};
        for (size_t j = 0; j < taken; ++j) scaled[j] = std::bit_cast<Single>(to_float(values[i + j]) / absmax);
        uint8_t bytes[pair_values / 2];
        encode_pairs<book>(scaled, 1.0f, bytes);
        std::memcpy(packed + i / 2, bytes, (taken + 1) / 2);
    }
}

template <const CodeBook& book, typename Stored>
size_t encode_stored(const void* values, size_t n, size_t block_size, uint8_t* packed, float* absmax) {
    const Stored* const stored = static_cast<const Stored*>(values);
    const size_t blocks = n / block_size, rest = n % block_size;
    for (size_t block = 0; block < blocks; ++block) {
        const Stored* const x = stored + block * block_size;
        absmax[block] = largest_magnitude(x, block_size);
        if (!is_finite(absmax[block])) return block;
        const float inverse = 1.0f / at_least(absmax[block], least_absmax);
        uint8_t* const bytes = packed + block * block_size / 2;
        for (size_t i = 0; i < block_size; i += pair_values) {
            ask_ahead(x + i);
            encode_pairs<book>(x + i, inverse, bytes + i / 2);
        }
    }
    if (rest == 0) return blocks;
    const float largest = largest_magnitude(stored + blocks * block_size, rest);
    if (!is_finite(largest)) return blocks;
    absmax[blocks] = at_least(largest, least_absmax);
    encode_rest<book>(stored + blocks * block_size, rest, absmax[blocks], packed + blocks * block_size / 2);
    return blocks + 1;
}

template <const CodeBook& book>
size_t encode_source(Source source, const void* values, size_t n, size_t block_size, uint8_t* packed, float* absmax) {
    switch (source) {
        case Source::float32: return encode_stored<book, Single>(values, n, block_size, packed, absmax);
        case Source::float16: return encode_stored<book, Half>(values, n, block_size, packed, absmax);
        case Source::bfloat16: return encode_stored<book, Bfloat>(values, n, block_size, packed, absmax);
    }
    return 0;
}

size_t encode(QuantType type, Source source, const void* values, size_t n, size_t block_size, uint8_t* packed,
              float* absmax) {
    if (type == QuantType::nf4) return encode_source<nf4_book>(source, values, n, block_size, packed, absmax);
    return encode_source<fp4_book>(source, values, n, block_size, packed, absmax);
}

float decoded(const CodeBook& book, const uint8_t* packed, size_t i) {
    return book.values[i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15];
}

void decode(QuantType type, const uint8_t* packed, const float* absmax, size_t n, size_t block_size, float* values) {
    const CodeBook& book = type == QuantType::nf4 ? nf4_book : fp4_book;
    for (size_t first = 0; first < n; first += block_size) {
        const size_t last = n - first < block_size ? n : first + block_size;
        const float scale = absmax[first / block_size];
        size_t i = first;
        for (; i + lanes <= last; i += lanes) store(decode_pairs(book, packed + i / 2) * scale, values + i);
        for (; i < last; ++i) values[i] = decoded(book, packed, i) * scale;
    }
}

constexpr FourBits kernels = {encode, decode};

}  // namespace

template <>
const FourBits& four_bits<unit>() {
    return kernels;
}

}  // namespace quantmill
