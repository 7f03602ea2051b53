#include "microscaled.h"

#include "../lanes.h"
#include "../precision.h"
#include "../stored.h"
#include "../unit.h"
#include "small_float.h"

namespace quantmill {
namespace {

constexpr size_t chunk_values = 1024;  // widened at a time
constexpr size_t most_groups = chunk_values / nvfp4_group;

// Calls work(first value, widened values, how many) for one chunk after the other.
template <Source source, typename Work>
inline void for_chunks(const void* values, size_t n, const Work& work) {
    float widened[chunk_values];
    for (size_t first = 0; first < n; first += chunk_values) {
        const size_t size = n - first < chunk_values ? n - first : chunk_values;
        widen<source>(static_cast<const uint8_t*>(values) + first * size_of(source), size, widened);
        work(first, widened, size);
    }
}

template <size_t group>
inline void group_absmax(const float* values, size_t groups, float* __restrict largest) {
    for (size_t g = 0; g < groups; ++g) {
        Floats magnitudes = absolute(load(values + g * group));
        for (size_t i = lanes; i < group; i += lanes) {
            magnitudes = larger(magnitudes, absolute(load(values + g * group + i)));
        }
        largest[g] = largest_lane(magnitudes);
    }
}

inline void encode_pairs(const float* values, size_t n, uint8_t* __restrict packed) {
    for (size_t i = 0; i < n / 2; ++i) {
        packed[i] = static_cast<uint8_t>(to_e2m1(values[2 * i]) | to_e2m1(values[2 * i + 1]) << 4);
    }
}

inline void encode_bytes(const float* values, size_t n, uint8_t* __restrict codes) {
    for (size_t i = 0; i < n; ++i) codes[i] = to_e4m3(values[i]);
}

// compressed-tensors divides the largest magnitude by 6 in the dtype of the weights. A scale that rounds to 0 is 0.125.
template <Source source>
inline void nvfp4_scales(const float* largest, size_t groups, float global_scale, uint8_t* __restrict scales,
                         float* __restrict divisors) {
    constexpr int32_t least = 0x20;  // 0.125
    for (size_t g = 0; g < groups; ++g) {
        const int32_t code = magnitude_code<E4M3>(rounded<source>(largest[g] / E2M1::largest) * global_scale);
        scales[g] = static_cast<uint8_t>(code == 0 ? least : code);
        divisors[g] = from_e4m3(scales[g]) / global_scale;
    }
}

template <Source source>
void encode_nvfp4_from(const void* values, size_t n, float global_scale, uint8_t* packed, uint8_t* scales) {
    for_chunks<source>(values, n, [&](size_t first, float* chunk, size_t size) {
        float largest[most_groups], divisors[most_groups];
        const size_t groups = size / nvfp4_group;
        group_absmax<nvfp4_group>(chunk, groups, largest);
        nvfp4_scales<source>(largest, groups, global_scale, scales + first / nvfp4_group, divisors);
        for (size_t g = 0; g < groups; ++g) {
            float* const group = chunk + g * nvfp4_group;
            store(load(group) / all(divisors[g]), group);
        }
        encode_pairs(chunk, size, packed + first / 2);
    });
}

// 2^(exponent - 127); 0 stands for a subnormal, 255 for no number.
inline float power_of_two(uint8_t exponent) {
    const int32_t bits = exponent == 0 ? 1 << 22 : static_cast<int32_t>(exponent) << 23;
    return std::bit_cast<float>(exponent == 255 ? 0x7FC00000 : bits);
}

// The exponent of the largest magnitude, one more from 1.75 times a power of two on, less that of the largest code;
// at least 0. `inverses` are 2^(127 - exponent): multiplying by them is dividing by the scale, exactly.
template <int largest_exponent>
inline void mx_exponents(const float* largest, size_t groups, uint8_t* __restrict exponents,
                         float* __restrict inverses) {
    for (size_t g = 0; g < groups; ++g) {
        const int32_t above = ((std::bit_cast<int32_t>(largest[g]) + (1 << 21)) >> 23) - largest_exponent;
        const int32_t exponent = above > 0 ? above : 0;
        exponents[g] = static_cast<uint8_t>(exponent);
        inverses[g] = std::bit_cast<float>((254 - exponent) << 23);
    }
}

template <Source source, int largest_exponent>
inline void divide_by_powers(float* chunk, size_t size, uint8_t* exponents) {
    float largest[most_groups], inverses[most_groups];
    const size_t groups = size / mx_group;
    group_absmax<mx_group>(chunk, groups, largest);
    mx_exponents<largest_exponent>(largest, groups, exponents, inverses);
    for (size_t g = 0; g < groups; ++g) {
        float* const group = chunk + g * mx_group;
        for (size_t i = 0; i < mx_group; ++i) group[i] = rounded<source>(group[i] * inverses[g]);
    }
}

template <Source source>
void encode_mxfp4_from(const void* values, size_t n, uint8_t* packed, uint8_t* exponents) {
    for_chunks<source>(values, n, [&](size_t first, float* chunk, size_t size) {
        divide_by_powers<source, 2>(chunk, size, exponents + first / mx_group);
        encode_pairs(chunk, size, packed + first / 2);
    });
}

template <Source source>
void encode_mxfp8_from(const void* values, size_t n, uint8_t* codes, uint8_t* exponents) {
    for_chunks<source>(values, n, [&](size_t first, float* chunk, size_t size) {
        divide_by_powers<source, 8>(chunk, size, exponents + first / mx_group);
        encode_bytes(chunk, size, codes + first);
    });
}

void encode_nvfp4(Source source, const void* values, size_t n, float global_scale, uint8_t* packed, uint8_t* scales) {
    switch (source) {
        case Source::float32: return encode_nvfp4_from<Source::float32>(values, n, global_scale, packed, scales);
        case Source::float16: return encode_nvfp4_from<Source::float16>(values, n, global_scale, packed, scales);
        case Source::bfloat16: return encode_nvfp4_from<Source::bfloat16>(values, n, global_scale, packed, scales);
    }
}

void encode_mxfp4(Source source, const void* values, size_t n, uint8_t* packed, uint8_t* exponents) {
    switch (source) {
        case Source::float32: return encode_mxfp4_from<Source::float32>(values, n, packed, exponents);
        case Source::float16: return encode_mxfp4_from<Source::float16>(values, n, packed, exponents);
        case Source::bfloat16: return encode_mxfp4_from<Source::bfloat16>(values, n, packed, exponents);
    }
}

void encode_mxfp8(Source source, const void* values, size_t n, uint8_t* codes, uint8_t* exponents) {
    switch (source) {
        case Source::float32: return encode_mxfp8_from<Source::float32>(values, n, codes, exponents);
        case Source::float16: return encode_mxfp8_from<Source::float16>(values, n, codes, exponents);
        case Source::bfloat16: return encode_mxfp8_from<Source::bfloat16>(values, n, codes, exponents);
    }
}

inline void decode_pairs(const uint8_t* packed, size_t n, float* __restrict values) {
    for (size_t i = 0; i < n / 2; ++i) {
        values[2 * i] = from_e2m1(packed[i] & 15);
        values[2 * i + 1] = from_e2m1(packed[i] >> 4);
    }
}

template <size_t group>
inline void multiply_groups(float* values, size_t groups, const float* scales) {
    for (size_t g = 0; g < groups; ++g) {
        for (size_t i = g * group; i < (g + 1) * group; i += lanes) store(load(values + i) * scales[g], values + i);
    }
}

// `scale_of` gives the scale of a stored one.
template <size_t group, typename ScaleOf>
inline void decode_groups(const uint8_t* packed, const uint8_t* stored, size_t n, float* values,
                          const ScaleOf& scale_of) {
    for (size_t first = 0; first < n; first += chunk_values) {
        const size_t size = n - first < chunk_values ? n - first : chunk_values;
        float scales[most_groups];
        for (size_t g = 0; g < size / group; ++g) scales[g] = scale_of(stored[first / group + g]);
        decode_pairs(packed + first / 2, size, values + first);
        multiply_groups<group>(values + first, size / group, scales);
    }
}

void decode_nvfp4(const uint8_t* packed, const uint8_t* scales, float global_scale, size_t n, float* values) {
    decode_groups<nvfp4_group>(packed, scales, n, values,
                               [=](uint8_t scale) { return from_e4m3(scale) / global_scale; });
}

void decode_mxfp4(const uint8_t* packed, const uint8_t* exponents, size_t n, float* values) {
    decode_groups<mx_group>(packed, exponents, n, values, power_of_two);
}

void decode_mxfp8(const uint8_t* codes, const uint8_t* exponents, size_t n, float* __restrict values) {
    for (size_t g = 0; g < n / mx_group; ++g) {
        const float scale = power_of_two(exponents[g]);
        for (size_t i = g * mx_group; i < (g + 1) * mx_group; ++i) values[i] = from_e4m3(codes[i]) * scale;
    }
}

constexpr MicroscaledKernels kernels = {encode_nvfp4, encode_mxfp4, encode_mxfp8,
                                        decode_nvfp4, decode_mxfp4, decode_mxfp8};

}  // namespace

template <>
const MicroscaledKernels& microscaled_kernels<unit>() {
    return kernels;
}

}  // namespace quantmill
