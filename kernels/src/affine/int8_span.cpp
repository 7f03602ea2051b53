#include "int8_span.h"

#include "../lanes.h"
#include "../stored.h"
#include "../unit.h"

namespace quantmill {
namespace {

template <Source source>
inline int32_t ordered_at(const void* values, size_t i) {
    return ordered(std::bit_cast<int32_t>(value_at<source>(values, i)));
}

template <Source source>
OrderedRange range_from(const void* values, size_t n) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (size_t i = 0; i < n; ++i) {
        const int32_t value = ordered_at<source>(values, i);
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
    return {low, high};
}

template <Source source>
void fold_ranges_from(const void* values, size_t n, OrderedRange* __restrict ranges) {
    for (size_t i = 0; i < n; ++i) {
        const int32_t value = ordered_at<source>(values, i);
        ranges[i].low = value < ranges[i].low ? value : ranges[i].low;
        ranges[i].high = value > ranges[i].high ? value : ranges[i].high;
    }
}

// One scale for all, or one for each.
inline AffineScale at(AffineScale affine, size_t) { return affine; }
inline AffineScale at(const AffineScale* affine, size_t i) { return affine[i]; }

template <Source source, typename Affine>
void encode_from(const void* values, size_t n, Affine affine, bool is_signed, uint8_t* __restrict codes) {
    const float lowest = is_signed ? -128.0f : 0.0f, highest = lowest + 255.0f;
    for (size_t i = 0; i < n; ++i) {
        const AffineScale one = at(affine, i);
        const float code = nearest(value_at<source>(values, i) / one.scale) + one.zero_point;
        const float raised = code > lowest ? code : lowest;
        codes[i] = static_cast<uint8_t>(static_cast<int32_t>(raised < highest ? raised : highest));
    }
}

template <typename Code, typename Affine>
void decode_codes(const uint8_t* codes, size_t n, Affine affine, float* __restrict values) {
    for (size_t i = 0; i < n; ++i) {
        const AffineScale one = at(affine, i);
        values[i] = (static_cast<float>(static_cast<Code>(codes[i])) - one.zero_point) * one.scale;
    }
}

OrderedRange range(Source source, const void* values, size_t n) {
    switch (source) {
        case Source::float32: return range_from<Source::float32>(values, n);
        case Source::float16: return range_from<Source::float16>(values, n);
        case Source::bfloat16: return range_from<Source::bfloat16>(values, n);
    }
    return {};
}

void fold_ranges(Source source, const void* values, size_t n, OrderedRange* ranges) {
    switch (source) {
        case Source::float32: return fold_ranges_from<Source::float32>(values, n, ranges);
        case Source::float16: return fold_ranges_from<Source::float16>(values, n, ranges);
        case Source::bfloat16: return fold_ranges_from<Source::bfloat16>(values, n, ranges);
    }
}

template <typename Affine>
void encode(Source source, const void* values, size_t n, Affine affine, bool is_signed, uint8_t* codes) {
    switch (source) {
        case Source::float32: return encode_from<Source::float32>(values, n, affine, is_signed, codes);
        case Source::float16: return encode_from<Source::float16>(values, n, affine, is_signed, codes);
        case Source::bfloat16: return encode_from<Source::bfloat16>(values, n, affine, is_signed, codes);
    }
}

template <typename Affine>
void decode(const uint8_t* codes, size_t n, Affine affine, bool is_signed, float* values) {
    if (is_signed) return decode_codes<int8_t>(codes, n, affine, values);
    decode_codes<uint8_t>(codes, n, affine, values);
}

constexpr Int8Kernels kernels = {range,
                                 fold_ranges,
                                 encode<AffineScale>,
                                 encode<const AffineScale*>,
                                 decode<AffineScale>,
                                 decode<const AffineScale*>};

}  // namespace

template <>
const Int8Kernels& int8_kernels<unit>() {
    return kernels;
}

}  // namespace quantmill
